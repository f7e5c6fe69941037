package pubsub_test

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// scripted is a carrier that notes its interests, delivers what the test says, and fails as it says.
type scripted struct {
	transport.Carrier
	interest transport.Interest
	deliver  func(transport.Delivery)
	err      func(*transport.Message) error
	sent     []uint64
}

func (c *scripted) Receive(in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	c.interest, c.deliver = in, deliver
	return func() {}, nil
}

func (c *scripted) Send(_ context.Context, msgs ...*transport.Message) error {
	if c.err != nil {
		if err := c.err(msgs[0]); err != nil {
			return err
		}
	}
	c.sent = append(c.sent, msgs[0].Info.Sequence)
	return nil
}

func newScripted(t *testing.T) (*scripted, *transport.Node) {
	t.Helper()
	c := &scripted{Carrier: intraprocess.New()}
	node, err := transport.NewNode(c, &transport.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close(context.Background()) })
	return c, node
}

func TestOptionsBecomeTheInterest(t *testing.T) {
	base := transport.Interest{Kind: transport.TopicMessage, Name: "/a"}
	for _, c := range []struct {
		name    string
		options []pubsub.SubscriptionOption
		want    func(*transport.Interest)
	}{
		{"none", nil, func(*transport.Interest) {}},
		{"queue", []pubsub.SubscriptionOption{pubsub.KeepLast(7)}, func(*transport.Interest) {}},
		{"order", []pubsub.SubscriptionOption{pubsub.GapWait(time.Second), pubsub.Last(3)}, func(i *transport.Interest) { i.GapWait, i.Last = time.Second, 3 }},
		{"durable", []pubsub.SubscriptionOption{pubsub.Durable("d"), pubsub.MaxDeliver(9)}, func(i *transport.Interest) { i.Durable, i.MaxDeliver = "d", 9 }},
		{"group", []pubsub.SubscriptionOption{pubsub.Group("g"), pubsub.Lease(time.Minute), pubsub.KeepLast(1)},
			func(i *transport.Interest) { i.Group, i.Lease, i.InFlight = "g", time.Minute, 1 }},
		{"first", []pubsub.SubscriptionOption{pubsub.Durable("d"), pubsub.KeepFirst(5)}, func(i *transport.Interest) { i.Durable, i.InFlight = "d", 5 }},
		{"all", []pubsub.SubscriptionOption{pubsub.Durable("d"), pubsub.KeepLast(5), pubsub.KeepAll()}, func(i *transport.Interest) { i.Durable = "d" }},
		{"very many", []pubsub.SubscriptionOption{pubsub.Durable("d"), pubsub.KeepLast(1 << 20)}, func(i *transport.Interest) { i.Durable, i.InFlight = "d", transport.MaxInFlight }},
	} {
		carrier, node := newScripted(t)
		newSubscription(t, node, "/a", c.options...)
		want := base
		c.want(&want)
		if !reflect.DeepEqual(carrier.interest, want) {
			t.Errorf("%s: the interest is %+v, want %+v", c.name, carrier.interest, want)
		}
	}
}

func TestOnGap(t *testing.T) {
	carrier, node := newScripted(t)
	got := make(chan transport.Gap)
	newSubscription(t, node, "/a", pubsub.OnGap(func(g transport.Gap) { got <- g }))
	want := transport.Gap{Publisher: transport.NewGID(), First: 3, Last: 5}
	carrier.interest.Gap(want) // does not block
	if g := <-got; g != want {
		t.Errorf("got %v, want %v", g, want)
	}
}

// unsettled is a delivery that can't be acknowledged.
type unsettled struct{}

var errDisk = errors.New("disk full")

func (unsettled) Ack() error                 { return errDisk }
func (unsettled) Nack(time.Duration, string) {}
func (unsettled) Term(string)                {}

// passedOn is one that becomes somebody else's while it is acknowledged.
type passedOn struct {
	unsettled
	lost bool
}

func (p *passedOn) Ack() error { p.lost = true; return errDisk }
func (p *passedOn) Lost() bool { return p.lost }

// A message that can't be put on record as taken is handed out all the same: it does not come again here.
// One that is somebody else's by then is not.
func TestAcknowledgementFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	carrier, node := newScripted(t)
	sub := newSubscription(t, node, "/a", pubsub.Durable("d"))
	push := func(body string, settler transport.Settler) {
		carrier.deliver(transport.Delivery{Message: &transport.Message{Kind: transport.TopicMessage, Name: "/a", Body: []byte(body)}, Settler: settler, Attempt: 1})
	}
	for name, read := range map[string]func() (*transport.Message, error){
		"Next": func() (*transport.Message, error) { return sub.Next(ctx) },
		"TryNext": func() (*transport.Message, error) {
			m, ok := sub.TryNext()
			if !ok {
				return nil, errors.New("nothing")
			}
			return m, nil
		},
		"All": func() (*transport.Message, error) {
			for m := range sub.All(ctx) {
				return m, nil
			}
			return nil, errors.New("nothing")
		},
	} {
		push("lost", new(passedOn))
		push("good", unsettled{})
		if m, err := read(); err != nil || string(m.Body) != "good" {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	push("taken", unsettled{})
	if d, err := sub.Take(ctx); err != nil || !errors.Is(d.Ack(), errDisk) {
		t.Errorf("Take: %v", err)
	}
}

// A publication that certainly failed leaves no gap in the numbers.
func TestFailedPublicationGivesItsNumberBack(t *testing.T) {
	carrier, node := newScripted(t)
	pub := newPublisher(t, node, "/a")
	outcome := transport.Permanent
	carrier.err = func(m *transport.Message) error {
		if string(m.Body) == "fail" {
			return &transport.SendError{Name: m.Name, Outcome: outcome, Err: transport.ErrRefused}
		}
		return nil
	}
	fail := func(ctx context.Context) {
		t.Helper()
		if err := pub.Publish(ctx, []byte("fail")); err == nil {
			t.Error("no error")
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	publish(t, pub, 1)
	fail(t.Context())
	if err := pub.Publish(t.Context(), nil, transport.WithHeader("Subject", "x")); err == nil {
		t.Error("an invalid message was sent")
	}
	outcome = transport.Temporary
	fail(ended)
	publish(t, pub, 1)
	outcome = transport.Unknown
	fail(ended) // may have been sent
	publish(t, pub, 1)
	// A later one has been sent meanwhile: the number can't be used any more.
	outcome = transport.Permanent
	carrier.err = func(*transport.Message) error {
		carrier.err = nil
		publish(t, pub, 1)
		return &transport.SendError{Name: "/a", Outcome: transport.Permanent, Err: transport.ErrRefused}
	}
	fail(t.Context())
	publish(t, pub, 1)
	if want := []uint64{1, 2, 4, 6, 7}; !slices.Equal(carrier.sent, want) {
		t.Errorf("the numbers %d were sent, want %d", carrier.sent, want)
	}
}
