package postbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// A node with an outbox takes messages while the server is away, and keeps them.
func TestOpenWithOutbox(t *testing.T) {
	server := startServer(t)
	path := write(t, config(server, "outbox:\n  file: outbox.db\n"))
	node, err := postbus.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, node, node, "/chatter")
	if _, err := postbus.Open(t.Context(), path); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("a second node with the outbox: %v", err)
	}
	box := node.Carrier().(*outbox.Outbox)
	if _, ok := box.Unwrap().(*email.Carrier); !ok || box.Stats().Accepted != 1 {
		t.Errorf("stats: %+v, carrier: %T", box.Stats(), box.Unwrap())
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	for _, text := range []string{"one", "two"} {
		if err := pub.Publish(ctx, []byte(text)); err != nil {
			t.Errorf("publish while the server is away: %v", err)
		}
	}
	if err := node.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	if s := box.Stats(); s.Waiting != 2 {
		t.Errorf("stats: %+v", s)
	}

	file, err := outbox.OpenFile(strings.TrimSuffix(path, "email.yml") + "outbox.db")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n := 0
	for e, err := range file.Waiting() {
		if n++; err != nil || e.Message.Info.Sequence != uint64(n) {
			t.Errorf("entry %d: %+v, %v", n, e, err)
		}
	}
	if n != 2 {
		t.Errorf("%d messages wait", n)
	}
}

// With batches what waits in the outbox goes as few mails.
func TestOpenWithOutboxAndBatches(t *testing.T) {
	server := startServer(t)
	path := write(t, config(server, "  batch: true\noutbox:\n  file: outbox.db\n"))
	node, err := postbus.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub, err := pubsub.NewSubscription(node, "/chatter", pubsub.KeepAll())
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	server.Stop(mailserver.SMTP)
	const many = 500
	for i := range many {
		if err := pub.Publish(ctx, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Resume(mailserver.SMTP); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if m, err := sub.Next(ctx); err != nil || string(m.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d: %v, %v", i, m, err)
		}
	}
	if err := node.Close(ctx); err != nil {
		t.Error(err)
	}
	if mails := server.Stats().Accepted; mails > many/10 {
		t.Errorf("%d messages took %d mails", many, mails)
	}
}
