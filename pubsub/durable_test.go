package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

// handleTracked has a durable subscription handled, and returns the attempts with their times since the
// beginning.
func handleTracked(t *testing.T, sub *pubsub.Subscription, callback func(*transport.Message) error) (log func() string) {
	t.Helper()
	begin := time.Now()
	var mu sync.Mutex
	var all []string
	err := sub.Handle(func(_ context.Context, m *transport.Message) error {
		mu.Lock()
		all = append(all, fmt.Sprintf("%s@%v", m.Body, time.Since(begin)))
		mu.Unlock()
		return callback(m)
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, " ")
	}
}

func checkDead(t *testing.T, bus *intraprocess.Bus, want ...string) {
	t.Helper()
	var got []string
	for _, d := range bus.DeadLetters() {
		got = append(got, fmt.Sprintf("%s: %s", d.Message.Body, d.Reason))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the dead letters are %q, want %q", got, want)
	}
}

func TestCallbackFailsAndIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		name    string
		fail    func() error
		options []pubsub.SubscriptionOption
		want    string
		reason  string
	}{
		{"error", func() error { return errors.New("no luck") }, nil, "1@0s 2@0s 1@1s 1@3s 1@7s 1@15s", "1: no luck"},
		{"panic", func() error { panic("no luck") }, nil, "1@0s 2@0s 1@1s 1@3s 1@7s 1@15s", "1: the handler panicked or ended its goroutine"},
		{"twice", func() error { return errors.New("no luck") }, []pubsub.SubscriptionOption{pubsub.MaxDeliver(2)}, "1@0s 2@0s 1@1s", "1: no luck"},
		{"rejected", func() error { return fmt.Errorf("%w: not for me", pubsub.ErrReject) }, nil, "1@0s 2@0s", "1: message rejected: not for me"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := intraprocess.NewBus()
				node := newNode(t, bus)
				sub := newSubscription(t, node, "/a", append(c.options, pubsub.Durable("d"))...)
				log := handleTracked(t, sub, func(m *transport.Message) error {
					if string(m.Body) == "1" {
						return c.fail()
					}
					return nil
				})
				publish(t, newPublisher(t, node, "/a"), 2)
				time.Sleep(time.Hour)
				if got := log(); got != c.want {
					t.Errorf("handled %s, want %s", got, c.want)
				}
				checkDead(t, bus, c.reason)
			})
		})
	}
}

func TestUndecodableMessageIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		node := newNode(t, bus)
		sub, err := pubsub.NewTypedSubscription(node, "/a", codec.JSON[int](), pubsub.Group("g"))
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		err = sub.Handle(func(_ context.Context, v pubsub.Typed[int]) error { got = append(got, v.Value); return nil })
		if err != nil {
			t.Fatal(err)
		}
		pub := newPublisher(t, node, "/a")
		for _, body := range []string{"1", "{", "2"} {
			if err := pub.Publish(t.Context(), []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if dead := bus.DeadLetters(); !slices.Equal(got, []int{1, 2}) || len(dead) != 1 || string(dead[0].Message.Body) != "{" {
			t.Errorf("got %v, dead are %v", got, dead)
		}
	})
}

// What has not reached the callback when the subscription is closed is given back, and does not count as tried.
func TestCloseGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		sub := newSubscription(t, node, "/a", pubsub.Durable("d"))
		begin := make(chan struct{})
		log := handleTracked(t, sub, func(*transport.Message) error { <-begin; return nil })
		publish(t, newPublisher(t, node, "/a"), 4)
		synctest.Wait()
		sub.Close()
		close(begin)
		synctest.Wait()
		if got := log(); got != "1@0s" {
			t.Errorf("handled %s, want only the first", got)
		}
		sub = newSubscription(t, node, "/a", pubsub.Durable("d"))
		for n := 2; n <= 4; n++ {
			d, err := sub.Take(t.Context())
			if err != nil || string(d.Message.Body) != fmt.Sprint(n) || d.Attempt != 1 {
				t.Errorf("took %s in attempt %d: %v", d.Message.Body, d.Attempt, err)
			}
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		}
		if sub.Ready() {
			t.Error("there is more")
		}
	})
}

// A durable subscription that takes nothing keeps nobody from anything, and loses nothing.
func TestSlowDurableSubscription(t *testing.T) {
	bus := intraprocess.NewBus()
	node := newNode(t, bus)
	slow := newSubscription(t, node, "/a", pubsub.Durable("slow"), pubsub.KeepLast(3))
	quick := newSubscription(t, node, "/a", pubsub.Durable("quick"), pubsub.KeepFirst(1))
	live := newSubscription(t, node, "/a", pubsub.KeepAll())
	pub := newPublisher(t, node, "/a")
	const n = 100
	for i := range n {
		publish(t, pub, 1)
		if _, ok := quick.TryNext(); !ok {
			t.Fatalf("the quick subscription has not got message %d", i)
		}
		if _, ok := live.TryNext(); !ok {
			t.Fatalf("the live subscription has not got message %d", i)
		}
	}
	seen := 0
	for _, ok := slow.TryNext(); ok; _, ok = slow.TryNext() {
		seen++
	}
	if seen != n || slow.Dropped() != 0 {
		t.Errorf("the slow subscription got %d of %d messages, %d were dropped", seen, n, slow.Dropped())
	}
}

