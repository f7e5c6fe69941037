package waitset_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/internal/notify"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/waitset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inbox is the least entity there can be: a counter of things to take.
type inbox struct {
	notify.List
	items   atomic.Int64
	closed  atomic.Bool
	watched atomic.Int64
	looks   atomic.Int64 // calls of Ready
}

func (b *inbox) put()  { b.items.Add(1); b.Notify() }
func (b *inbox) take() { b.items.Add(-1) }
func (b *inbox) end()  { b.closed.Store(true); b.Notify() }

func (b *inbox) Ready() bool {
	b.looks.Add(1)
	return b.items.Load() > 0 || b.closed.Load()
}

func (b *inbox) Watch(wake func()) (stop func()) {
	b.watched.Add(1)
	unwatch := b.List.Watch(wake)
	return func() { b.watched.Add(-1); unwatch() }
}

func newSet(t *testing.T, entities ...waitset.Entity) *waitset.WaitSet {
	t.Helper()
	ws, err := waitset.New(entities...)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { ws.Close() })
	return ws
}

// expect checks the outcome of a wait: no error, and exactly these entities, in order.
func expect(t *testing.T, ready waitset.Ready, err error, want ...waitset.Entity) {
	t.Helper()
	if err != nil {
		t.Fatalf("wait: %v", err)
	}
	if ready.Len() != len(want) {
		t.Errorf("%d entities are ready, want %d", ready.Len(), len(want))
	}
	if got := slices.Collect(ready.All()); !slices.Equal(got, want) {
		t.Errorf("ready: %v, want %v", got, want)
	}
	for i, e := range want {
		if !ready.Has(e) {
			t.Errorf("entity %d is not ready", i)
		}
	}
}

func expectNothing(t *testing.T, ready waitset.Ready, err error) {
	t.Helper()
	expect(t, ready, err)
}

// The tests of the origin and of rcl, restated. In a bubble time passes only while
// everything in it is blocked: where one goes by in them, the wait is not spinning.

func TestEmptySetSleeps(t *testing.T) {
	for name, wait := range map[string]func(*waitset.WaitSet, context.Context, time.Duration) (waitset.Ready, error){
		"Wait": (*waitset.WaitSet).Wait, "WaitAll": (*waitset.WaitSet).WaitAll,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ws := newSet(t)
				ctx := t.Context()

				start := time.Now()
				ready, err := wait(ws, ctx, 100*time.Millisecond)
				expectNothing(t, ready, err)
				if d := time.Since(start); d != 100*time.Millisecond {
					t.Errorf("slept %v, want 100ms", d)
				}

				start = time.Now()
				ready, err = wait(ws, ctx, 0)
				expectNothing(t, ready, err)
				if d := time.Since(start); d != 0 {
					t.Errorf("a look slept %v", d)
				}

				ctx, cancel := context.WithTimeout(ctx, time.Hour)
				defer cancel()
				start = time.Now()
				_, err = wait(ws, ctx, -1)
				if !errors.Is(err, transport.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v, want that of the context", err)
				}
				if d := time.Since(start); d != time.Hour {
					t.Errorf("slept %v, want until the context ended", d)
				}
			})
		})
	}
}

func TestNotReadyTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := newSet(t, new(inbox), waitset.NewGuardCondition())
		for range 3 {
			start := time.Now()
			ready, err := ws.Wait(t.Context(), 10*time.Millisecond)
			expectNothing(t, ready, err)
			if d := time.Since(start); d != 10*time.Millisecond {
				t.Errorf("waited %v, want 10ms", d)
			}
		}
	})
}

func TestGuardCondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var guard waitset.GuardCondition
		other := waitset.NewGuardCondition()
		ws := newSet(t, &guard, other)
		start := time.Now()
		time.AfterFunc(100*time.Millisecond, guard.Trigger)
		ready, err := ws.Wait(t.Context(), time.Second)
		expect(t, ready, err, &guard)
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("waited %v, want 100ms", d)
		}
		if ready.Has(other) {
			t.Error("the guard condition that was not triggered is ready")
		}

		// Reported, hence reset.
		ready, err = ws.Wait(t.Context(), time.Second)
		expectNothing(t, ready, err)
	})
}

func TestTriggerBeforeWaitIsRemembered(t *testing.T) {
	guard := waitset.NewGuardCondition()
	guard.Trigger() // in no set yet
	guard.Trigger() // the same trigger
	ws := newSet(t, guard)
	ready, err := ws.Wait(t.Context(), 0)
	expect(t, ready, err, guard)
	ready, err = ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)

	guard.Trigger()
	ready, err = ws.Wait(t.Context(), -1)
	expect(t, ready, err, guard)

	// A trigger outlives the set that did not report it.
	guard.Trigger()
	if err := ws.Clear(); err != nil {
		t.Fatal(err)
	}
	ready, err = newSet(t, guard).Wait(t.Context(), 0)
	expect(t, ready, err, guard)
}

