package waitset_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/waitset"
)

func TestUseDuringWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guard := waitset.NewGuardCondition()
		ws := newSet(t, guard)
		before, err := ws.Wait(t.Context(), 0)
		expectNothing(t, before, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			ready, err := ws.Wait(t.Context(), -1)
			expect(t, ready, err, guard)
		}()
		synctest.Wait() // until the wait is asleep
		for name, use := range map[string]func() error{
			"Wait":    func() error { _, err := ws.Wait(t.Context(), -1); return err },
			"WaitAll": func() error { _, err := ws.WaitAll(t.Context(), 0); return err },
			"Add":     func() error { return ws.Add(new(inbox)) },
			"Remove":  func() error { return ws.Remove(guard) },
			"Clear":   ws.Clear,
		} {
			if err := use(); !errors.Is(err, waitset.ErrWaiting) {
				t.Errorf("%s during a wait: %v, want ErrWaiting", name, err)
			}
		}
		guard.Trigger()
		<-done
		if err := ws.Clear(); err != nil {
			t.Errorf("Clear after the wait: %v", err)
		}
	})
}

func TestCloseEndsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, guard := new(inbox), waitset.NewGuardCondition()
		ws := newSet(t, a, guard)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := ws.WaitAll(t.Context(), -1); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("the wait ended with %v, want ErrClosed", err)
			}
		}()
		synctest.Wait()
		guard.Trigger()
		for range 2 {
			if err := ws.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		<-done
		if n := a.watched.Load(); n != 0 {
			t.Errorf("%d watches are left", n)
		}
		for name, use := range map[string]func() error{
			"Wait":   func() error { _, err := ws.Wait(t.Context(), 0); return err },
			"Add":    func() error { return ws.Add(a) },
			"Remove": func() error { return ws.Remove(a) },
			"Clear":  ws.Clear,
		} {
			if err := use(); !errors.Is(err, transport.ErrClosed) {
				t.Errorf("%s after Close: %v, want ErrClosed", name, err)
			}
		}
		// The guard condition is free again, and its trigger was not lost.
		ready, err := newSet(t, guard).Wait(t.Context(), 0)
		expect(t, ready, err, guard)
	})
}

func TestContextEndsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guard := waitset.NewGuardCondition()
		ws := newSet(t, guard)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		if _, err := ws.Wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want Canceled", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("waited %v, want 1s", d)
		}

		// An ended context ends loops of waits that would always find something.
		guard.Trigger()
		ready, err := ws.Wait(ctx, 0)
		if !errors.Is(err, context.Canceled) || ready.Len() != 0 {
			t.Errorf("Wait = %d ready, %v; want the context's error", ready.Len(), err)
		}
		// And the trigger is still there.
		ready, err = ws.Wait(t.Context(), 0)
		expect(t, ready, err, guard)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ws.WaitAll(ctx, time.Hour); !errors.Is(err, transport.ErrTimeout) {
			t.Errorf("error %v, want ErrTimeout", err)
		}
	})
}

// Timers are used again: one that is left over must not end a later wait early.
func TestTimeoutsFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guard := waitset.NewGuardCondition()
		ws := newSet(t, guard)
		for _, d := range []time.Duration{3, 1, 2} {
			time.AfterFunc(d*time.Millisecond/2, guard.Trigger)
			ready, err := ws.Wait(t.Context(), d*time.Millisecond)
			expect(t, ready, err, guard)
			start := time.Now()
			ready, err = ws.Wait(t.Context(), d*time.Millisecond)
			expectNothing(t, ready, err)
			if got := time.Since(start); got != d*time.Millisecond {
				t.Errorf("waited %v, want %v", got, d*time.Millisecond)
			}
		}
	})
}

