package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/notify"
	"github.com/postbus/postbus/transport"
)

// ErrTooManyCalls says that MaxOutstanding calls of the client are under way, or
// answered and not collected.
var ErrTooManyCalls = errors.New("too many outstanding calls")

// call is a request that has been or is being sent. Its fields are guarded by the mu of
// its client's calls but for those that do not change.
type call struct {
	sequence uint64
	deadline time.Time
	async    bool          // made by Send: Response collects the outcome
	done     chan struct{} // closed when there is an outcome
	unsend   func()        // ends the sending, which an outcome makes useless

	timer     *time.Timer // makes the deadline an outcome
	listed    bool        // can still get an outcome, or be looked up
	collected bool        // the outcome has been handed out
	sendErr   error       // why it is unknown whether the request was sent
	answer    *transport.Message
	err       error
}

// settled reports whether there is an outcome.
func (c *call) settled() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// noAnswer returns the error of a call that is given up because of err.
func (c *call) noAnswer(err error) error {
	if c.sendErr != nil {
		return fmt.Errorf("no answer, and the request may not have been sent: %w: %w", err, c.sendErr)
	}
	return fmt.Errorf("no answer: %w", err)
}

// calls are the calls of a client that are under way or have an outcome to be collected.
type calls struct {
	watchers notify.List

	mu       sync.Mutex
	sequence uint64
	listed   map[uint64]*call
	ready    int // listed calls of Send that have an outcome
	late     uint64
	closed   bool
}

// add lists a new call.
func (c *calls) add(deadline time.Time, async bool, unsend func()) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("client is %w", transport.ErrClosed)
	}
	if len(c.listed) >= MaxOutstanding {
		c.evictLocked()
	}
	if len(c.listed) >= MaxOutstanding {
		return nil, fmt.Errorf("%w: %d; collect answers with Response", ErrTooManyCalls, len(c.listed))
	}
	c.sequence++
	call := &call{sequence: c.sequence, deadline: deadline, async: async, done: make(chan struct{}), unsend: unsend, listed: true}
	call.timer = time.AfterFunc(time.Until(deadline), func() {
		c.mu.Lock()
		c.expireLocked(call)
		c.mu.Unlock()
		c.watchers.Notify()
	})
	c.listed[call.sequence] = call
	return call, nil
}

// evictLocked makes room: it drops calls of Send whose outcome nobody has collected by
// their deadline. Whoever is waiting for one gets its outcome.
func (c *calls) evictLocked() {
	now := time.Now()
	for _, call := range c.listed {
		if call.async && !now.Before(call.deadline) {
			c.expireLocked(call)
			c.removeLocked(call)
		}
	}
}

// expireLocked settles a call whose deadline has passed.
func (c *calls) expireLocked(call *call) {
	c.settleLocked(call, nil, fmt.Errorf("%w: %w", transport.ErrTimeout, context.DeadlineExceeded))
}

// settleLocked gives a call its outcome, unless it has one or is no longer listed.
func (c *calls) settleLocked(call *call, answer *transport.Message, err error) bool {
	if !call.listed || call.settled() {
		return false
	}
	call.timer.Stop()
	call.answer, call.err = answer, err
	close(call.done)
	call.unsend()
	if call.async {
		c.ready++
	}
	return true
}

// removeLocked takes a call off the list.
func (c *calls) removeLocked(call *call) {
	if !call.listed {
		return
	}
	call.listed = false
	call.timer.Stop()
	delete(c.listed, call.sequence)
	if call.async && call.settled() {
		c.ready--
	}
}

// answer settles the call that a message answers. It returns false, and counts the
// message as late, if no call waits for it.
func (c *calls) answer(m *transport.Message) bool {
	_, sequence, _ := m.Caller()
	c.mu.Lock()
	call := c.listed[sequence]
	ok := call != nil && c.settleLocked(call, m, nil)
	if !ok {
		c.late++
	}
	c.mu.Unlock()
	if ok && call.async {
		c.watchers.Notify()
	}
	return ok
}

// collect takes a call off the list and returns its outcome. ok is false if there is
// none, or it has been handed out.
func (c *calls) collect(call *call) (answer *transport.Message, err error, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(call)
	if call.collected || !call.settled() {
		return nil, nil, false
	}
	call.collected = true
	if call.err != nil {
		return nil, call.noAnswer(call.err), true
	}
	return call.answer, nil, true
}

// unsent notes that it is unknown whether a call's request was sent.
func (c *calls) unsent(call *call, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call.sendErr = err
}

// answered reports whether a call has been answered.
func (c *calls) answered(call *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return call.answer != nil
}

// find returns the call of Send with that number, or nil.
func (c *calls) find(sequence uint64) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call := c.listed[sequence]; call != nil && call.async {
		return call
	}
	return nil
}

// giveUp returns the error of a caller that stops waiting because of err, or nil if
// there is an outcome: that counts, however late one looks. A call that nobody else can
// wait for is dropped.
func (c *calls) giveUp(call *call, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.settled() {
		return nil
	}
	if !call.async {
		c.removeLocked(call)
	}
	return call.noAnswer(err)
}

// anyReady reports whether some call of Send has an outcome, or all have failed.
func (c *calls) anyReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready > 0 || c.closed
}

// lateAnswers returns how many messages answered no call.
func (c *calls) lateAnswers() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

// close fails the calls under way, and those that are made later.
func (c *calls) close() {
	c.mu.Lock()
	c.closed = true
	for _, call := range c.listed {
		c.settleLocked(call, nil, transport.ErrClosed)
	}
	c.mu.Unlock()
	c.watchers.Notify()
}
