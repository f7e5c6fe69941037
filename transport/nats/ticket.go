package nats

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// ticket is the right to settle a delivery. It implements transport.LeasedSettler.
type ticket struct {
	member   *member
	message  *transport.Message
	key      order.Key
	seq      uint64
	attempt  int
	repeated bool
	stored   time.Time    // when the stream took the message
	until    atomic.Int64 // when its lease ends, as far as is known here (see extend); nanoseconds since start
	lost     atomic.Bool  // it has ended, or somebody else has the message

	// consumer.mu guards the rest.
	reply      string // where the server hears of it
	connection uint64 // the number of that at which it was last delivered
	delivered  int    // how often the server has delivered the message
	uncounted  int    // how many of these do not count
	used       bool
}

var _ transport.LeasedSettler = (*ticket)(nil)

var (
	errPassedOn = errors.New("not settled in time: the message has been passed on")
	errLeased   = errors.New("the lease ended before the server was heard of again: somebody else may have the message")
)

const (
	// ackTimeout bounds each attempt to tell the server of an Ack, and ackPatience all of them.
	ackTimeout  = 2 * time.Second
	ackPatience = 30 * time.Second
	// givenBackDelay is how long a message waits that its reader has given back at once.
	givenBackDelay = 100 * time.Millisecond
)

// settle uses the ticket, unless that has been done. f is called with c.mu held, and what it returns without.
func (t *ticket) settle(f func(c *consumer) (then func())) (first bool, err error) {
	c := t.member.consumer
	c.mu.Lock()
	switch {
	case t.used:
		c.mu.Unlock()
		return false, nil
	case c.open[t.seq] != t:
		c.mu.Unlock()
		return false, errPassedOn
	}
	t.used = true
	t.member.held--
	room := t.member.inFlight - t.member.held
	then := f(c)
	c.mu.Unlock()
	if t.member.puller.wants(room) {
		t.member.hasRoom()
	}
	if then != nil {
		then()
	}
	return true, nil
}

// end takes the ticket out of the books, when the server has heard of it, or is to hear nothing.
func (t *ticket) end() {
	c := t.member.consumer
	c.mu.Lock()
	if c.open[t.seq] == t {
		delete(c.open, t.seq)
		c.forget(t.seq, t.key)
		c.page.drop(t.seq)
	}
	c.mu.Unlock()
	c.releaseIfIdle()
}

// Ack implements transport.Settler. It fails when the server does not confirm it for too long, and when the message
// may have been given to somebody else.
func (t *ticket) Ack() error {
	c := t.member.consumer
	lost := t.isLost() // of a durable name tell finds out
	first, err := t.settle(func(c *consumer) func() {
		c.done(t)
		c.acking++
		return nil
	})
	if !first {
		return err
	}
	defer func() {
		c.mu.Lock()
		c.acking--
		c.acked.Broadcast()
		c.mu.Unlock()
		t.end()
	}()
	if lost {
		return errLeased
	}
	return t.tell(wordAck)
}

// tell tells the server what has become of the message until it has confirmed that.
func (t *ticket) tell(word []byte) error {
	c := t.member.consumer
	ctx, cancel := context.WithTimeout(c.stream.carrier.settling, ackPatience)
	defer cancel()
	var failure, err error
	noted := false
	for failures := 1; ; failures++ {
		c.mu.Lock()
		reply, connection, passedOn := t.reply, t.connection, c.open[t.seq] != t
		c.mu.Unlock()
		if passedOn {
			return errPassedOn // or its number means another message now
		}
		limited, end := context.WithTimeout(ctx, ackTimeout)
		if c.claim == nil && connection != c.stream.carrier.connection() {
			noted, err = t.tellAnother(limited, reply, word, noted)
		} else {
			noted, err = t.tellOnce(limited, reply, word, noted)
		}
		end()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errTaken):
			return fmt.Errorf("%s: %w: somebody else has the message", c.label, errTaken)
		}
		if failure == nil || ctx.Err() == nil {
			failure = err
		}
		if ctx.Err() != nil || t.isLost() || !t.member.puller.pause(ctx, backoff.Delay(failures)) {
			if noted && (c.claim != nil || !t.isLost()) {
				return nil // who gets it again reads that it is settled
			}
			return fmt.Errorf("%s: the server of stream %s has not confirmed that a message is settled: %w", c.label, c.stream.Name, failure)
		}
	}
}

