package queue

import (
	"context"
	"sync"
)

// maxWaiting is how many tasks of background.inOrder wait at most.
const maxWaiting = 1 << 10

// background does what an inbox can't do where it comes up, because it may block. The zero value is
// ready to use.
type background struct {
	mu      sync.Mutex
	closed  bool
	busy    bool          // a goroutine works off waiting
	working int           // goroutines
	idle    chan struct{} // closed when the last has ended; nil unless close waits
	waiting []func()
}

// atOnce does f in a goroutine of its own. It returns false, and f is not done, after close.
func (b *background) atOnce(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.goLocked(f)
	}
	return !b.closed
}

// inOrder does f after all others, one at a time. It returns false, and f is not done,
// after close and when maxWaiting are waiting. f does not panic.
func (b *background) inOrder(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.waiting) == maxWaiting {
		return false
	}
	b.waiting = append(b.waiting, f)
	if !b.busy {
		b.busy = true
		b.goLocked(b.work)
	}
	return true
}

func (b *background) goLocked(f func()) {
	b.working++
	go func() {
		f()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.working--
		if b.working == 0 && b.idle != nil {
			close(b.idle)
		}
	}()
}

func (b *background) work() {
	for {
		b.mu.Lock()
		if len(b.waiting) == 0 {
			b.busy, b.waiting = false, nil
			b.mu.Unlock()
			return
		}
		f := b.waiting[0]
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
		b.mu.Unlock()
		f()
	}
}

// close refuses further tasks and waits for those there are, until ctx ends.
func (b *background) close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	if b.working == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.idle == nil {
		b.idle = make(chan struct{})
	}
	idle := b.idle
	b.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
