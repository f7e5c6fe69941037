package nats_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// startLowered starts a server, and returns the configuration of a node and how to lower what the server takes to what that says.
func startLowered(t *testing.T) (c nats.Config, lower func()) {
	t.Helper()
	var options *server.Options
	keep := withJetStream(t)
	s := startServer(t, func(o *server.Options) {
		keep(o)
		o.MaxPayload = 1 << 20
		options = o
	})
	return config(s), func() {
		t.Helper()
		lowered := *options
		lowered.MaxPayload = lowPayload
		check(t, s.ReloadOptions(&lowered))
	}
}

const lowPayload = 1 << 16

// TestMaxPayload: what the configuration does not allow is refused here, or goes to the bucket, and the connection stays.
func TestMaxPayload(t *testing.T) {
	t.Parallel()
	c, lower := startLowered(t)
	c.MaxPayload = lowPayload
	without := openNode(t, c)
	c.Objects.Bucket = "bodies"
	with := openNode(t, c)
	lower()
	got, _ := receive(t, without, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	pub := newPublisher(without)
	m := pub.message()
	m.Body = make([]byte, lowPayload) // and there is a header
	err := without.Send(limited(t), m)
	if failed, ok := errors.AsType[*transport.SendError](err); !ok || failed.Outcome != transport.Permanent || !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "65536") {
		t.Errorf("a body without a bucket: %v", err)
	}
	pub.publish(t, 1)
	got.next()

	got, _ = receive(t, with, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	pub = newPublisher(with)
	m = pub.message()
	m.Body = large()
	check(t, with.Send(limited(t), m))
	if n := len(got.next().Message.Body); n != len(large()) {
		t.Errorf("%d bytes came through the bucket", n)
	}
}

// TestConnectionEndsForGood: the server ends the connection of a node that sends what it does not take any more.
func TestConnectionEndsForGood(t *testing.T) {
	t.Parallel()
	c, lower := startLowered(t)
	_, node, log := openLogging(t, c, false)
	lower()
	pub := newPublisher(node)
	m := pub.message()
	m.Body = make([]byte, lowPayload)
	check(t, node.Send(limited(t), m)) // so far it is in the buffer
	log.await(t, "no connection")
	log.await(t, "ended for good")
	for what, err := range map[string]error{
		"send": node.Send(limited(t), pub.message()),
		"receive": func() error {
			_, err := node.Receive(durable(), newBox(t))
			return err
		}(),
	} {
		if !errors.Is(err, transport.ErrClosed) || !strings.Contains(err.Error(), "the node must be opened anew") || !strings.Contains(err.Error(), "set max-payload") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