// tellOnce tells the server, and puts on the page that the message is settled, unless that is noted. It is not if a durable name is not the
// carrier's any more.
func (t *ticket) tellOnce(ctx context.Context, reply string, word []byte, noted bool) (nowNoted bool, err error) {
	c := t.member.consumer
	if c.claim != nil && !noted {
		if err := c.claim.verify(ctx); err != nil {
			return false, err
		}
	}
	stored := make(chan error, 1)
	if noted {
		stored <- nil
	} else {
		go func() { stored <- c.page.settle(ctx, t.seq) }()
	}
	_, err = c.stream.carrier.conn.RequestWithContext(ctx, reply, word)
	if failed := <-stored; failed != nil {
		return false, failed
	}
	if c.claim != nil && !noted && t.lost.Load() {
		return false, errTaken // the page is that of when the carrier had the name again
	}
	if err == nil {
		c.page.confirmed(t.seq)
	}
	return true, err
}

// tellAnother is tellOnce for a server that may not know that it has delivered the message to a group: started again, it does not answer. Who
// gets it again reads that it is settled.
func (t *ticket) tellAnother(ctx context.Context, reply string, word []byte, noted bool) (nowNoted bool, err error) {
	c := t.member.consumer
	if !noted {
		err = c.page.settle(ctx, t.seq)
	}
	if err == nil && t.isLost() {
		err = errLeased
	}
	if err == nil {
		_ = c.reply(reply, word)
	}
	return err == nil, err
}

// Nack implements transport.Settler.
func (t *ticket) Nack(delay time.Duration, reason string) {
	m := t.member
	_, _ = t.settle(func(c *consumer) func() { // if it has been passed on there is nothing to do
		switch {
		case t.isLost():
			return t.end
		case delay < 0:
			delay = 0
			if m.delivering.Load() {
				delay = givenBackDelay
			}
			m.restAWhile()
			return func() { c.giveBack(t, delay, false) }
		case t.attempt >= m.maxDeliver:
			return func() { c.bury(t, reason) }
		case c.claim == nil:
			return func() { c.giveBack(t, delay, true) }
		}
		return func() { t.passOnUsed(delay) }
	})
}

// Term implements transport.Settler.
func (t *ticket) Term(reason string) {
	_, _ = t.settle(func(c *consumer) func() { // if it has been passed on there is nothing to do
		if t.isLost() {
			return t.end
		}
		return func() { c.bury(t, reason) }
	})
}

// passOn gives the message back to the server, unless it is settled.
func (t *ticket) passOn(delay time.Duration) {
	c := t.member.consumer
	c.mu.Lock()
	if t.used || c.open[t.seq] != t {
		c.mu.Unlock()
		return
	}
	t.member.held--
	c.mu.Unlock()
	t.passOnUsed(delay)
	t.lost.Store(true)
}

// passOnUsed gives the message back to the server. Of one that is lost nothing is said: whoever has it would lose it, too.
func (t *ticket) passOnUsed(delay time.Duration) {
	defer t.member.hasRoom()
	if t.isLost() {
		t.end()
		return
	}
	c := t.member.consumer
	over := c.stream.carrier.connection()
	c.mu.Lock()
	if c.open[t.seq] != t {
		c.mu.Unlock()
		return
	}
	delete(c.open, t.seq)
	c.page.drop(t.seq)
	if c.claim == nil { // whoever gets it next: what becomes of it is not heard of here
		c.forget(t.seq, t.key)
	} else {
		c.delayed[t.seq] = delayed{t.key, over}
		if t.uncounted > 0 {
			c.uncounted[t.seq] = t.uncounted
		}
	}
	reply := t.reply
	c.mu.Unlock()
	if err := c.reply(reply, nak(delay)); err != nil {
		c.mu.Lock()
		if d, ok := c.delayed[t.seq]; ok {
			c.delayed[t.seq] = delayed{d.key, 0}
		}
		c.mu.Unlock()
	}
	c.releaseIfIdle()
}
