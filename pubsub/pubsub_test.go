package pubsub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openNode returns a node on the bus that the test closes itself.
func openNode(t testing.TB, bus *intraprocess.Bus) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(bus.Attach(), &transport.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// newNode returns a node on the bus that is closed at the end of the test.
func newNode(t testing.TB, bus *intraprocess.Bus) *transport.Node {
	t.Helper()
	node := openNode(t, bus)
	t.Cleanup(func() {
		if err := node.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return node
}

func newPublisher(t testing.TB, node *transport.Node, name string, options ...pubsub.PublisherOption) *pubsub.Publisher {
	t.Helper()
	p, err := pubsub.NewPublisher(node, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newSubscription(t testing.TB, node *transport.Node, name string, options ...pubsub.SubscriptionOption) *pubsub.Subscription {
	t.Helper()
	s, err := pubsub.NewSubscription(node, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publish publishes "1" to "n".
func publish(t testing.TB, p *pubsub.Publisher, n int) {
	t.Helper()
	for i := range n {
		if err := p.Publish(t.Context(), fmt.Append(nil, i+1)); err != nil {
			t.Fatal(err)
		}
	}
}

// take returns the bodies of the messages that wait, joined by blanks.
func take(s *pubsub.Subscription) string {
	var bodies []string
	for m, ok := s.TryNext(); ok; m, ok = s.TryNext() {
		bodies = append(bodies, string(m.Body))
	}
	return strings.Join(bodies, " ")
}

func TestMessageArrivesWithItsMetadata(t *testing.T) {
	bus := intraprocess.NewBus()
	sub := newSubscription(t, newNode(t, bus), "/chatter")
	pub := newPublisher(t, newNode(t, bus), "/chatter")

	before := time.Now()
	body := []byte("hello")
	err := pub.Publish(t.Context(), body,
		transport.WithHeader("Robot", "r2"), transport.WithContentType("text/plain"))
	if err != nil {
		t.Fatal(err)
	}
	copy(body, "XXXXX") // the publisher's buffer is its own again

	m, err := sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Body) != "hello" || m.Name != "/chatter" || m.Kind != transport.TopicMessage {
		t.Errorf("received %v %q %q", m.Kind, m.Name, m.Body)
	}
	if m.Header.Get("robot") != "r2" || m.ContentType != "text/plain" {
		t.Errorf("header %v, content type %q", m.Header, m.ContentType)
	}
	if m.Info.PublisherGID != pub.GID() || m.Info.Sequence != 1 {
		t.Errorf("publisher %v sequence %d, want %v and 1", m.Info.PublisherGID, m.Info.Sequence, pub.GID())
	}
	if m.Info.SourceTime.Before(before) || m.Info.ReceivedTime.Before(m.Info.SourceTime) {
		t.Errorf("published %v, received %v, test began %v", m.Info.SourceTime, m.Info.ReceivedTime, before)
	}
	if gid, seq, ok := m.ID.Origin(); !ok || gid != pub.GID() || seq != 1 {
		t.Errorf("ID %v does not lead back to the publisher", m.ID)
	}
}

func TestSourceTimeCanBeGiven(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/odom")
	want := time.Unix(1700000000, 123456789)
	if err := newPublisher(t, node, "/odom").Publish(t.Context(), nil, transport.WithSourceTime(want)); err != nil {
		t.Fatal(err)
	}
	if m, ok := sub.TryNext(); !ok || !m.Info.SourceTime.Equal(want) {
		t.Errorf("received %v, want source time %v", m, want)
	}
}

func TestEverySubscriptionGetsEveryMessage(t *testing.T) {
	bus := intraprocess.NewBus()
	one, two := newNode(t, bus), newNode(t, bus)
	subs := []*pubsub.Subscription{
		newSubscription(t, one, "/a", pubsub.KeepAll()),
		newSubscription(t, one, "/a", pubsub.KeepAll()),
		newSubscription(t, two, "/a", pubsub.KeepAll()),
		newSubscription(t, two, "/*", pubsub.KeepAll()),
	}
	other := newSubscription(t, two, "/b")
	publish(t, newPublisher(t, one, "/a"), 2)
	publish(t, newPublisher(t, one, "/a"), 1)
	publish(t, newPublisher(t, two, "/a"), 1)
	for i, s := range subs {
		if got := take(s); got != "1 2 1 1" {
			t.Errorf("subscription %d got %q", i, got)
		}
	}
	if got := take(other); got != "" {
		t.Errorf("a subscription of another topic got %q", got)
	}
}

func TestQueueBounds(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []pubsub.SubscriptionOption
		want    string
		dropped uint64
	}{
		{"default", nil, "3 4 5 6 7 8 9 10 11 12", 2},
		{"last 3", []pubsub.SubscriptionOption{pubsub.KeepLast(3)}, "10 11 12", 9},
		{"last 0 is 1", []pubsub.SubscriptionOption{pubsub.KeepLast(0)}, "12", 11},
		{"all", []pubsub.SubscriptionOption{pubsub.KeepAll()}, "1 2 3 4 5 6 7 8 9 10 11 12", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := newNode(t, intraprocess.NewBus())
			sub := newSubscription(t, node, "/a", c.options...)
			publish(t, newPublisher(t, node, "/a"), 12)
			if got := take(sub); got != c.want || sub.Dropped() != c.dropped {
				t.Errorf("got %q, dropped %d; want %q and %d", got, sub.Dropped(), c.want, c.dropped)
			}
		})
	}
}

func TestLifespan(t *testing.T) {
	for _, c := range []struct {
		name         string
		publisher    []pubsub.PublisherOption
		subscription []pubsub.SubscriptionOption
	}{
		{"of the publisher", []pubsub.PublisherOption{pubsub.Lifespan(time.Minute)}, nil},
		{"of the subscription", nil, []pubsub.SubscriptionOption{pubsub.Lifespan(time.Minute)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := newNode(t, intraprocess.NewBus())
				sub := newSubscription(t, node, "/a", c.subscription...)
				pub := newPublisher(t, node, "/a", c.publisher...)
				publish(t, pub, 1)
				time.Sleep(59 * time.Second) // of the bubble's clock
				publish(t, pub, 2)
				time.Sleep(2 * time.Second)
				if got := take(sub); got != "1 2" || sub.Dropped() != 1 {
					t.Errorf("got %q, dropped %d; want the two young messages", got, sub.Dropped())
				}
			})
		})
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		sub := newSubscription(t, node, "/a")
		got := make(chan string)
		go func() {
			m, err := sub.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- string(m.Body)
		}()
		synctest.Wait()
		publish(t, newPublisher(t, node, "/a"), 1)
		if body := <-got; body != "1" {
			t.Errorf("got %q", body)
		}
	})
}

func TestNextTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sub := newSubscription(t, newNode(t, intraprocess.NewBus()), "/a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := sub.Next(ctx)
		if !errors.Is(err, transport.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSeveralReadersShareASubscription(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a", pubsub.KeepAll())
	const readers, messages = 4, 1000
	var got sync.Map
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for m := range sub.All(context.Background()) {
				if _, twice := got.LoadOrStore(string(m.Body), true); twice {
					t.Errorf("message %s was taken twice", m.Body)
				}
			}
		})
	}
	publish(t, newPublisher(t, node, "/a"), messages)
	sub.Close() // readers first take what is left
	wg.Wait()
	n := 0
	got.Range(func(any, any) bool { n++; return true })
	if n != messages {
		t.Errorf("%d of %d messages were taken", n, messages)
	}
}

