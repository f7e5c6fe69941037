package bridge_test

import (
	"context"
	"fmt"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// node returns a node on a bus. Elsewhere it is one on mail or NATS, from postbus.Open.
func node(bus *intraprocess.Bus) *transport.Node {
	n, err := transport.NewNode(bus.Attach(), nil)
	if err != nil {
		panic(err)
	}
	return n
}

// Two networks with a bridge between them: what is published on the one is heard on the other, and a service of the
// second is called from the first.
func Example() {
	ctx := context.Background()
	office, factory := intraprocess.NewBus(), intraprocess.NewBus()
	left, right := node(office), node(factory)
	defer left.Close(ctx)
	defer right.Close(ctx)
	b, err := bridge.New(bridge.Side{Name: "office", Node: left}, bridge.Side{Name: "factory", Node: right},
		bridge.Rule{Kind: transport.TopicMessage, Direction: bridge.Both, Pattern: "/line/>"},
		bridge.Rule{Kind: transport.Request, Direction: bridge.Forth, Pattern: "/plan"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close(ctx) // before the nodes

	desk, machine := node(office), node(factory)
	defer desk.Close(ctx)
	defer machine.Close(ctx)
	sub, err := pubsub.NewSubscription(desk, "/line/*")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(machine, "/line/1")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Publish(ctx, []byte("running")); err != nil {
		fmt.Println(err)
		return
	}
	m, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s of %s: %s\n", m.Name, m.Header.Get(bridge.HeaderWay), m.Body)

	server, err := service.NewServer(machine, "/plan")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = server.Handle(func(_ context.Context, m *transport.Message) ([]byte, error) {
		return fmt.Appendf(nil, "%s: tomorrow", m.Body), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := service.NewClient(desk, "/plan")
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := client.Call(ctx, []byte("100 bolts"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", answer.Body)
	// Output:
	// /line/1 of factory: running
	// 100 bolts: tomorrow
}

// Rules as the command postbus bridge takes them.
func ExampleParseRule() {
	for _, text := range []string{"topics <-> /robot/>", "services -> /plan durable=plan", "services => /plan"} {
		rule, err := bridge.ParseRule(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s: %s %q\n", rule.Kind, rule.Pattern, rule.Durable)
	}
	// Output:
	// topic message: /robot/> ""
	// request: /plan "plan"
	// invalid rule of a bridge: "services => /plan": "=>" is no direction; it is "topics" or "services", then "->", "<-" or "<->", a name or pattern, and possibly durable=NAME or group=NAME
}

// What becomes of the messages of each rule.
func ExampleBridge_Stats() {
	ctx := context.Background()
	office, factory := intraprocess.NewBus(), intraprocess.NewBus()
	left, right := node(office), node(factory)
	defer left.Close(ctx)
	defer right.Close(ctx)
	rule, err := bridge.ParseRule("topics <-> /line/>")
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bridge.New(bridge.Side{Name: "office", Node: left}, bridge.Side{Name: "factory", Node: right}, rule)
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(left, "/line/1")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		if err := pub.Publish(ctx, []byte("stop")); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range b.Stats() {
		fmt.Println(s.Rule, s.Forwarded)
	}
	// Output:
	// topics -> /line/> 3
	// topics <- /line/> 0
}
