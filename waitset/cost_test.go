package waitset_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/waitset"
)

// crowd returns a set of n entities that has looked at each of them.
func crowd(t *testing.T, n int) (*waitset.WaitSet, []*inbox) {
	t.Helper()
	all := make([]*inbox, n)
	entities := make([]waitset.Entity, n)
	for i := range all {
		all[i] = new(inbox)
		entities[i] = all[i]
	}
	ws := newSet(t, entities...)
	ready, err := ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)
	return ws, all
}

// looks returns how often the entities have been asked since it was last called.
func looks(all []*inbox) (n int64) {
	for _, e := range all {
		n += e.looks.Swap(0)
	}
	return n
}

// What a wait asks is what is ready, what was when the last one ended, and what has changed since.
func TestWaitAsksInProportionToTheReady(t *testing.T) {
	ws, all := crowd(t, 10_000)
	looks(all)
	for _, k := range []int{1, 10, 100, 1000, 1, 0} {
		for _, e := range all[:k] {
			e.put()
		}
		wait := func(most int) {
			t.Helper()
			ready, err := ws.Wait(t.Context(), 0)
			if err != nil || ready.Len() != k {
				t.Fatalf("%d are ready, %v; want %d", ready.Len(), err, k)
			}
			if n := looks(all); n > int64(most) {
				t.Errorf("a wait that found %d of %d ready asked %d times, want at most %d", k, len(all), n, most)
			}
		}
		wait(k) // they have changed
		wait(k) // they still are
		for _, e := range all[:k] {
			e.take()
		}
		was := k
		k = 0
		wait(was)
		wait(0)
	}
}

// counted is a context that knows how often it is looked at.
type counted struct {
	context.Context
	looks atomic.Int64
}

func (c *counted) Err() error            { c.looks.Add(1); return c.Context.Err() }
func (c *counted) Done() <-chan struct{} { c.looks.Add(1); return c.Context.Done() }

// While a set waits nothing runs: neither entities nor the context are asked, however long it takes.
func TestWaitingUsesNoProcessor(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"for ever": -1, "a day": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ws, all := crowd(t, 1000)
				parent, cancel := context.WithCancel(t.Context())
				ctx := &counted{Context: parent}
				done := make(chan error)
				go func() {
					_, err := ws.Wait(ctx, timeout)
					done <- err
				}()
				synctest.Wait()
				looks(all)
				ctx.looks.Store(0)
				time.Sleep(time.Hour) // of the bubble's clock, with all that is due in it
				if n, m := looks(all), ctx.looks.Load(); n+m != 0 {
					t.Errorf("in an hour of waiting entities were asked %d times, the context %d times", n, m)
				}
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
}