// All ends with its context even when there are more messages to take.
func TestAllEndsWithItsContext(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a", pubsub.KeepAll())
	publish(t, newPublisher(t, node, "/a"), 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for range sub.All(ctx) {
		if n++; n == 3 {
			cancel()
		}
	}
	if n != 3 {
		t.Errorf("%d iterations, want 3", n)
	}
	if _, err := sub.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with an ended context: %v", err)
	}
	if m, ok := sub.TryNext(); !ok || string(m.Body) != "4" {
		t.Errorf("the fourth message is gone: %v", m)
	}
}

func TestHandle(t *testing.T) {
	node := openNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a", pubsub.KeepAll())
	var got []string
	err := sub.Handle(func(_ context.Context, m *transport.Message) error {
		got = append(got, string(m.Body))
		return errors.New("an error does not stop the subscription")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Handle(nil); err == nil {
		t.Error("a second Handle did not fail")
	}
	publish(t, newPublisher(t, node, "/a"), 100)
	// Close waits until the handler has worked off what has arrived.
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 100 || got[99] != "100" {
		t.Errorf("handled %v", got)
	}
}

// A subscription that was closed before its node is drained by the node all the same.
func TestCallbackPanicsAndIsDrainedAfterClose(t *testing.T) {
	node := openNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a", pubsub.KeepAll())
	var got []string
	begin := make(chan struct{})
	err := sub.Handle(func(_ context.Context, m *transport.Message) error {
		<-begin
		if string(m.Body) == "1" {
			panic("on purpose")
		}
		got = append(got, string(m.Body))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, newPublisher(t, node, "/a"), 3)
	sub.Close()
	if err := sub.Handle(nil); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Handle of a closed subscription: %v", err)
	}
	close(begin)
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[1] != "3" {
		t.Errorf("handled %v, want 2 and 3", got)
	}
}

func TestNodeCloseDoesNotWaitForHandlersForEver(t *testing.T) {
	node := openNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a")
	started := make(chan struct{})
	err := sub.Handle(func(ctx context.Context, _ *transport.Message) error {
		close(started)
		<-ctx.Done() // only the end of its context ends this handler
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, newPublisher(t, node, "/a"), 1)
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := node.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close returned %v", err)
	}
}

func TestClosed(t *testing.T) {
	node := openNode(t, intraprocess.NewBus())
	pub := newPublisher(t, node, "/a")
	sub, other := newSubscription(t, node, "/a"), newSubscription(t, node, "/a")
	sub.Close()
	sub.Close()
	publish(t, pub, 1)
	if _, err := sub.Next(t.Context()); !errors.Is(err, transport.ErrClosed) || !sub.Ready() {
		t.Errorf("Next of a closed subscription: %v, ready %v", err, sub.Ready())
	}
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, err := other.Next(t.Context()); err != nil || string(m.Body) != "1" {
		t.Errorf("what had arrived before the node was closed can't be read: %v", err)
	}
	if _, err := other.Next(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Next after the node was closed: %v", err)
	}
	if err := pub.Publish(t.Context(), nil); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Publish after the node was closed: %v", err)
	}
	if _, err := pubsub.NewSubscription(node, "/a"); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("NewSubscription after the node was closed: %v", err)
	}
}

