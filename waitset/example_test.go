package waitset_test

import (
	"context"
	"fmt"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/waitset"
)

// One loop serves a topic and a service, until a guard condition stops it.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	sub, _ := pubsub.NewSubscription(node, "/chatter")
	server, _ := service.NewServer(node, "/echo")
	stop := waitset.NewGuardCondition()
	ws, err := waitset.New(sub, server, stop)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ws.Close()

	pub, _ := pubsub.NewPublisher(node, "/chatter")
	pub.Publish(ctx, []byte("hello"))
	client, _ := service.NewClient(node, "/echo")
	client.Send(ctx, []byte("anybody?"))

	for {
		ready, err := ws.Wait(ctx, -1)
		if err != nil {
			fmt.Println(err)
			return
		}
		if ready.Has(sub) {
			msg, _ := sub.Next(ctx)
			fmt.Printf("message %s\n", msg.Body)
			stop.Trigger()
		}
		if ready.Has(server) {
			request, _ := server.Next(ctx)
			fmt.Printf("request %s\n", request.Body)
			request.Respond(ctx, request.Body)
		}
		if ready.Has(stop) {
			fmt.Println("stop")
			return
		}
	}
	// Output:
	// message hello
	// request anybody?
	// stop
}

func ExampleWaitSet_Wait() {
	ctx := context.Background()
	guard := waitset.NewGuardCondition()
	ws, _ := waitset.New(guard)
	defer ws.Close()

	ready, err := ws.Wait(ctx, 10*time.Millisecond)
	fmt.Println("timed out:", ready.Len() == 0, err)

	guard.Trigger() // before the wait, and twice
	guard.Trigger()
	ready, err = ws.Wait(ctx, 0)
	fmt.Println("triggered:", ready.Has(guard), err)

	ready, err = ws.Wait(ctx, 0)
	fmt.Println("reset:", !ready.Has(guard), err)
	// Output:
	// timed out: true <nil>
	// triggered: true <nil>
	// reset: true <nil>
}

// Two sensors are read together.
func ExampleWaitSet_WaitAll() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	left, _ := pubsub.NewSubscription(node, "/camera/left")
	right, _ := pubsub.NewSubscription(node, "/camera/right")
	ws, _ := waitset.New(left, right)
	defer ws.Close()
	publish := func(name string) {
		pub, _ := pubsub.NewPublisher(node, name)
		pub.Publish(ctx, []byte("image of "+name))
	}

	publish("/camera/right")
	ready, err := ws.WaitAll(ctx, 0)
	fmt.Println(ready.Len(), err)

	publish("/camera/left")
	ready, err = ws.WaitAll(ctx, time.Minute)
	fmt.Println(ready.Len(), err)
	for e := range ready.All() {
		msg, _ := e.(*pubsub.Subscription).TryNext()
		fmt.Printf("%s\n", msg.Body)
	}
	// Output:
	// 0 <nil>
	// 2 <nil>
	// image of /camera/left
	// image of /camera/right
}

func ExampleWaitFor() {
	ctx := context.Background()
	done := waitset.NewGuardCondition()
	go done.Trigger()
	fmt.Println(waitset.WaitFor(ctx, time.Minute, done))
	fmt.Println(waitset.WaitFor(ctx, 10*time.Millisecond, done))
	// Output:
	// true <nil>
	// false <nil>
}
