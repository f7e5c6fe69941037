package nats

import (
	"context"
	"time"

	"github.com/postbus/postbus/internal/backoff"
)

// start is what leases are measured from: wall clocks jump.
var start = time.Now()

// extend makes the lease last from a moment on at which the server certainly knew of it.
//
// A server gives a message of a group to another member when it has heard nothing of it for the lease, since it has delivered it or was last
// told that it is being handled. A member does not know when that was, so it counts from a moment that was earlier: from when it asked for
// messages, whenever the one has come (see session.mayAdd), and then from when it sent word to the server, if the server has confirmed that
// before the lease had ended. Word that is not confirmed counts for nothing; word that is confirmed later may have been heard when somebody
// else had the message. So what lies in the network or in a queue for too long is lost here no later than there, for good unless the server
// delivers it here once more. Nothing is said to the server about a lost message: that would take it from who has it. A server that is
// started again counts from too early a moment: from when a message was stored, or from word of earlier. Therefore a member that finds a
// server leaves to others what they have on their pages, for a lease from then on (see leaveFor).
func (t *ticket) extend(from time.Time, lease time.Duration) {
	t.until.Store(int64(from.Add(lease - leaseMargin).Sub(start)))
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

// isLost is Lost without what may turn out otherwise.
func (t *ticket) isLost() bool {
	if t.member.consumer.claim != nil {
		return t.lost.Load()
	}
	return t.Lost()
}

// leaveForgotten leaves a message to the member of the group that has it open. The server delivers it in the same attempt again, so it
// has forgotten that one; the next comes when the lease has ended without a word of the member.
func (c *consumer) leaveForgotten(reply string, p place) bool {
	c.mu.Lock()
	attempt, open := c.openElsewhere[p.stream]
	forgotten := open && p.attempt <= attempt
	if forgotten {
		c.left[p.stream] = struct{}{}
		c.uncounted[p.stream] = p.attempt
	}
	lease := c.lease
	c.mu.Unlock()
	if forgotten {
		c.refuse(reply, p.since, nak(lease))
	}
	return forgotten
}

// refuse gives back a delivery that was not taken, unless it may be another member's by now: who has it would lose it. since is as in place.
func (c *consumer) refuse(reply string, since time.Time, word []byte) {
	c.mu.Lock()
	lease := c.lease
	c.mu.Unlock()
	if c.claim == nil && time.Since(since) > lease-leaseMargin {
		return
	}
	_ = c.reply(reply, word)
}

// isDoubtful reports whether the pages have to be read before a message can be taken: another member of the group may have settled it, and
// the server not know, or may have it.
func (c *consumer) isDoubtful(p place) bool { return c.claim == nil && p.attempt > 1 }

// leaveFor returns for how long a message is to be left to the member of the group that has it open on its page, however often the server
// has delivered it. Such a delivery does not count.
func (c *consumer) leaveFor(p place) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := time.Until(c.leave)
	if _, open := c.openElsewhere[p.stream]; !open || wait <= 0 {
		return 0
	}
	c.left[p.stream] = struct{}{}
	c.uncounted[p.stream]++
	return wait
}

// renewLeases tells the server again and again that what is open here is being handled, until ctx ends, or the consumer.
func (c *consumer) renewLeases(ctx context.Context) {
	for {
		select {
		case <-c.opened:
		case <-c.ended:
			return
		case <-ctx.Done():
			return
		}
		for open := true; open; {
			c.mu.Lock()
			period := c.lease / 4
			c.mu.Unlock()
			if !backoff.Sleep(ctx, period) {
				return
			}
			open = c.renew(ctx, period)
		}
	}
}

// renew renews the leases that have not been for a period. The server reads what it is told about a consumer in order, so
// it has heard all when it answers the last. It returns false if nothing is open.
func (c *consumer) renew(ctx context.Context, period time.Duration) (open bool) {
	asked := time.Now()
	var due []*ticket
	var replies []string
	c.mu.Lock()
	lease := c.lease
	for _, t := range c.open {
		left := time.Duration(t.until.Load()) - asked.Sub(start)
		if left < lease-period/2 && !t.isLost() {
			due = append(due, t)
			replies = append(replies, t.reply)
		}
	}
	open = len(c.open) > 0
	c.mu.Unlock()
	if len(due) == 0 {
		return open
	}
	ctx, cancel := context.WithTimeout(ctx, lease/2)
	defer cancel()
	if c.claim != nil && c.claim.verify(ctx) != nil {
		return open // they may be somebody else's
	}
	last := len(replies) - 1
	for _, reply := range replies[:last] {
		_ = c.reply(reply, wordProgress)
	}
	if _, err := c.stream.carrier.conn.RequestWithContext(ctx, replies[last], wordProgress); err != nil {
		if c.claim != nil {
			c.claim.doubt()
		}
		return open // they end if that goes on
	}
	for _, t := range due {
		if !t.isLost() {
			t.extend(asked, lease)
		}
	}
	return open
}