func TestRefused(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	for _, name := range []string{"", "a b", "a\r\nBcc: x", "=?utf-8?q?a?=", "ü", strings.Repeat("a", 201), "/a/*"} {
		if _, err := pubsub.NewPublisher(node, name); !errors.Is(err, transport.ErrInvalidName) {
			t.Errorf("publisher of %.20q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a b", "a\nb", "/a*", "/>/a"} {
		if _, err := pubsub.NewSubscription(node, name); !errors.Is(err, transport.ErrInvalidName) {
			t.Errorf("subscription of %q: %v", name, err)
		}
	}
	pub := newPublisher(t, node, "/a")
	sub := newSubscription(t, node, "/a")
	if err := pub.Publish(t.Context(), nil, transport.WithContentType("text/plain\r\nBcc: x@y")); !errors.Is(err, transport.ErrInvalidHeader) {
		t.Errorf("content type with a line break: %v", err)
	}
	if err := pub.Publish(t.Context(), nil, transport.WithContentType("text")); !errors.Is(err, transport.ErrInvalidHeader) {
		t.Errorf("content type without a subtype: %v", err)
	}
	if err := pub.Publish(t.Context(), nil, transport.WithHeader("Subject", "x")); !errors.Is(err, transport.ErrInvalidHeader) {
		t.Errorf("reserved header: %v", err)
	}
	if err := pub.Publish(t.Context(), make([]byte, transport.DefaultMaxBody+1)); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("large body: %v", err)
	}
	if sub.Ready() {
		t.Error("a refused message was delivered")
	}
}

func TestWatch(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a")
	woken := make(chan struct{}, 10)
	stop := sub.Watch(func() { woken <- struct{}{} })
	publish(t, newPublisher(t, node, "/a"), 1)
	<-woken
	stop()
	publish(t, newPublisher(t, node, "/a"), 1)
	sub.Close()
	if len(woken) != 0 {
		t.Error("woken after stop")
	}
}

// Messages that are too old do not make a subscription ready: a wait would be followed
// by a Next that blocks.
func TestExpiredMessagesAreNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		sub := newSubscription(t, node, "/a", pubsub.Lifespan(time.Minute))
		publish(t, newPublisher(t, node, "/a"), 2)
		if !sub.Ready() {
			t.Error("not ready")
		}
		time.Sleep(2 * time.Minute) // of the bubble's clock
		if sub.Ready() || sub.Dropped() != 2 {
			t.Errorf("ready %v, dropped %d after the lifespan", sub.Ready(), sub.Dropped())
		}
	})
}

