package email

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

// collector keeps the calls of send that come while a mail is on its way, until it is their turn. Those to the
// same recipients stay in order; lanes of different ones take turns.
type collector struct {
	limits Batching
	// single reports whether a message has to be a mail of its own.
	single func(*transport.Message) bool

	mu     sync.Mutex
	lanes  map[string]*lane
	turns  []*lane // those with calls, the next first
	count  int     // of the messages in lanes
	size   int     // of what their calls have to send next, estimated
	busy   bool    // somebody sends, and will look what has been collected
	closed bool
	full   chan struct{} // gets something when there is a mail full; capacity 1

	draining sync.WaitGroup // what sends what has been collected
}

// lane is what waits to be sent to the same recipients.
type lane struct {
	key   string
	calls []*call
}

// call is a call of send that waits.
type call struct {
	ctx  context.Context
	msgs []*transport.Message
	done chan struct{} // gets something when it is over; capacity 1

	first [1]*transport.Message // the room of msgs: mostly it is one

	// The collector's mutex guards what follows.
	state callState
	filed bool      // it is in a lane
	since time.Time // it waits; only with a Delay
	taken int       // of msgs
	next  run
	with  *load
	err   error
}

// run is what a call has to send next: as many messages, at least one, as can be one mail.
type run struct {
	count, size int // size is estimated
	lane        string
	single      bool // it can't be with others
}

// callState says what happens to a call when its context ends.
type callState uint8

const (
	waiting callState = iota // it leaves
	packed                   // its messages are being read; after that it will be flying
	flying                   // it leaves, and nobody knows what becomes of its messages
	alone                    // it is sent under its own context, and ends by itself
	over                     // nothing
	left                     // it has left
)

// load is what is sent as one mail.
type load struct {
	pieces []piece
	packed chan struct{} // closed when the messages have been read
	aboard int           // calls that have not left
	giveUp func()        // for when all have
}

// piece is what a load has of a call.
type piece struct {
	call  *call
	count int
}

// messages returns what is in the piece.
func (p piece) messages() []*transport.Message {
	return p.call.msgs[p.call.taken : p.call.taken+p.count]
}

// messages returns what is in the load.
func (b *load) messages() []*transport.Message {
	msgs := make([]*transport.Message, 0, len(b.pieces))
	for _, p := range b.pieces {
		msgs = append(msgs, p.messages()...)
	}
	return msgs
}

// has returns how many messages of a call are in the load.
func (b *load) has(w *call) int {
	for _, p := range b.pieces {
		if p.call == w {
			return p.count
		}
	}
	return 0
}

// laneOf returns what messages to the same recipients have in common.
func laneOf(m *transport.Message) string {
	if len(m.To) == 1 {
		return m.To[0]
	}
	return strings.Join(m.To, "\x00")
}

// run returns the first run of messages.
func (c *collector) run(msgs []*transport.Message) run {
	r := run{lane: laneOf(msgs[0]), single: !c.limits.On || c.single(msgs[0])}
	for _, m := range msgs[:min(len(msgs), c.limits.Messages)] {
		if r.count > 0 && (r.single || laneOf(m) != r.lane || c.single(m)) {
			break
		}
		r.count++
		r.size += perMessage + len(m.Body)
	}
	return r
}

// enter returns nil when nobody sends at the moment: then the caller does, and calls pass when it is done. Otherwise it
// returns a call, to be awaited.
func (c *collector) enter(ctx context.Context, msgs []*transport.Message) (*call, error) {
	next := c.run(msgs) // while others have the mutex
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, closedError(msgs[0])
	case !c.busy:
		c.busy = true
		return nil, nil
	}
	// The slice is the caller's; the call may be looked at after it has left.
	w := &call{ctx: ctx, next: next, done: make(chan struct{}, 1)}
	w.msgs = append(w.first[:0], msgs...)
	if c.limits.Delay > 0 {
		w.since = time.Now()
	}
	c.file(false, w)
	if c.limits.Delay > 0 && c.enough() {
		select {
		case c.full <- struct{}{}:
		default:
		}
	}
	return w, nil
}

