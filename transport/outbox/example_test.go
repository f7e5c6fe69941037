package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// A node with an outbox is used as any other.
func Example() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "outbox")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)

	box, err := outbox.Open(intraprocess.New(), outbox.Options{File: filepath.Join(folder, "outbox.db")})
	if err != nil {
		fmt.Println(err)
		return
	}
	node, err := transport.NewNode(box, nil) // which closes the outbox
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	sub, err := pubsub.NewSubscription(node, "/battery")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(node, "/battery")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(pub.Publish(ctx, []byte("12.4 V"))) // nil: it is on disk
	m, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", m.Body)
	// Output:
	// <nil>
	// 12.4 V
}

// What was refused for good can be looked at, sent once more and deleted.
func ExampleOutbox_Dead() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "outbox")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "outbox.db")
	box, err := outbox.Open(intraprocess.New(), outbox.Options{File: file, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}

	// In process, a request that nobody serves is refused at once.
	request := &transport.Message{Kind: transport.Request, Name: "/nobody"}
	fmt.Println(box.Send(ctx, request))
	fmt.Println(box.Close(ctx))

	left, err := outbox.OpenFile(file)
	if err != nil {
		fmt.Println(err)
		return
	}
	for letter, err := range left.Dead() {
		fmt.Println(letter.Number, letter.Message.Name, letter.Dead.Reason, err)
	}
	fmt.Println(left.Retry(nil)) // all of them, when the outbox is opened next
	fmt.Println(left.Purge(func(e outbox.Entry) bool { return e.Message.Name == "/nobody" }))
	fmt.Println(left.Close())
	// Output:
	// <nil>
	// <nil>
	// 1 /nobody no responder <nil>
	// 1 <nil>
	// 1 <nil>
	// <nil>
}
