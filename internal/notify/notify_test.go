package notify_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/internal/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNotify(t *testing.T) {
	var l notify.List
	l.Notify() // nobody hears it
	var a, b int
	stopA := l.Watch(func() { a++ })
	stopB := l.Watch(func() { b++ })
	expect := func(what string, wantA, wantB int) {
		t.Helper()
		if a != wantA || b != wantB {
			t.Errorf("%s: the watchers were called %d and %d times, want %d and %d", what, a, b, wantA, wantB)
		}
	}
	expect("before", 0, 0)
	l.Notify()
	l.Notify()
	expect("both watch", 2, 2)
	stopA()
	stopA() // once more does nothing
	l.Notify()
	expect("one watches", 2, 3)
	stopB()
	l.Notify()
	expect("none watches", 2, 3)
}

// The same function can watch several times, and each has its own stop.
func TestWatchSameFunctionTwice(t *testing.T) {
	var l notify.List
	n := 0
	wake := func() { n++ }
	stop := l.Watch(wake)
	defer l.Watch(wake)()
	l.Notify()
	stop()
	l.Notify()
	if n != 3 {
		t.Errorf("the watcher was called %d times, want 2 and then 1", n)
	}
}

// A watcher may start and stop watching from within wake.
func TestWatchersChangeDuringNotify(t *testing.T) {
	var l notify.List
	var stop func()
	calls, later := 0, 0
	stop = l.Watch(func() {
		calls++
		stop()
		l.Watch(func() { later++ })
	})
	l.Notify()
	if calls != 1 || later != 0 {
		t.Errorf("first: calls %d, of the new watcher %d; want 1, 0", calls, later)
	}
	l.Notify()
	if calls != 1 || later != 1 {
		t.Errorf("second: calls %d, of the new watcher %d; want 1, 1", calls, later)
	}
}

func TestNotifyConcurrently(t *testing.T) {
	var l notify.List
	var stays atomic.Int64
	defer l.Watch(func() { stays.Add(1) })()
	const notifiers, each = 3, 500
	var wg sync.WaitGroup
	for range notifiers {
		wg.Go(func() {
			for range each {
				l.Notify()
			}
		})
		wg.Go(func() {
			for range each {
				l.Watch(func() {})()
			}
		})
	}
	wg.Wait()
	if got := stays.Load(); got != notifiers*each {
		t.Errorf("the watcher that stays was called %d times, want %d", got, notifiers*each)
	}
}

func BenchmarkNotify(b *testing.B) {
	for name, watchers := range map[string]int{"watchers=0": 0, "watchers=1": 1, "watchers=100": 100} {
		b.Run(name, func(b *testing.B) {
			var l notify.List
			wake := make(chan struct{}, 1)
			for range watchers {
				l.Watch(func() {
					select {
					case wake <- struct{}{}:
					default:
					}
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				l.Notify()
			}
		})
	}
}
