package pubsub_test

import (
	"context"
	"fmt"
	"sync"
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

// A durable subscription goes on where the last one of its name has ended.
func ExampleDurable() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	pub, _ := pubsub.NewPublisher(node, "/orders")

	sub, _ := pubsub.NewSubscription(node, "/orders", pubsub.Durable("billing"))
	pub.Publish(ctx, []byte("one"))
	pub.Publish(ctx, []byte("two"))
	first, _ := sub.Take(ctx)
	fmt.Println("billed:", string(first.Message.Body))
	first.Ack()
	sub.Close() // what was not acknowledged comes again

	pub.Publish(ctx, []byte("three"))
	sub, err := pubsub.NewSubscription(node, "/orders", pubsub.Durable("billing"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		next, _ := sub.Take(ctx)
		fmt.Println("billed:", string(next.Message.Body))
		next.Ack()
	}
	// Output:
	// billed: one
	// billed: two
	// billed: three
}

// The members of a group share the messages, wherever they are.
func ExampleGroup() {
	ctx := context.Background()
	bus := intraprocess.NewBus()
	var done sync.WaitGroup
	var mu sync.Mutex
	handled := make(map[string]int)
	for range 3 {
		node, _ := postbus.New(bus.Attach(), nil)
		defer node.Close(ctx)
		sub, err := pubsub.NewSubscription(node, "/jobs", pubsub.Group("workers"), pubsub.KeepLast(1))
		if err != nil {
			fmt.Println(err)
			return
		}
		done.Add(2)
		sub.Handle(func(_ context.Context, msg *transport.Message) error {
			mu.Lock()
			defer mu.Unlock()
			handled[string(msg.Body)]++
			done.Done()
			return nil
		})
	}
	node, _ := postbus.New(bus.Attach(), nil)
	defer node.Close(ctx)
	pub, _ := pubsub.NewPublisher(node, "/jobs")
	for job := range 6 {
		pub.Publish(ctx, fmt.Append(nil, "job ", job))
	}
	done.Wait()
	fmt.Println(handled)
	// Output: map[job 0:1 job 1:1 job 2:1 job 3:1 job 4:1 job 5:1]
}

// A subscription that comes late gets the newest message from before.
func ExampleLast() {
	ctx := context.Background()
	bus := &intraprocess.Bus{History: 1}
	node, _ := postbus.New(bus.Attach(), nil)
	defer node.Close(ctx)
	pub, _ := pubsub.NewPublisher(node, "/map")
	pub.Publish(ctx, []byte("ground floor"))
	pub.Publish(ctx, []byte("first floor"))

	sub, err := pubsub.NewSubscription(node, "/map", pubsub.Last(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	pub.Publish(ctx, []byte("second floor"))
	for range 2 {
		msg, _ := sub.Next(ctx)
		fmt.Println(string(msg.Body))
	}
	// Output:
	// first floor
	// second floor
}

// A program that takes messages says itself what has become of each.
func ExampleSubscription_Take() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	sub, _ := pubsub.NewSubscription(node, "/doors", pubsub.Durable("guard"))
	pub, _ := pubsub.NewPublisher(node, "/doors")
	pub.Publish(ctx, []byte("open"))

	for {
		delivery, err := sub.Take(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		if delivery.Attempt == 1 {
			fmt.Println("the door is stuck")
			delivery.Nack(10*time.Millisecond, "stuck")
			continue
		}
		fmt.Printf("%s at attempt %d\n", delivery.Message.Body, delivery.Attempt)
		fmt.Println(delivery.Ack())
		return
	}
	// Output:
	// the door is stuck
	// open at attempt 2
	// <nil>
}
