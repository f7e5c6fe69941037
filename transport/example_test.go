package transport_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// printing is the upper end of an interest. Subscriptions and servers have queues
// instead.
type printing struct{}

func (printing) Deliver(d transport.Delivery) {
	m := d.Message
	fmt.Printf("%v %s: %s\n", m.Kind, m.Name, m.Body)
	d.Ack()
}

func (printing) Drain(context.Context) error { return nil }

// A node owns a carrier and gives it to the entities of packages pubsub and service.
// This is what they do with it.
func ExampleNode() {
	ctx := context.Background()
	node, err := transport.NewNode(intraprocess.New(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	stop, err := node.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/robot/*"}, printing{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	publisher := transport.NewGID()
	for i, text := range []string{"ready", "moving"} {
		err := node.Send(ctx, &transport.Message{
			Kind: transport.TopicMessage,
			Name: "/robot/state",
			Body: []byte(text),
			Info: transport.Info{PublisherGID: publisher, Sequence: uint64(i + 1)},
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// topic message /robot/state: ready
	// topic message /robot/state: moving
}

// What can go wrong with a message is told apart with errors.Is and errors.As.
func ExampleNode_Send_errors() {
	ctx := context.Background()
	node, err := transport.NewNode(intraprocess.New(), &transport.Options{MaxBody: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	err = node.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "no blanks"})
	fmt.Println(errors.Is(err, transport.ErrInvalidName))

	err = node.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: make([]byte, 1001)})
	fmt.Println(err)

	err = node.Send(ctx, &transport.Message{Kind: transport.Request, Name: "/add"})
	var sendErr *transport.SendError
	if errors.As(err, &sendErr) {
		fmt.Println(sendErr.Outcome, errors.Is(err, transport.ErrNoResponder))
	}
	// Output:
	// true
	// send /t: message too large: the body has 1001 bytes, this node's limit is 1000
	// permanent true
}

// A carrier that receives one stream of messages sorts it with a Dispatcher.
func ExampleDispatcher() {
	var d transport.Dispatcher
	show := func(who string) func(transport.Delivery) {
		return func(d transport.Delivery) { fmt.Println(who, "gets", d.Message.Name) }
	}
	d.Add(transport.Interest{Kind: transport.TopicMessage, Name: "/robot/arm"}, show("arm"))
	remove := d.Add(transport.Interest{Kind: transport.TopicMessage, Name: "/robot/*"}, show("log"))

	arm := &transport.Message{Kind: transport.TopicMessage, Name: "/robot/arm"}
	fmt.Println(d.Dispatch(transport.Delivery{Message: arm}))
	remove()
	fmt.Println(d.Dispatch(transport.Delivery{Message: arm}))

	leg := &transport.Message{Kind: transport.TopicMessage, Name: "/robot/leg"}
	fmt.Println(d.Wants(leg))
	// Output:
	// arm gets /robot/arm
	// log gets /robot/arm
	// 2
	// arm gets /robot/arm
	// 1
	// false
}

func ExampleMatchName() {
	fmt.Println(transport.MatchName("/robot/*", "/robot/arm"))
	fmt.Println(transport.MatchName("/robot/*", "/robot/arm/left"))
	fmt.Println(transport.MatchName("/robot/>", "/robot/arm/left"))
	fmt.Println(transport.MatchName("robot.*", "robot.arm"))
	fmt.Println(transport.MatchName(">", "anything"))
	// Output:
	// true
	// false
	// true
	// true
	// true
}

func ExampleValidateName() {
	fmt.Println(transport.ValidateName("/robot/arm"))
	fmt.Println(transport.ValidateName("/robot arm"))
	// Output:
	// <nil>
	// invalid name: byte " " at index 6 of name "/robot arm"; allowed are A-Z a-z 0-9 _ ~ . - / { } $
}

func ExampleRoutes() {
	routes := transport.Routes{
		{Pattern: "/alarm/>", To: []string{"duty@example.com", "log@example.com"}},
		{Pattern: ">", To: []string{"robots@example.com"}},
	}
	fmt.Println(routes.Recipients("/alarm/fire"))
	fmt.Println(routes.Recipients("/chatter"))
	// Output:
	// [duty@example.com log@example.com]
	// [robots@example.com]
}

func ExampleHeader() {
	var h transport.Header
	h.Add("Trace-Id", "4bf92f35")
	h.Add("Language", "Français")
	fmt.Println(h.Get("trace-id"), h.Get("Language"), h.Validate())
	h.Add("Subject", "carriers use this one themselves")
	fmt.Println(h.Validate())
	// Output:
	// 4bf92f35 Français <nil>
	// invalid header: field "Subject": the name is reserved
}

// An ID leads back to the entity that sent the message, and to its number.
func ExampleParseID() {
	id := transport.ParseID("<7.00112233445566778899aabbccddeeff@mail.example.com>")
	gid, sequence, ok := id.Origin()
	fmt.Println(gid, sequence, ok)

	_, _, ok = transport.ParseID("<CAD=xyz@mail.gmail.com>").Origin()
	fmt.Println(ok)
	// Output:
	// 00112233445566778899aabbccddeeff 7 true
	// false
}
