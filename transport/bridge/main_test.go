package bridge_test

import (
	"context"
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// openNode returns a node on the bus that the test closes itself.
func openNode(t testing.TB, bus *intraprocess.Bus) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(bus.Attach(), &transport.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// newNode returns a node on the bus that is closed at the end of the test.
func newNode(t testing.TB, bus *intraprocess.Bus) *transport.Node {
	t.Helper()
	node := openNode(t, bus)
	closeLater(t, node)
	return node
}

func closeLater(t testing.TB, closer interface{ Close(context.Context) error }) {
	t.Helper()
	t.Cleanup(func() {
		if err := closer.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func rules(t testing.TB, texts ...string) []bridge.Rule {
	t.Helper()
	var all []bridge.Rule
	for _, text := range texts {
		rule, err := bridge.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rule)
	}
	return all
}

// openBridge returns a bridge that the test closes itself.
func openBridge(t testing.TB, from, to bridge.Side, texts ...string) *bridge.Bridge {
	t.Helper()
	b, err := bridge.New(from, to, rules(t, texts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// join joins two buses by a bridge that is closed at the end of the test.
func join(t testing.TB, a string, busA *intraprocess.Bus, b string, busB *intraprocess.Bus, texts ...string) *bridge.Bridge {
	t.Helper()
	joined := openBridge(t, bridge.Side{Name: a, Node: newNode(t, busA)}, bridge.Side{Name: b, Node: newNode(t, busB)}, texts...)
	closeLater(t, joined)
	return joined
}

func publisher(t testing.TB, node *transport.Node, name string) *pubsub.Publisher {
	t.Helper()
	p, err := pubsub.NewPublisher(node, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func subscribe(t testing.TB, node *transport.Node, name string, options ...pubsub.SubscriptionOption) *pubsub.Subscription {
	t.Helper()
	s, err := pubsub.NewSubscription(node, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publish publishes a text, with a header field of its own.
func publish(t testing.TB, p *pubsub.Publisher, text string, options ...transport.MessageOption) {
	t.Helper()
	if err := p.Publish(t.Context(), []byte(text), options...); err != nil {
		t.Fatal(err)
	}
}

// next takes the next message.
func next(t testing.TB, s *pubsub.Subscription) *transport.Message {
	t.Helper()
	m, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// serve returns a server on the node that answers with handler.
func serve(t testing.TB, node *transport.Node, name string, handler service.Handler, options ...service.ServerOption) *service.Server {
	t.Helper()
	s, err := service.NewServer(node, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Handle(handler); err != nil {
		t.Fatal(err)
	}
	return s
}

func newClient(t testing.TB, node *transport.Node, name string) *service.Client {
	t.Helper()
	c, err := service.NewClient(node, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// echo answers with the request.
func echo(_ context.Context, m *transport.Message) ([]byte, error) { return m.Body, nil }

// total closes a bridge and returns what it has counted.
func total(t testing.TB, b *bridge.Bridge) bridge.Stats {
	t.Helper()
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return sum(b)
}

// sum adds up what a bridge counts.
func sum(b *bridge.Bridge) (all bridge.Stats) {
	for _, s := range b.Stats() {
		all.Forwarded += s.Forwarded
		all.Answered += s.Answered
		all.Looped += s.Looped
		all.Repeated += s.Repeated
		all.Expired += s.Expired
		all.Failed += s.Failed
		all.Dropped += s.Dropped
		all.Waiting += s.Waiting
	}
	return all
}