// Each producer triggers its condition, waits until that is reported, and triggers again:
// one lost trigger and the test does not end.
func TestNoTriggerIsLost(t *testing.T) {
	const producers, rounds = 8, 2000
	guards := make([]*waitset.GuardCondition, producers)
	reported := make([]chan struct{}, producers)
	ws := newSet(t)
	var wg sync.WaitGroup
	for i := range guards {
		guards[i] = waitset.NewGuardCondition()
		reported[i] = make(chan struct{}, 1)
		if err := ws.Add(guards[i]); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range rounds {
				guards[i].Trigger()
				<-reported[i]
			}
		})
	}
	// The consumer alternates between all the ways in which a wait can end.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for total, n := 0, 0; total < producers*rounds; n++ {
		var ready waitset.Ready
		var err error
		switch n % 5 {
		case 0:
			ready, err = ws.Wait(t.Context(), -1)
		case 1:
			ready, err = ws.Wait(t.Context(), 0)
		case 2:
			ready, err = ws.Wait(t.Context(), time.Microsecond)
		case 3:
			ready, err = ws.WaitAll(t.Context(), time.Microsecond)
		case 4:
			if _, err := ws.Wait(ended, -1); !errors.Is(err, context.Canceled) {
				t.Fatalf("Wait: %v", err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range guards {
			if ready.Has(g) {
				total++
				select {
				case reported[i] <- struct{}{}:
				default:
					t.Fatal("a trigger was reported twice")
				}
			}
		}
	}
	wg.Wait()
	ready, err := ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)
}

// Triggers of one condition coalesce, but each is followed by a report.
func TestConcurrentTriggersOfOneCondition(t *testing.T) {
	const goroutines, triggers = 8, 500
	guard, done := waitset.NewGuardCondition(), waitset.NewGuardCondition()
	ws := newSet(t, guard, done)
	var mu sync.Mutex
	more := sync.NewCond(&mu)
	reports := 0
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range triggers {
				mu.Lock()
				before := reports
				mu.Unlock()
				guard.Trigger()
				mu.Lock()
				for reports == before {
					more.Wait()
				}
				mu.Unlock()
			}
		})
	}
	go func() { wg.Wait(); done.Trigger() }()
	for {
		ready, err := ws.Wait(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		if ready.Has(guard) {
			mu.Lock()
			reports++
			mu.Unlock()
			more.Broadcast()
		}
		if ready.Has(done) {
			return
		}
	}
}

// A set is waited on while its entities are filled, and taken from by others too.
func TestManyProducersOneSet(t *testing.T) {
	const producers, items = 16, 500
	boxes := make(map[waitset.Entity]*inbox)
	ws := newSet(t)
	var wg sync.WaitGroup
	for range producers {
		b := new(inbox)
		boxes[b] = b
		if err := ws.Add(b); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range items {
				b.put()
			}
		})
	}
	for taken := 0; taken < producers*items; {
		ready, err := ws.Wait(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		if ready.Len() == 0 {
			t.Fatal("a wait without timeout reported nothing")
		}
		for e := range ready.All() {
			b := boxes[e]
			n := b.items.Load()
			b.items.Add(-n)
			taken += int(n)
		}
	}
	wg.Wait()
	ready, err := ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)
}

// Everything at once, for the race detector: the only promise is that nothing hangs.
func TestAnarchy(t *testing.T) {
	const rounds = 300
	a, guard := new(inbox), waitset.NewGuardCondition()
	ws := newSet(t, a, guard)
	var wg sync.WaitGroup
	for _, f := range []func(){
		guard.Trigger,
		a.put,
		func() {
			ready, _ := ws.Wait(t.Context(), time.Microsecond)
			for e := range ready.All() {
				ready.Has(e)
				ready.Len()
			}
		},
		func() { ws.WaitAll(t.Context(), time.Microsecond) },
		func() { ws.Clear() },
		func() { ws.Add(a, guard) },
		func() { ws.Remove(guard) },
		func() { ws.Add(guard) },
	} {
		wg.Go(func() {
			for range rounds {
				f()
			}
		})
	}
	wg.Wait()
	if err := ws.Clear(); err != nil {
		t.Fatal(err)
	}
	if n := a.watched.Load(); n != 0 {
		t.Errorf("%d watches are left", n)
	}
	if err := newSet(t).Add(guard); err != nil {
		t.Errorf("the guard condition is not free: %v", err)
	}
}
