package waitset_test

import (
	"errors"
	"testing"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/waitset"
)

// What applications wait for, over a real carrier.
func TestEntitiesOfANode(t *testing.T) {
	ctx := t.Context()
	node, err := postbus.New(intraprocess.New(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(ctx)
	sub, err := pubsub.NewSubscription(node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	client, err := service.NewClient(node, "/echo")
	if err != nil {
		t.Fatal(err)
	}
	server, err := service.NewServer(node, "/echo")
	if err != nil {
		t.Fatal(err)
	}
	guard := waitset.NewGuardCondition()
	ws := newSet(t, sub, client, server, guard)

	ready, err := ws.Wait(ctx, 0)
	expectNothing(t, ready, err)

	for range 2 {
		if err := pub.Publish(ctx, []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // one of the two messages is left after the first
		ready, err = ws.Wait(ctx, -1)
		expect(t, ready, err, sub)
		if _, ok := sub.TryNext(); !ok {
			t.Error("no message")
		}
	}

	sequence, err := client.Send(ctx, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	ready, err = ws.Wait(ctx, -1)
	expect(t, ready, err, server)
	request, err := server.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.Respond(ctx, request.Body); err != nil {
		t.Fatal(err)
	}
	ready, err = ws.Wait(ctx, -1)
	expect(t, ready, err, client)
	if _, err := client.Response(ctx, sequence); err != nil {
		t.Errorf("Response: %v", err)
	}
	ready, err = ws.Wait(ctx, 0)
	expectNothing(t, ready, err)

	// Closed entities are ready, so that their readers learn of it.
	go func() { sub.Close(); client.Close(); server.Close(); guard.Trigger() }()
	ready, err = ws.WaitAll(ctx, -1)
	expect(t, ready, err, sub, client, server, guard)
	if _, err := sub.Next(ctx); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Next of the closed subscription: %v", err)
	}
	for e := range ready.All() {
		if err := ws.Remove(e); err != nil {
			t.Error(err)
		}
	}
	ready, err = ws.Wait(ctx, 0)
	expectNothing(t, ready, err)
}