func TestLifespanWithoutSourceTime(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a")
	pub := newPublisher(t, node, "/a", pubsub.Lifespan(time.Hour))
	if err := pub.Publish(t.Context(), nil, transport.WithSourceTime(time.Time{})); err != nil {
		t.Fatal(err)
	}
	if _, ok := sub.TryNext(); !ok {
		t.Error("a message whose source time was left open expired at once")
	}
}

// bouncing is a carrier by which every second message of a publisher comes back.
type bouncing struct {
	transport.Carrier
	deliver map[transport.GID]func(transport.Delivery)
}

func (c bouncing) Receive(i transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	if i.Kind != transport.Undeliverable {
		return c.Carrier.Receive(i, deliver)
	}
	c.deliver[i.Client] = deliver
	return func() { delete(c.deliver, i.Client) }, nil
}

func (c bouncing) Send(ctx context.Context, msgs ...*transport.Message) error {
	for _, m := range msgs {
		if deliver := c.deliver[m.Info.PublisherGID]; deliver != nil && m.Info.Sequence%2 == 0 {
			deliver(transport.Delivery{Message: &transport.Message{Kind: transport.Undeliverable, InReplyTo: m.ID,
				Error: &transport.RemoteError{Code: 550, Text: "no such user"}}})
		}
	}
	return nil
}

func TestOnUndeliverable(t *testing.T) {
	node, err := transport.NewNode(bouncing{intraprocess.New(), make(map[transport.GID]func(transport.Delivery))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reported := make(chan uint64, 10)
	pub := newPublisher(t, node, "/a", pubsub.OnUndeliverable(func(sequence uint64, err error) {
		var failed *transport.SendError
		if !errors.Is(err, transport.ErrUndeliverable) || !errors.As(err, &failed) || failed.Code != 550 || !strings.Contains(err.Error(), "no such user") {
			t.Errorf("message %d: %v", sequence, err)
		}
		reported <- sequence
	}))
	quiet := newPublisher(t, node, "/a")
	publish(t, quiet, 2)
	publish(t, pub, 4)
	if a, b := <-reported, <-reported; a != 2 || b != 4 {
		t.Errorf("messages %d and %d were reported, want 2 and 4", a, b)
	}
	pub.Close()
	pub.Close()
	quiet.Close()
	publish(t, pub, 4)
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if len(reported) > 0 {
		t.Errorf("message %d was reported after Close", <-reported)
	}
}

func TestConcurrentPublish(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a", pubsub.KeepAll())
	pub := newPublisher(t, node, "/a")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { publish(t, pub, 100) })
	}
	wg.Wait()
	if got := sub.Dropped(); got != 0 {
		t.Errorf("%d dropped", got)
	}
	seen := make(map[uint64]bool)
	for m, ok := sub.TryNext(); ok; m, ok = sub.TryNext() {
		seen[m.Info.Sequence] = true
	}
	for i := range uint64(800) {
		if !seen[i+1] {
			t.Fatalf("number %d is missing", i+1)
		}
	}
}

func TestBodiesAreIdentical(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a")
	pub := newPublisher(t, node, "/a")
	for _, body := range [][]byte{nil, {}, {0}, []byte("a\r\nb\n"), bytes.Repeat([]byte("x"), 1<<20)} {
		if err := pub.Publish(t.Context(), body); err != nil {
			t.Fatal(err)
		}
		if m, ok := sub.TryNext(); !ok || !bytes.Equal(m.Body, body) {
			t.Errorf("a body of %d bytes was changed", len(body))
		}
	}
}
