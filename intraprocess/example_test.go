package intraprocess_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// printer is the upper end of an interest; pubsub.NewSubscription makes better ones.
type printer string

func (p printer) Deliver(d transport.Delivery) {
	fmt.Printf("%s got %q from %s\n", p, d.Message.Body, d.Message.From)
}

func (p printer) Drain(context.Context) error { return nil }

// Two nodes on one bus talk to each other.
func Example() {
	ctx := context.Background()
	bus := intraprocess.NewBus()
	robot, err := transport.NewNode(bus.Attach(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer robot.Close(ctx)
	desk, err := transport.NewNode(bus.Attach(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer desk.Close(ctx)

	stop, err := desk.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/battery"}, printer("desk"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	err = robot.Send(ctx, &transport.Message{
		Kind: transport.TopicMessage,
		Name: "/battery",
		Body: []byte("12.4 V"),
		Info: transport.Info{PublisherGID: transport.NewGID(), Sequence: 1},
	})
	fmt.Println(err)
	// Output:
	// desk got "12.4 V" from 1@intraprocess
	// <nil>
}

// A request that nobody serves fails at once.
func ExampleCarrier_Send() {
	ctx := context.Background()
	carrier := intraprocess.New()
	defer carrier.Close(ctx)

	err := carrier.Send(ctx, &transport.Message{Kind: transport.Request, Name: "/add"})
	fmt.Println(err)
	fmt.Println(errors.Is(err, transport.ErrNoResponder))
	// Output:
	// send /add: not sent: no responder
	// true
}

// A carrier from New is alone, participants of one bus have different addresses.
func ExampleBus_Attach() {
	bus := intraprocess.NewBus()
	fmt.Println(bus.Attach().Address(), bus.Attach().Address())
	fmt.Println(intraprocess.New().Address())
	// Output:
	// 1@intraprocess 2@intraprocess
	// 1@intraprocess
}
