package service

import (
	"context"
	"sync"
	"time"
)

// deadlineContext is what context.WithDeadline returns, made when somebody wants more of it than Err or
// Deadline: most calls in a process are over before anybody does, and then need no timer. Its end is to be
// called when it is done with. It is not copied.
type deadlineContext struct {
	parent   context.Context
	deadline time.Time

	mu    sync.Mutex
	ended bool
	made  *madeContext // nil until it is needed
}

type madeContext struct {
	context.Context
	cancel context.CancelFunc
}

var _ context.Context = (*deadlineContext)(nil)

// Deadline implements context.Context.
func (c *deadlineContext) Deadline() (time.Time, bool) {
	if deadline, ok := c.parent.Deadline(); ok && deadline.Before(c.deadline) {
		return deadline, true
	}
	return c.deadline, true
}

// Done implements context.Context.
func (c *deadlineContext) Done() <-chan struct{} { return c.make().Done() }

// Err implements context.Context.
func (c *deadlineContext) Err() error {
	c.mu.Lock()
	unmade := c.made == nil && !c.ended
	c.mu.Unlock()
	if unmade && c.parent.Err() == nil && time.Until(c.deadline) > 0 {
		return nil
	}
	return c.make().Err()
}

// Value implements context.Context. Package context itself asks for values, to find what a context is
// derived from, and why it has ended: so it is made.
func (c *deadlineContext) Value(key any) any { return c.make().Value(key) }

func (c *deadlineContext) make() context.Context {
	c.mu.Lock()
	made, ended := c.made, c.ended
	if made == nil {
		made = new(madeContext)
		made.Context, made.cancel = context.WithDeadline(c.parent, c.deadline)
		c.made = made
	}
	c.mu.Unlock()
	if ended {
		made.cancel()
	}
	return made.Context
}

// end cancels the context.
func (c *deadlineContext) end() {
	c.mu.Lock()
	made := c.made
	c.ended = true
	c.mu.Unlock()
	if made != nil {
		made.cancel()
	}
}