// file puts calls whose next messages have the same recipients into their lane, at the end or in front. c.mu is held.
func (c *collector) file(first bool, calls ...*call) {
	if len(calls) == 0 {
		return
	}
	key := calls[0].next.lane
	l := c.lanes[key]
	if l == nil {
		l = &lane{key: key}
		c.lanes[key] = l
		c.turns = append(c.turns, l)
	}
	if first {
		l.calls = slices.Insert(l.calls, 0, calls...)
	} else {
		l.calls = append(l.calls, calls...)
	}
	for _, w := range calls {
		w.state, w.filed, w.with = waiting, true, nil
		c.add(w, 1)
	}
}

// add counts a call that comes into a lane, or with the sign -1 leaves it. c.mu is held.
func (c *collector) add(w *call, sign int) {
	c.count += sign * (len(w.msgs) - w.taken)
	c.size += sign * w.next.size
}

// enough reports whether there is enough for a mail. c.mu is held.
func (c *collector) enough() bool { return c.count >= c.limits.Messages || c.size >= c.limits.Bytes }

// pass ends the sending of the one that enter has let through. It reports whether something has been collected, which the
// caller sees to; then draining counts it.
func (c *collector) pass() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = len(c.turns) > 0 && !c.closed; c.busy {
		c.draining.Add(1) // before shut, or never
	}
	return c.busy
}

// next returns what to send next, or nil if there is nothing; then others may send.
func (c *collector) next() *load {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.turns) > 0 {
		l := c.turns[0]
		c.turns = c.turns[1:]
		b := c.fill(l)
		if len(l.calls) > 0 {
			c.turns = append(c.turns, l)
		} else {
			delete(c.lanes, l.key)
		}
		if b != nil {
			return b
		}
	}
	c.busy = false
	return nil
}

// fill takes from a lane what can be one mail, or a little more. c.mu is held.
func (c *collector) fill(l *lane) *load {
	b := &load{packed: make(chan struct{})}
	i, count, size := 0, 0, 0
	for ; i < len(l.calls) && count < c.limits.Messages && size < c.limits.Bytes; i++ {
		w := l.calls[i]
		if w.state == left {
			continue
		}
		if w.next.single && count > 0 {
			break
		}
		n := min(w.next.count, c.limits.Messages-count)
		b.pieces = append(b.pieces, piece{w, n})
		count += n
		size += w.next.size
		c.add(w, -1)
		w.state, w.filed, w.with = packed, false, b
		if w.next.single {
			i++
			break
		}
	}
	clear(l.calls[:i])
	l.calls = l.calls[i:]
	if count == 0 {
		return nil
	}
	if b.aboard = len(b.pieces); count == 1 {
		b.pieces[0].call.state = alone
	}
	return b
}

// takeOff says that the messages of a load, of which only so many are in the mail, have been read. What is not in
// it goes back.
func (c *collector) takeOff(b *load, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := 0
	for ; count > 0; i++ {
		p := &b.pieces[i]
		p.count = min(p.count, count)
		count -= p.count
		p.call.state = flying
	}
	back := make([]*call, 0, len(b.pieces)-i)
	for _, p := range b.pieces[i:] {
		back = append(back, p.call)
	}
	c.file(true, back...)
	b.pieces = b.pieces[:i]
	b.aboard = i
	close(b.packed)
}

// breakUp makes of a load calls that are sent one after the other.
func (c *collector) breakUp(b *load) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range b.pieces {
		if p.call.state == flying {
			p.call.state, p.call.with = waiting, nil
		}
	}
}

// isolate reports whether a call is still there, and says that it is sent alone now.
func (c *collector) isolate(w *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.state == left {
		return false
	}
	w.state = alone
	return true
}

