package pubsub_test

import (
	"context"
	"fmt"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	node, err := postbus.New(intraprocess.New(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	sub, err := pubsub.NewSubscription(node, "/chatter", pubsub.KeepLast(10))
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Publish(ctx, []byte("hello"), transport.WithHeader("Mood", "fine")); err != nil {
		fmt.Println(err)
		return
	}
	msg, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s %d: %s (%s)\n", msg.Name, msg.Info.Sequence, msg.Body, msg.Header.Get("Mood"))
	// Output: /chatter 1: hello (fine)
}

func ExampleSubscription_All() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	sub, _ := pubsub.NewSubscription(node, "/count", pubsub.KeepAll())
	pub, _ := pubsub.NewPublisher(node, "/count")
	for i := range 3 {
		pub.Publish(ctx, fmt.Append(nil, i))
	}
	sub.Close() // the iteration ends when what has arrived is taken
	for msg := range sub.All(ctx) {
		fmt.Println(string(msg.Body))
	}
	// Output:
	// 0
	// 1
	// 2
}

func ExampleSubscription_Handle() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	sub, _ := pubsub.NewSubscription(node, "/chatter")
	sub.Handle(func(_ context.Context, msg *transport.Message) error {
		fmt.Println("heard", string(msg.Body))
		return nil
	})
	pub, _ := pubsub.NewPublisher(node, "/chatter")
	pub.Publish(ctx, []byte("hello"))
	node.Close(ctx) // lets the callback work off what has arrived
	// Output: heard hello
}

func ExampleNewTypedSubscription() {
	type Pose struct{ X, Y float64 }
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)

	sub, _ := pubsub.NewTypedSubscription(node, "/pose", codec.JSON[Pose]())
	pub, _ := pubsub.NewTypedPublisher(node, "/pose", codec.JSON[Pose]())
	pub.Publish(ctx, Pose{X: 1, Y: 2})
	pose, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(pose.Value.X, pose.Value.Y, string(pose.Message.Body))
	// Output: 1 2 {"X":1,"Y":2}
}
