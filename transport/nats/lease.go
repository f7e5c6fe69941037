package nats

import (
	"context"
	"time"
)

// renewLeases tells the server again and again that what is open here is being handled, until ctx ends.
func (c *consumer) renewLeases(ctx context.Context) {
	for {
		select {
		case <-c.opened:
		case <-ctx.Done():
			return
		}
		for open := true; open; {
			c.mu.Lock()
			period := c.lease / 3
			c.mu.Unlock()
			if !sleep(ctx, period) {
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
	last := len(replies) - 1
	for _, reply := range replies[:last] {
		c.reply(reply, wordProgress)
	}
	ctx, cancel := context.WithTimeout(ctx, period)
	defer cancel()
	if _, err := c.stream.carrier.conn.RequestWithContext(ctx, replies[last], wordProgress); err != nil {
		return open // they end if that goes on
	}
	for _, t := range due {
		t.extend(asked, lease)
	}
	return open
}
