// Package notify tells watchers that something may have become ready. It is what wait
// sets hang on: every entity has a List, and a wait set watches it.
package notify

import (
	"slices"
	"sync"
	"sync/atomic"
)

// List is a list of watchers. The zero value is ready to use.
type List struct {
	mu       sync.Mutex                 // held to change watchers
	watchers atomic.Pointer[[]*watcher] // replaced, never changed in place; nil is none
}

type watcher struct{ wake func() }

// Watch has wake called by every Notify from now on until stop is called. wake must
// not block; it may be called concurrently with itself, and once more by a Notify
// that was under way when stop was called.
func (l *List) Watch(wake func()) (stop func()) {
	w := &watcher{wake}
	l.change(func(all []*watcher) []*watcher { return append(all, w) })
	return func() {
		l.change(func(all []*watcher) []*watcher {
			return slices.DeleteFunc(all, func(other *watcher) bool { return other == w })
		})
	}
}

// change replaces the watchers by what f makes of a copy.
func (l *List) change(f func([]*watcher) []*watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*watcher
	if old := l.watchers.Load(); old != nil {
		all = slices.Clone(*old)
	}
	if all = f(all); len(all) == 0 {
		l.watchers.Store(nil)
	} else {
		l.watchers.Store(&all)
	}
}

// Notify calls every watcher, after the change that may have made something ready.
// The caller holds no lock that a watcher may want.
func (l *List) Notify() {
	watchers := l.watchers.Load()
	if watchers == nil {
		return
	}
	for _, w := range *watchers {
		w.wake()
	}
}
