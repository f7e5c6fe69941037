package service

import (
	"container/heap"
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
	async    bool            // made by Send: Response collects the outcome
	sending  deadlineContext // ends at the call's deadline, or with the outcome, which makes it useless

	place     int           // in calls.waiting, from 1; 0 when it is not there
	listed    bool          // can still get an outcome, or be looked up
	settled   bool          // there is an outcome
	collected bool          // it has been handed out
	done      chan struct{} // says that there is an outcome; nil unless somebody waits for it
	sendErr   error         // why it is unknown whether the request was sent
	answer    *transport.Message
	err       error
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
	waiting  byDeadline  // listed calls without an outcome
	timer    *time.Timer // makes their deadlines outcomes; nil before the first call
	due      time.Time   // when the timer fires; zero when it does not
	ready    int         // listed calls of Send that have an outcome
	late     uint64
	closed   bool
}

// add lists a new call. ctx bounds its sending.
func (c *calls) add(ctx context.Context, deadline time.Time, async bool) (*call, error) {
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
	call := &call{
		sequence: c.sequence,
		async:    async,
		sending:  deadlineContext{parent: ctx, deadline: deadline},
		listed:   true,
	}
	c.listed[call.sequence] = call
	heap.Push(&c.waiting, call)
	if c.due.IsZero() || deadline.Before(c.due) {
		c.wakeAtLocked(deadline)
	}
	return call, nil
}

// wakeAtLocked has expire called at that time.
func (c *calls) wakeAtLocked(at time.Time) {
	c.due = at
	if c.timer == nil {
		c.timer = time.AfterFunc(time.Until(at), c.expire)
	} else {
		c.timer.Reset(time.Until(at))
	}
}

// expire settles the calls whose deadline has passed. One timer is enough for all of a client's: it is
// left alone when the call that it was set for gets its answer, which is what nearly always happens.
func (c *calls) expire() {
	c.mu.Lock()
	c.due = time.Time{}
	now, before := time.Now(), len(c.waiting)
	for len(c.waiting) > 0 && !now.Before(c.waiting[0].sending.deadline) {
		c.expireLocked(c.waiting[0])
	}
	after := len(c.waiting)
	if after > 0 {
		c.wakeAtLocked(c.waiting[0].sending.deadline)
	}
	c.mu.Unlock()
	if after < before {
		c.watchers.Notify()
	}
}

// evictLocked makes room: it drops calls of Send whose outcome nobody has collected by
// their deadline. Whoever is waiting for one gets its outcome.
func (c *calls) evictLocked() {
	now := time.Now()
	for _, call := range c.listed {
		if call.async && !now.Before(call.sending.deadline) {
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
	if !call.listed || call.settled {
		return false
	}
	heap.Remove(&c.waiting, call.place-1)
	call.answer, call.err, call.settled = answer, err, true
	if call.done != nil {
		close(call.done)
	}
	call.sending.end()
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
	if call.place > 0 {
		heap.Remove(&c.waiting, call.place-1)
	}
	delete(c.listed, call.sequence)
	if call.async && call.settled {
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
	if call.collected || !call.settled {
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

// outcome returns a channel that is closed when the call has an outcome, or nil if it has one.
func (c *calls) outcome(call *call) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !call.settled && call.done == nil {
		call.done = make(chan struct{})
	}
	if call.settled {
		return nil
	}
	return call.done
}

// giveUp returns the error of a caller that stops waiting because of err, or nil if
// there is an outcome: that counts, however late one looks. A call that nobody else can
// wait for is dropped.
func (c *calls) giveUp(call *call, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.settled {
		return nil
	}
	if !call.async {
		c.removeLocked(call)
	}
	return call.noAnswer(err)
}

// hasOutcome reports whether there is a call of Send with that number that has an outcome.
func (c *calls) hasOutcome(sequence uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.listed[sequence]
	return call != nil && call.async && call.settled
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
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.watchers.Notify()
}
