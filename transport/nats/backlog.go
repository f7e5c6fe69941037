package nats

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"
)

// backlog has the deliveries that are given back and do not count, and in a group all that are given back. Before the server delivers them
// again, to whomever, it is on record that they did not count, and that the member of the group does not have them any more.
type backlog struct {
	mu      sync.Mutex
	given   []given
	running bool // a goroutine works it off
}

type given struct {
	ticket *ticket
	delay  time.Duration
	counts bool // as an attempt to handle it
}

// giveBack gives a message back. Messages that are given back one after the other, and that nobody has tried to handle, come again in that order.
func (c *consumer) giveBack(t *ticket, delay time.Duration, counts bool) {
	b := &c.back
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running = b.running || c.stream.carrier.work(c.giveBackAll); b.running {
		b.given = append(b.given, given{t, delay, counts})
		return
	}
	t.passOnUsed(delay) // it is not put on record any more
}

// busy reports whether something is to be given back of which the server has not heard yet.
func (b *backlog) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running
}

// giveBackAll works off what is to be given back.
func (c *consumer) giveBackAll(context.Context) {
	b := &c.back
	for {
		b.mu.Lock()
		all := b.given
		b.given = nil
		if len(all) == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		slices.SortStableFunc(all, func(a, b given) int { return int(int64(a.ticket.seq) - int64(b.ticket.seq)) })
		c.writeGiven(c.stream.carrier.settling, all)
		if c.claim == nil {
			tickets := make([]*ticket, len(all))
			for i, g := range all {
				tickets[i] = g.ticket
			}
			c.page.release(c.stream.carrier.settling, tickets)
		}
		for _, g := range all {
			g.ticket.passOnUsed(g.delay)
		}
	}
}

// writeGiven puts on record that deliveries do not count.
func (c *consumer) writeGiven(ctx context.Context, all []given) {
	counts := make(map[uint64]int, len(all))
	c.mu.Lock()
	for _, g := range all {
		t := g.ticket
		if g.counts {
			continue
		}
		t.uncounted = t.delivered - t.attempt + 1
		counts[t.seq] = t.uncounted
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c.book.writeUncounted(ctx, counts)
}

// deliveriesNotCounted returns how many deliveries of a message did not count.
func (c *consumer) deliveriesNotCounted(ctx context.Context, p place) int {
	c.mu.Lock()
	n, ok := c.uncounted[p.stream]
	c.mu.Unlock()
	if ok && c.claim != nil {
		return n // nobody else has had it
	}
	word, number, err := c.book.last(ctx, c.book.given(p.stream))
	if err != nil || number == 0 {
		return n
	}
	written, err := strconv.Atoi(string(word))
	if err != nil || written < 0 {
		return n
	}
	return max(n, min(written, p.attempt-1))
}
