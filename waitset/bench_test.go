package waitset_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/waitset"
)

var sizes = []int{1, 100, 1_000, 10_000}

// fill returns a set of n entities, of which one is in the middle.
func fill(t testing.TB, n int, one waitset.Entity) *waitset.WaitSet {
	t.Helper()
	entities := make([]waitset.Entity, n)
	for i := range entities {
		entities[i] = new(inbox)
	}
	entities[n/2] = one
	ws, err := waitset.New(entities...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	// The first wait looks at every entity once.
	if _, err := ws.Wait(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return ws
}

// pingPong has a goroutine of its own trigger guard once for each ask.
func pingPong(t testing.TB, guard *waitset.GuardCondition) (ask func()) {
	asked := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range asked {
			guard.Trigger()
		}
	}()
	t.Cleanup(func() { close(asked); <-done })
	return func() { asked <- struct{}{} }
}

func TestWaitDoesNotAllocate(t *testing.T) {
	guard := waitset.NewGuardCondition()
	ws := fill(t, 1000, guard)
	ctx := t.Context()
	wait := func(timeout time.Duration, want int) {
		ready, err := ws.Wait(ctx, timeout)
		n := 0
		for range ready.All() {
			n++
		}
		if err != nil || ready.Len() != want || n != want || ready.Has(guard) != (want == 1) {
			t.Fatalf("%d ready, %v; want %d", ready.Len(), err, want)
		}
	}
	ask := pingPong(t, guard)
	for name, f := range map[string]func(){
		"already ready": func() { guard.Trigger(); wait(-1, 1) },
		"nothing ready": func() { wait(0, 0) },
		"timed out":     func() { wait(1, 0) },
		"woken":         func() { ask(); wait(time.Minute, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%v allocations per wait, want none", n)
			}
		})
	}
}

// BenchmarkWait is a wait that finds one entity of many ready.
func BenchmarkWait(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			one := new(inbox)
			ws := fill(b, n, one)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				one.put()
				if ready, err := ws.Wait(ctx, -1); err != nil || !ready.Has(one) {
					b.Fatal(err)
				}
				one.take()
			}
		})
	}
}

// BenchmarkWake is from the trigger in one goroutine to the return of a wait that was asleep in another. The
// floor is a channel in place of the set.
func BenchmarkWake(b *testing.B) {
	wake := make(chan struct{}, 1)
	b.Run("floor", func(b *testing.B) {
		wakeUps(b, func() { wake <- struct{}{} }, func() { <-wake })
	})
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			guard := waitset.NewGuardCondition()
			ws := fill(b, n, guard)
			ctx := b.Context()
			wakeUps(b, guard.Trigger, func() {
				if ready, err := ws.Wait(ctx, -1); err != nil || !ready.Has(guard) {
					b.Error(err)
				}
			})
		})
	}
}

// wakeUps reports the time from trigger to the return of a wait that was there before it.
func wakeUps(b *testing.B, trigger, wait func()) {
	var took []time.Duration
	var triggered time.Time
	asked, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for range asked {
			runtime.Gosched() // lets the other begin to wait
			triggered = time.Now()
			trigger()
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		asked <- struct{}{}
		wait()
		took = append(took, time.Since(triggered))
	}
	close(asked)
	<-done
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkSubscriptions is the way of a message to one of many subscriptions that a set waits for: from
// Publish to the message in the reader's hands.
func BenchmarkSubscriptions(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ctx := b.Context()
			node, err := transport.NewNode(intraprocess.New(), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer node.Close(ctx)
			entities := make([]waitset.Entity, n)
			for i := range entities {
				if entities[i], err = pubsub.NewSubscription(node, fmt.Sprintf("/topic/%d", i)); err != nil {
					b.Fatal(err)
				}
			}
			one := entities[n/2].(*pubsub.Subscription)
			publisher, err := pubsub.NewPublisher(node, fmt.Sprintf("/topic/%d", n/2))
			if err != nil {
				b.Fatal(err)
			}
			ws, err := waitset.New(entities...)
			if err != nil {
				b.Fatal(err)
			}
			defer ws.Close()
			body := make([]byte, 128)
			b.ReportAllocs()
			for b.Loop() {
				if err := publisher.Publish(ctx, body); err != nil {
					b.Fatal(err)
				}
				if ready, err := ws.Wait(ctx, -1); err != nil || !ready.Has(one) {
					b.Fatal(err)
				}
				if _, ok := one.TryNext(); !ok {
					b.Fatal("no message")
				}
			}
		})
	}
}

// BenchmarkWaitAll is a wait that finds all entities ready, and has to ask each.
func BenchmarkWaitAll(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			entities := make([]waitset.Entity, n)
			for i := range entities {
				one := new(inbox)
				one.put()
				entities[i] = one
			}
			ws, err := waitset.New(entities...)
			if err != nil {
				b.Fatal(err)
			}
			defer ws.Close()
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if ready, err := ws.WaitAll(ctx, -1); err != nil || ready.Len() != n {
					b.Fatal(err)
				}
			}
		})
	}
}
