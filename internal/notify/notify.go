// Package notify tells watchers that something may have become ready. It is what wait
// sets hang on: every entity has a List, and a wait set watches it.
package notify

import "sync"

// List is a list of watchers. The zero value is ready to use.
type List struct {
	mu       sync.Mutex
	watchers []*watcher // replaced, never changed in place
}

type watcher struct{ wake func() }

// Watch has wake called by every Notify from now on until stop is called. wake must
// not block; it may be called concurrently with itself, and once more by a Notify
// that was under way when stop was called.
func (l *List) Watch(wake func()) (stop func()) {
	w := &watcher{wake}
	l.mu.Lock()
	l.watchers = append(l.watchers[:len(l.watchers):len(l.watchers)], w)
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		var kept []*watcher
		for _, other := range l.watchers {
			if other != w {
				kept = append(kept, other)
			}
		}
		l.watchers = kept
	}
}

// Notify calls every watcher, after the change that may have made something ready.
// The caller holds no lock that a watcher may want.
func (l *List) Notify() {
	l.mu.Lock()
	watchers := l.watchers
	l.mu.Unlock()
	for _, w := range watchers {
		w.wake()
	}
}