func TestSeveralWaits(t *testing.T) {
	a, b, c := new(inbox), new(inbox), waitset.NewGuardCondition()
	ws := newSet(t, a, b, c)
	b.put()
	ready, err := ws.Wait(t.Context(), -1)
	expect(t, ready, err, b)
	// Nothing was taken.
	a.put()
	c.Trigger()
	ready, err = ws.Wait(t.Context(), -1)
	expect(t, ready, err, a, b, c)
	b.take()
	ready, err = ws.Wait(t.Context(), -1)
	expect(t, ready, err, a)
	a.take()
	ready, err = ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)
	b.put()
	ready, err = ws.Wait(t.Context(), -1)
	expect(t, ready, err, b)
}

func TestReadyIsOfTheLastWait(t *testing.T) {
	a, b := new(inbox), new(inbox)
	ws := newSet(t, a, b)
	a.put()
	first, err := ws.Wait(t.Context(), 0)
	expect(t, first, err, a)
	a.take()
	b.put()
	second, err := ws.Wait(t.Context(), 0)
	expect(t, second, err, b)
	expectNothing(t, first, nil)
	if first.Has(a) || first.Has(b) {
		t.Error("the Ready of an earlier wait is not empty")
	}
	expectNothing(t, waitset.Ready{}, nil)
	if (waitset.Ready{}).Has(a) {
		t.Error("the zero Ready is not empty")
	}
}

func TestClosedEntityIsReady(t *testing.T) {
	a := new(inbox)
	ws := newSet(t, a, new(inbox))
	go a.end()
	ready, err := ws.Wait(t.Context(), -1)
	expect(t, ready, err, a)
}

func TestWaitAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, guard := new(inbox), new(inbox), waitset.NewGuardCondition()
		ws := newSet(t, a, b, guard)
		a.put()
		guard.Trigger()
		ready, err := ws.WaitAll(t.Context(), 0)
		expectNothing(t, ready, err)
		ready, err = ws.WaitAll(t.Context(), time.Second)
		expectNothing(t, ready, err)
		if ready.Has(a) {
			t.Error("a WaitAll that timed out reports an entity")
		}

		// The trigger was not reported, so it is still there, for Wait too.
		start := time.Now()
		time.AfterFunc(time.Second, b.put)
		ready, err = ws.WaitAll(t.Context(), -1)
		expect(t, ready, err, a, b, guard)
		if d := time.Since(start); d != time.Second {
			t.Errorf("waited %v, want 1s", d)
		}
		ready, err = ws.Wait(t.Context(), 0)
		expect(t, ready, err, a, b)
	})
}

func TestWaitAllWantsAllAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := new(inbox), new(inbox)
		ws := newSet(t, a, b)
		a.put()
		time.AfterFunc(1*time.Second, func() { a.take(); b.put() }) // taken by somebody else
		time.AfterFunc(2*time.Second, a.put)
		start := time.Now()
		ready, err := ws.WaitAll(t.Context(), -1)
		expect(t, ready, err, a, b)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("waited %v, want 2s", d)
		}
	})
}

func TestWaitAfterTimedOutWaitAll(t *testing.T) {
	a, guard := new(inbox), waitset.NewGuardCondition()
	ws := newSet(t, a, guard)
	guard.Trigger()
	ready, err := ws.WaitAll(t.Context(), 0)
	expectNothing(t, ready, err)
	ready, err = ws.Wait(t.Context(), 0)
	expect(t, ready, err, guard)
}

func TestWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, guard := new(inbox), waitset.NewGuardCondition()
		if ok, err := waitset.WaitFor(t.Context(), time.Second, a); ok || err != nil {
			t.Errorf("WaitFor = %v, %v; want a timeout", ok, err)
		}
		time.AfterFunc(time.Second, a.put)
		if ok, err := waitset.WaitFor(t.Context(), -1, a); !ok || err != nil {
			t.Errorf("WaitFor = %v, %v; want ready", ok, err)
		}
		if n := a.watched.Load(); n != 0 {
			t.Errorf("%d watches are left", n)
		}
		guard.Trigger()
		for _, want := range []bool{true, false} {
			if ok, err := waitset.WaitFor(t.Context(), 0, guard); ok != want || err != nil {
				t.Errorf("WaitFor = %v, %v; want %v", ok, err, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if ok, err := waitset.WaitFor(ctx, -1, guard); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("WaitFor = %v, %v; want the context's error", ok, err)
		}
	})
}

// A wait looks only at what is ready or has changed, not at all of the set.
func TestWaitLooksOnlyAtWhatChanged(t *testing.T) {
	quiet, loud := new(inbox), new(inbox)
	ws := newSet(t, quiet, loud)
	ready, err := ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)
	quiet.looks.Store(0)
	for range 100 {
		loud.put()
		ready, err := ws.Wait(t.Context(), -1)
		expect(t, ready, err, loud)
		loud.take()
	}
	if n := quiet.looks.Load(); n != 0 {
		t.Errorf("waits looked %d times at an entity that had not changed", n)
	}
}