func TestNoMoreThanKeepLastInFlight(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	sub := newSubscription(t, node, "/a", pubsub.Group("g"), pubsub.KeepLast(3))
	publish(t, newPublisher(t, node, "/a"), 10)
	var taken []transport.Delivery
	for range 3 {
		d, err := sub.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, d)
	}
	if sub.Ready() {
		t.Error("a fourth message is there")
	}
	if err := taken[1].Ack(); err != nil {
		t.Error(err)
	}
	if d, err := sub.Take(t.Context()); err != nil || string(d.Message.Body) != "4" {
		t.Errorf("took %s, %v", d.Message.Body, err)
	}
}

// Old messages of a durable subscription are done with: neither dead, nor do they come again.
func TestLifespanOfDurableSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		node := newNode(t, bus)
		sub := newSubscription(t, node, "/a", pubsub.Durable("d"), pubsub.Lifespan(time.Minute))
		publish(t, newPublisher(t, node, "/a"), 100) // more than are in flight
		time.Sleep(time.Hour)
		for sub.Ready() {
			t.Error("an old message is ready")
		}
		synctest.Wait()
		if sub.Ready() || sub.Dropped() < transport.DefaultInFlight {
			t.Errorf("ready %v, dropped %d", sub.Ready(), sub.Dropped())
		}
		sub.Ready()
		synctest.Wait()
		if sub.Dropped() != 100 {
			t.Errorf("%d were dropped, want 100", sub.Dropped())
		}
		checkDead(t, bus)
		sub.Close()
		if sub = newSubscription(t, node, "/a", pubsub.Durable("d")); sub.Ready() {
			t.Error("an old message came again")
		}
	})
}

func TestLast(t *testing.T) {
	node := newNode(t, &intraprocess.Bus{History: 50})
	pub := newPublisher(t, node, "/a")
	publish(t, pub, 30)
	for _, c := range []struct {
		options []pubsub.SubscriptionOption
		want    int
	}{
		{[]pubsub.SubscriptionOption{pubsub.Last(20)}, 20},
		{[]pubsub.SubscriptionOption{pubsub.Last(5)}, 5},
		{[]pubsub.SubscriptionOption{pubsub.Last(20), pubsub.KeepAll()}, 20},
		{[]pubsub.SubscriptionOption{pubsub.Last(20), pubsub.KeepLast(3)}, 3},
		{[]pubsub.SubscriptionOption{pubsub.Last(20), pubsub.Durable("d")}, 20},
	} {
		sub := newSubscription(t, node, "/a", c.options...)
		if got := len(strings.Fields(take(sub))); got != c.want {
			t.Errorf("got %d messages, want %d", got, c.want)
		}
	}
	_, err := pubsub.NewSubscription(newNode(t, intraprocess.NewBus()), "/a", pubsub.Last(1))
	if !errors.Is(err, transport.ErrNotSupported) || !strings.Contains(err.Error(), "History") {
		t.Errorf("the last of a bus without a history: %v", err)
	}
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		var reported []time.Duration
		sub := newSubscription(t, node, "/a", pubsub.Deadline(time.Second, func(d time.Duration) { reported = append(reported, d) }))
		pub := newPublisher(t, node, "/a")
		for range 5 {
			time.Sleep(900 * time.Millisecond)
			publish(t, pub, 1)
		}
		time.Sleep(2100 * time.Millisecond)
		sub.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []time.Duration{time.Second, 2 * time.Second}; !slices.Equal(reported, want) {
			t.Errorf("reported %v, want %v", reported, want)
		}
	})
}

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

// A message that can't be put on record as taken is not handed out: it comes again.
func TestAcknowledgementFails(t *testing.T) {
	carrier, node := newScripted(t)
	sub := newSubscription(t, node, "/a", pubsub.Durable("d"))
	push := func() {
		carrier.deliver(transport.Delivery{Message: &transport.Message{Kind: transport.TopicMessage, Name: "/a"}, Settler: unsettled{}, Attempt: 1})
	}
	good := func() {
		carrier.deliver(transport.Delivery{Message: &transport.Message{Kind: transport.TopicMessage, Name: "/a", Body: []byte("good")}})
	}
	push()
	if m, err := sub.Next(t.Context()); m != nil || !errors.Is(err, errDisk) {
		t.Errorf("Next: %v, %v", m, err)
	}
	push()
	good()
	if m, ok := sub.TryNext(); !ok || string(m.Body) != "good" {
		t.Errorf("TryNext: %v, %v", m, ok)
	}
	push()
	good()
	for m := range sub.All(t.Context()) {
		if string(m.Body) != "good" {
			t.Errorf("All: %v", m)
		}
		break
	}
	push()
	if d, err := sub.Take(t.Context()); err != nil || !errors.Is(d.Ack(), errDisk) {
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
