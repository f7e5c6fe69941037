package nats_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// startExample starts a server in this process; elsewhere it is a cluster.
func startExample() (s *server.Server, stop func()) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		panic("the server does not start")
	}
	return s, func() { s.Shutdown(); s.WaitForShutdown() }
}

// openExample opens a node.
func openExample(ctx context.Context, s *server.Server) *transport.Node {
	carrier, err := nats.Open(ctx, nats.Config{Servers: []string{s.ClientURL()}, Name: "robot", Version: "1.0.0"}, nats.Options{})
	if err != nil {
		panic(err)
	}
	node, err := transport.NewNode(carrier, nil)
	if err != nil {
		panic(err)
	}
	return node
}

// Two nodes talk to each other, as they would by mail.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, stop := startExample()
	defer stop()
	robot, desk := openExample(ctx, s), openExample(ctx, s)
	defer robot.Close(ctx)
	defer desk.Close(ctx)

	sub, err := pubsub.NewSubscription(desk, "/robot/*")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(robot, "/robot/battery")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(pub.Publish(ctx, []byte("12.4 V")))
	m, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", m.Name, m.Body)
	// Output:
	// <nil>
	// /robot/battery: 12.4 V
}

// A program that knows nothing of postbus calls a service of ours.
func ExampleOpen() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, stop := startExample()
	defer stop()
	node := openExample(ctx, s)
	defer node.Close(ctx)

	server, err := service.NewServer(node, "u1.upper", service.Group("workers"))
	if err != nil {
		fmt.Println(err)
		return
	}
	err = server.Handle(func(_ context.Context, request *transport.Message) ([]byte, error) {
		return []byte(strings.ToUpper(string(request.Body))), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	plain, err := natsgo.Connect(s.ClientURL())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer plain.Close()
	answer, err := plain.RequestWithContext(ctx, "u1.upper", []byte("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", answer.Data)
	// Output: HELLO
}

// A name is its own subject, unless it begins with "/".
func ExampleSubject() {
	for _, name := range []string{"kiam.console.action.iplocation", "/robot/odom", "/robot/*/v1.2", "a..b"} {
		fmt.Println(nats.Subject(name))
	}
	// Output:
	// kiam.console.action.iplocation
	// /.robot.odom
	// /.robot.*.v1%2E2
	// a.%.b
}

// A wildcard subscription of NATS sees names by their subjects.
func ExampleName() {
	for _, subject := range []string{"u1.echo", "/.robot.odom", "$SYS.ACCOUNT"} {
		fmt.Println(nats.Name(subject))
	}
	// Output:
	// u1.echo true
	// /robot/odom true
	//  false
}