// settle says what has become of pieces: all of them has been taken, or a SendError says what has not.
func (c *collector) settle(pieces []piece, err error) {
	ended := make([]*call, 0, len(pieces))
	c.mu.Lock()
	for _, p := range pieces {
		w := p.call
		if w.state == left {
			continue
		}
		if err == nil {
			w.taken += p.count
		}
		err := err
		if err == nil && w.taken < len(w.msgs) {
			switch {
			case c.closed:
				err = waitingError(w.msgs[0], errClosed)
			case w.ctx.Err() != nil:
				err = waitingError(w.msgs[0], stillWaiting(w.ctx))
			default:
				w.next = c.run(w.msgs[w.taken:])
				c.file(true, w)
				continue
			}
		}
		w.state, w.err = over, err
		if e, ok := errors.AsType[*transport.SendError](err); ok {
			own := *e
			own.Taken += w.taken
			own.Name = w.msgs[own.Taken].Name
			w.err = &own
		}
		ended = append(ended, w)
	}
	c.mu.Unlock()
	for _, w := range ended {
		w.done <- struct{}{}
	}
}

// await waits until a call is over, or its context ends.
func (c *collector) await(w *call) error {
	select {
	case <-w.done:
		return w.err
	case <-w.ctx.Done():
	}
	c.mu.Lock()
	for w.state == packed {
		reading := w.with.packed
		c.mu.Unlock()
		<-reading // until then the messages are needed
		c.mu.Lock()
	}
	if w.state == alone || w.state == over {
		c.mu.Unlock()
		<-w.done
		return w.err
	}
	defer c.mu.Unlock()
	e := &transport.SendError{Name: w.msgs[w.taken].Name, Outcome: transport.Temporary, Taken: w.taken}
	e.Err = stillWaiting(w.ctx)
	if w.state == flying {
		e.Outcome, e.With = transport.Unknown, w.with.has(w)-1
		e.Err = fmt.Errorf("email: the mail with this message and others was on its way: %w", transport.ContextError(w.ctx))
		if w.with.aboard--; w.with.aboard == 0 {
			w.with.giveUp()
		}
	}
	if w.filed {
		c.add(w, -1)
	}
	// Who has been told has the messages back.
	w.state, w.msgs, w.first = left, nil, [1]*transport.Message{}
	return e
}

// stillWaiting is the error of a message that has waited until the end of ctx.
func stillWaiting(ctx context.Context) error {
	return fmt.Errorf("email: waiting for earlier messages: %w", transport.ContextError(ctx))
}

// linger waits until something that has been collected has waited long enough, or there is enough of it.
func (c *collector) linger(stop <-chan struct{}) {
	if c.limits.Delay == 0 {
		return
	}
	c.mu.Lock()
	oldest := time.Now()
	for _, l := range c.turns {
		if since := l.calls[0].since; since.Before(oldest) {
			oldest = since
		}
	}
	enough := len(c.turns) == 0 || c.enough()
	select {
	case <-c.full: // it was about earlier ones
	default:
	}
	c.mu.Unlock()
	wait := time.Until(oldest.Add(c.limits.Delay))
	if enough || wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.full:
	case <-stop:
	}
}

// shut ends the calls that wait; there are no others from now on.
func (c *collector) shut() {
	c.mu.Lock()
	c.closed = true
	var pieces []piece
	for _, l := range c.lanes {
		for _, w := range l.calls {
			pieces = append(pieces, piece{w, 0})
		}
	}
	c.lanes, c.turns, c.count, c.size = make(map[string]*lane), nil, 0, 0
	c.mu.Unlock()
	c.settle(pieces, &transport.SendError{Outcome: transport.Temporary, Err: errClosed})
}

// errClosed is the error of messages that waited when the carrier was closed.
var errClosed = fmt.Errorf("email carrier is %w", transport.ErrClosed)

// closedError is the error of a carrier that has been closed.
func closedError(m *transport.Message) error { return fmt.Errorf("send %s: %w", m.Name, errClosed) }
