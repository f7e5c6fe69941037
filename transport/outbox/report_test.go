package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// A call fails when its request is refused, at once and not at its deadline.
func TestCallHearsOfRefusal(t *testing.T) {
	node, err := transport.NewNode(open(t, intraprocess.New(), outbox.Options{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(t.Context())
	client, err := service.NewClient(node, "/nobody")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err = client.Call(ctx, []byte("x"))
	if !errors.Is(err, transport.ErrUndeliverable) || !strings.Contains(err.Error(), "no responder") {
		t.Errorf("call: %v", err)
	}
}

// refusing is an in-process carrier whose next hop refuses everything for good.
type refusing struct{ *intraprocess.Carrier }

func (refusing) Send(context.Context, ...*transport.Message) error {
	return fail(transport.Permanent, 554, transport.ErrRefused)
}

// A publisher that wants to know is told.
func TestPublisherHearsOfRefusal(t *testing.T) {
	node, err := transport.NewNode(open(t, refusing{intraprocess.New()}, outbox.Options{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(t.Context())
	type bounce struct {
		sequence uint64
		err      error
	}
	bounces := make(chan bounce, 2)
	pub, err := pubsub.NewPublisher(node, "/t", pubsub.OnUndeliverable(func(sequence uint64, err error) { bounces <- bounce{sequence, err} }))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := pub.Publish(t.Context(), []byte("x")); err != nil {
			t.Error(err)
		}
	}
	for want := range uint64(2) {
		b := <-bounces
		failure, ok := errors.AsType[*transport.SendError](b.err)
		if b.sequence != want+1 || !ok || failure.Code != 554 || failure.Outcome != transport.Permanent {
			t.Errorf("told that %d failed with %v", b.sequence, b.err)
		}
	}
}
