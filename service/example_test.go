package service_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
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

	server, err := service.NewServer(node, "/upper")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = server.Handle(func(_ context.Context, request *transport.Message) ([]byte, error) {
		if len(request.Body) == 0 {
			return nil, &transport.RemoteError{Code: 422, Text: "nothing to do"}
		}
		return []byte(strings.ToUpper(string(request.Body))), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	client, err := service.NewClient(node, "/upper")
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := client.Call(ctx, []byte("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(answer.Body))

	_, err = client.Call(ctx, nil)
	var remote *transport.RemoteError
	if errors.As(err, &remote) {
		fmt.Println(remote.Code, remote.Text)
	}
	// Output:
	// HELLO
	// 422 nothing to do
}

func ExampleClient_Send() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	server, _ := service.NewServer(node, "/echo")
	client, _ := service.NewClient(node, "/echo")

	first, _ := client.Send(ctx, []byte("one"))
	second, _ := client.Send(ctx, []byte("two"))
	for range 2 {
		request, _ := server.Next(ctx)
		request.Respond(ctx, request.Body)
	}
	for _, sequence := range []uint64{second, first} {
		answer, err := client.Response(ctx, sequence)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(sequence, string(answer.Body))
	}
	// Output:
	// 2 two
	// 1 one
}

func ExampleServer_Next() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)
	server, _ := service.NewServer(node, "/double")
	client, _ := service.NewClient(node, "/double")
	sequence, _ := client.Send(ctx, []byte("ab"))

	request, err := server.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("asked:", string(request.Body))
	if err := request.Respond(ctx, append(request.Body, request.Body...)); err != nil {
		fmt.Println(err)
		return
	}
	answer, _ := client.Response(ctx, sequence)
	fmt.Println("answered:", string(answer.Body))
	// Output:
	// asked: ab
	// answered: abab
}

func ExampleNewTypedServer() {
	type Pair struct{ A, B int }
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)

	server, _ := service.NewTypedServer(node, "/add_two_ints", codec.JSON[Pair](), codec.JSON[int]())
	server.Handle(func(_ context.Context, p Pair) (int, error) {
		return p.A + p.B, nil
	})
	client, _ := service.NewTypedClient(node, "/add_two_ints", codec.JSON[Pair](), codec.JSON[int]())
	sum, err := client.Call(ctx, Pair{2, 3})
	fmt.Println(sum, err)
	// Output: 5 <nil>
}

// The handler is run for the first request; the same request is answered with what it has returned.
func ExampleCache() {
	ctx := context.Background()
	node, _ := postbus.New(intraprocess.New(), nil)
	defer node.Close(ctx)

	server, err := service.NewServer(node, "/country", service.Cache(5*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	server.Handle(func(_ context.Context, request *transport.Message) ([]byte, error) {
		fmt.Printf("looking up %s\n", request.Body)
		return []byte("CH"), nil
	})
	client, _ := service.NewClient(node, "/country")
	for range 3 {
		answer, err := client.Call(ctx, []byte("192.0.2.1"))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(answer.Body))
	}
	// Output:
	// looking up 192.0.2.1
	// CH
	// CH
	// CH
}

// The members of a group share the requests.
func ExampleGroup() {
	ctx := context.Background()
	bus := intraprocess.NewBus()
	for range 2 {
		node, _ := postbus.New(bus.Attach(), nil)
		defer node.Close(ctx)
		server, err := service.NewServer(node, "/square", service.Group("calculators"))
		if err != nil {
			fmt.Println(err)
			return
		}
		server.Handle(func(_ context.Context, request *transport.Message) ([]byte, error) {
			var n int
			_, err := fmt.Sscan(string(request.Body), &n)
			return fmt.Append(nil, n*n), err
		})
	}
	node, _ := postbus.New(bus.Attach(), nil)
	defer node.Close(ctx)
	client, _ := service.NewClient(node, "/square")
	for n := range 3 {
		answer, err := client.Call(ctx, fmt.Append(nil, n))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(answer.Body))
	}
	fmt.Println("answers too many:", client.Late())
	// Output:
	// 0
	// 1
	// 4
	// answers too many: 0
}
