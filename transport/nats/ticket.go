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
	until    atomic.Int64 // when its lease ends, if nothing is heard of the server until then; nanoseconds since start
	lost     atomic.Bool  // it has ended, or somebody else has the message

	// consumer.mu guards the rest.
	reply     string // where the server hears of it
	delivered int    // how often the server has delivered the message
	uncounted int    // how many of these do not count
	used      bool
}

var _ transport.LeasedSettler = (*ticket)(nil)

// start is what leases are measured from: wall clocks jump.
var start = time.Now()

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

// extend makes the lease last from a time on at which the server was asked to.
func (t *ticket) extend(asked time.Time, lease time.Duration) {
	t.until.Store(int64(asked.Add(lease).Sub(start)))
}

// Lost implements transport.LeasedSettler. A durable name has one reader, so nobody else gets what it is silent about, unless the server
// is out of its reach: then the name may be another's.
func (t *ticket) Lost() bool {
	if t.lost.Load() {
		return true
	}
	if time.Since(start) < time.Duration(t.until.Load()) {
		return false
	}
	if claim := t.member.consumer.claim; claim != nil {
		return !claim.isSure()
	}
	t.lost.Store(true) // for good, though the server may be heard of again
	return true
}

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

// end takes the ticket out of the books, when the server has heard of it.
func (t *ticket) end() {
	c := t.member.consumer
	c.mu.Lock()
	if c.open[t.seq] == t {
		delete(c.open, t.seq)
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
		return nil
	})
	if !first {
		return err
	}
	defer t.end()
	if lost {
		c.page.drop(t.seq)
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
		reply, passedOn := t.reply, c.open[t.seq] != t
		c.mu.Unlock()
		if passedOn {
			return errPassedOn // or its number means another message now
		}
		limited, end := context.WithTimeout(ctx, ackTimeout)
		noted, err = t.tellOnce(limited, reply, word, noted)
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
			if noted && !t.isLost() {
				return nil // who gets it again reads that it is settled
			}
			return fmt.Errorf("%s: the server of stream %s has not confirmed that a message is settled: %w", c.label, c.stream.Name, failure)
		}
	}
}

// isLost is Lost without what may turn out otherwise.
func (t *ticket) isLost() bool {
	if t.member.consumer.claim != nil {
		return t.lost.Load()
	}
	return t.Lost()
}

// tellOnce tells the server, and puts on the page that the message is settled, unless that is noted. A durable name has to be the
// carrier's before and after.
func (t *ticket) tellOnce(ctx context.Context, reply string, word []byte, noted bool) (nowNoted bool, err error) {
	c := t.member.consumer
	if c.claim != nil {
		if err := c.claim.verify(ctx); err != nil {
			return noted, err
		}
		defer func() {
			if err == nil {
				err = c.claim.verify(ctx)
			}
		}()
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
	if err == nil {
		c.page.confirmed(t.seq)
	}
	return true, err
}

// Nack implements transport.Settler.
func (t *ticket) Nack(delay time.Duration, reason string) {
	m := t.member
	_, _ = t.settle(func(c *consumer) func() { // if it has been passed on there is nothing to do
		switch {
		case delay < 0:
			delay = 0
			if m.delivering.Load() {
				delay = givenBackDelay
			}
			m.restAWhile()
			return func() { c.giveBack(t, delay) }
		case t.attempt >= m.maxDeliver:
			c.done(t)
			return func() { c.bury(t, reason) }
		}
		return func() { t.passOnUsed(delay) }
	})
}

// Term implements transport.Settler.
func (t *ticket) Term(reason string) {
	_, _ = t.settle(func(c *consumer) func() { // if it has been passed on there is nothing to do
		c.done(t)
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
	t.lost.Store(true)
	t.passOnUsed(delay)
}

// passOnUsed gives the message back to the server.
func (t *ticket) passOnUsed(delay time.Duration) {
	c := t.member.consumer
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
		c.delayed[t.seq] = t.key
		if t.uncounted > 0 {
			c.uncounted[t.seq] = t.uncounted
		}
	}
	reply := t.reply
	c.mu.Unlock()
	c.reply(reply, nak(delay))
	t.member.hasRoom()
	c.releaseIfIdle()
}
