package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postbus/postbus/internal/torture/history"
)

// glance is how often the history is read while the run goes on.
const glance = 20 * time.Millisecond

// sync reads what has been added to the history. r.mu is held.
func (r *run) sync() error {
	for {
		e, at, err := r.follower.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r.checker.Add(e, at)
		switch e.Kind {
		case history.Open, history.Acked, history.Take, history.Done, history.Run, history.Ran, history.Outcome:
			r.moved = time.Now()
		}
	}
}

// read reads the history, and tells of progress, until ctx ends.
func (r *run) read(ctx context.Context) {
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	told := time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		if err := r.sync(); err != nil {
			r.mu.Unlock()
			return // what reads next gets the same error
		}
		progress := r.checker.Progress()
		r.mu.Unlock()
		if r.Progress != nil && time.Since(told) > 5*time.Second {
			told = time.Now()
			// Nothing depends on it.
			_, _ = fmt.Fprintln(r.Progress, progress)
		}
	}
}

// await waits until a condition on the checker holds. It gives up when nothing has got through
// for as long as the patience goes, whatever else has happened: faults alone are no progress.
func (r *run) await(ctx context.Context, what string, condition func() bool) error {
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	began := time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		err := r.sync()
		done := err == nil && condition()
		last := r.moved
		r.mu.Unlock()
		switch {
		case err != nil:
			return err
		case done:
			return nil
		case time.Since(last) > r.Patience && time.Since(began) > r.Patience:
			return fmt.Errorf("torture: nothing has got through for %v while waiting for %s", r.Patience, what)
		}
	}
}

// opened reports whether all receiving ends are open.
func (r *run) opened() bool {
	for _, c := range r.children {
		if c.receives() && !r.checker.Opened(c.process()) {
			return false
		}
	}
	return true
}

// awaitPublished waits until everything is published and called, or the time for it is over.
func (r *run) awaitPublished(ctx context.Context) error {
	timed := ctx
	if r.Duration > 0 {
		var cancel context.CancelFunc
		timed, cancel = context.WithTimeout(ctx, r.Duration)
		defer cancel()
	}
	err := r.await(timed, "messages to be published", func() bool {
		for _, c := range r.children {
			if !c.receives() && !c.finished() {
				return false
			}
		}
		return true
	})
	if err == nil || timed.Err() == nil || ctx.Err() != nil {
		return err
	}
	for _, c := range r.children {
		if !c.receives() {
			c.hold()
		}
	}
	return nil
}
