package pubsub_test

import (
	"context"
	"errors"
	"fmt"
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
