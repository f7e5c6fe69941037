package intraprocess

import (
	"container/heap"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// consumer is what a bus remembers of a durable name or a group: the messages that have not
// been settled, and who is there to get them.
type consumer struct {
	bus      *Bus
	label    string             // for people: durable "x", group "y"
	interest transport.Interest // that of the first to use the name: Kind and Name count

	mu       sync.Mutex
	arrivals uint64
	waiting  items // to be delivered
	kept     int   // messages waiting, now or after a delay
	bytes    int   // of their bodies
	members  []*member
	stopped  []*member          // that may still settle what they hold
	turn     int                // of the members, to be asked next
	pumping  bool               // a goroutine is delivering, and will see what has changed
	full     bool               // messages have been dropped, and it has not been empty since
	pending  map[order.Key]bool // of the messages that have not been settled
	handled  order.Memory
}

// item is a message that has not been settled.
type item struct {
	message  *transport.Message
	key      order.Key
	number   uint64 // in the order of arrival
	attempt  int
	repeated bool
	ticket   *ticket // of the delivery that can settle it; nil while it waits
	refused  *member // who had it last and did not handle it
}

// member is an interest that shares in what a consumer gets.
type member struct {
	*interest
	inFlight   int
	maxDeliver int
	held       map[*item]struct{} // delivered and not settled
}

// items is a heap of items, the oldest first.
type items []*item

func (h items) Len() int           { return len(h) }
func (h items) Less(i, j int) bool { return h[i].number < h[j].number }
func (h items) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *items) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *items) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return it
}

// consumer returns what the bus remembers for the interest's durable name or group. If that is
// nothing yet, it begins now.
func (b *Bus) consumer(in transport.Interest) (*consumer, error) {
	name, label := "durable "+in.Durable, fmt.Sprintf("durable name %q", in.Durable)
	if in.Group != "" {
		if in.Durable != "" {
			return nil, fmt.Errorf("an interest with Durable and Group, which remembers by itself: %w", transport.ErrNotSupported)
		}
		label = fmt.Sprintf("group %q", in.Group)
		name = fmt.Sprintf("group %s %d %s", in.Group, in.Kind, in.Name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.consumers[name]; c != nil {
		if c.interest.Kind != in.Kind || c.interest.Name != in.Name {
			return nil, fmt.Errorf("%s is that of an interest in %v %s: %w", label, c.interest.Kind, c.interest.Name, transport.ErrInUse)
		}
		return c, nil
	}
	c := &consumer{bus: b, label: label, interest: in, pending: make(map[order.Key]bool)}
	for _, m := range b.history.last(in) {
		c.add(m)
	}
	if b.consumers == nil {
		b.consumers = make(map[string]*consumer)
	}
	b.consumers[name] = c
	b.dispatcher.Add(in, func(d transport.Delivery) {
		c.add(d.Message)
		c.pump()
	})
	return c, nil
}

// join adds an interest. When nobody else is there it gets what others have left unsettled.
func (c *consumer) join(i *interest, in transport.Interest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.Durable != "" && len(c.members) > 0 {
		return fmt.Errorf("%s: %w", c.label, transport.ErrInUse)
	}
	if len(c.members) == 0 {
		for _, m := range c.stopped {
			c.takeBack(m)
		}
		c.stopped = nil
	}
	m := &member{interest: i, inFlight: in.InFlight, maxDeliver: in.MaxDeliver, held: make(map[*item]struct{})}
	if m.inFlight == 0 {
		m.inFlight = transport.DefaultInFlight
	}
	if m.maxDeliver == 0 {
		m.maxDeliver = transport.DefaultMaxDeliver
	}
	c.members = append(c.members, m)
	i.remove = func() { c.leave(m) }
	return nil
}

// leave ends deliveries to a member. What it holds it can still settle.
func (c *consumer) leave(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = slices.DeleteFunc(c.members, func(other *member) bool { return other == m })
	c.stopped = slices.DeleteFunc(append(c.stopped, m), func(m *member) bool { return len(m.held) == 0 })
}

// release gives what members of a closed carrier hold to others.
func (c *consumer) release(closed *Carrier) {
	c.mu.Lock()
	c.stopped = slices.DeleteFunc(c.stopped, func(m *member) bool {
		if m.carrier == closed {
			c.takeBack(m)
		}
		return m.carrier == closed
	})
	c.mu.Unlock()
	c.pump()
}

// takeBack lets what a member holds wait for somebody else. c.mu is held.
func (c *consumer) takeBack(m *member) {
	for it := range m.held {
		it.ticket = nil
		c.queue(it)
	}
	clear(m.held)
}

// add takes a message that has arrived, unless it is known. It drops the oldest that wait if there are
// too many.
func (c *consumer) add(m *transport.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := &item{message: m, key: order.KeyOf(m)}
	it.repeated = c.handled.Has(it.key)
	if c.pending[it.key] || it.repeated && m.Kind != transport.Request {
		return
	}
	if !it.key.IsZero() {
		c.pending[it.key] = true
	}
	c.arrivals++
	it.number = c.arrivals
	c.queue(it)
	for c.kept > transport.KeepAllMessages || c.bytes > transport.KeepAllBytes {
		if len(c.waiting) == 0 {
			return // the others come back only one by one
		}
		delete(c.pending, c.pop().key)
		if !c.full {
			c.full = true
			slog.Default().Warn("too many messages wait in the process, the oldest are dropped", "for", c.label, "name", m.Name)
		}
	}
}

// queue lets an item wait to be delivered. c.mu is held, here and below.
func (c *consumer) queue(it *item) {
	c.keep(it)
	heap.Push(&c.waiting, it)
}

// keep counts an item among those that wait.
func (c *consumer) keep(it *item) {
	c.kept++
	c.bytes += len(it.message.Body)
}

func (c *consumer) unkeep(it *item) {
	c.kept--
	c.bytes -= len(it.message.Body)
	c.full = c.full && c.kept > 0
}

// pop takes out the oldest item that waits.
func (c *consumer) pop() *item {
	it := heap.Pop(&c.waiting).(*item)
	c.unkeep(it)
	return it
}

// pump delivers what waits as far as there are members with room for it. If another goroutine
// is at it already, that one goes on until nothing is left to do.
func (c *consumer) pump() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pumping {
		return
	}
	c.pumping = true
	for {
		t := c.next()
		if t == nil {
			break
		}
		it := t.item
		d := transport.Delivery{Message: it.message, Settler: t, Attempt: it.attempt, Repeated: it.repeated}
		c.mu.Unlock()
		taken := t.member.tryTake(d)
		c.mu.Lock()
		if !taken && it.ticket == t {
			it.attempt--
			c.giveBack(t)
			c.queue(it)
		}
	}
	c.pumping = false
}

// next takes the next message to be delivered, and makes out the ticket for it. It returns nil if there is
// no message, or nobody to take it.
func (c *consumer) next() *ticket {
	if len(c.waiting) == 0 {
		return nil
	}
	var chosen *member
	for range c.members {
		m := c.members[c.turn%len(c.members)]
		c.turn++
		if len(m.held) >= m.inFlight || m.interest.stopped.Load() {
			continue
		}
		chosen = m
		if m != c.waiting[0].refused {
			break
		}
	}
	if chosen == nil {
		return nil
	}
	it := c.pop()
	it.attempt++
	it.ticket = &ticket{consumer: c, member: chosen, item: it}
	chosen.held[it] = struct{}{}
	return it.ticket
}

// giveBack ends a delivery.
func (c *consumer) giveBack(t *ticket) {
	t.item.ticket = nil
	delete(t.member.held, t.item)
}

// ticket is the right to settle a delivery. It implements transport.Settler.
type ticket struct {
	consumer *consumer
	member   *member
	item     *item
	used     bool
}

var _ transport.Settler = (*ticket)(nil)

var errPassedOn = errors.New("not settled in time: the message has been passed on")

// settle uses the ticket, unless that has been done.
func (t *ticket) settle(f func(c *consumer, it *item)) error {
	c, it := t.consumer, t.item
	c.mu.Lock()
	if t.used || it.ticket != t {
		defer c.mu.Unlock()
		if t.used {
			return nil
		}
		return errPassedOn
	}
	t.used = true
	c.giveBack(t)
	f(c, it)
	c.mu.Unlock()
	c.pump() // there is room for another
	return nil
}

// Ack implements transport.Settler. It fails when the message has been passed on, because
// the interest was stopped and stated again or its carrier closed.
func (t *ticket) Ack() error {
	return t.settle((*consumer).done)
}

// Nack implements transport.Settler.
func (t *ticket) Nack(delay time.Duration, reason string) {
	_ = t.settle(func(c *consumer, it *item) { // if it has been passed on there is nothing to do
		it.refused = t.member
		switch {
		case delay < 0:
			it.attempt--
			c.queue(it)
		case it.attempt >= t.member.maxDeliver:
			c.bury(it, reason)
		case delay == 0:
			c.queue(it)
		default:
			c.keep(it)
			time.AfterFunc(delay, func() { c.retry(it) })
		}
	})
}

// Term implements transport.Settler.
func (t *ticket) Term(reason string) {
	_ = t.settle(func(c *consumer, it *item) { c.bury(it, reason) })
}

// retry delivers an item after its delay.
func (c *consumer) retry(it *item) {
	c.mu.Lock()
	c.unkeep(it)
	c.queue(it)
	c.mu.Unlock()
	c.pump()
}

// done notes that an item needs no further handling.
func (c *consumer) done(it *item) {
	delete(c.pending, it.key)
	c.handled.Add(it.key, order.SourceTime(it.message))
}

// bury makes a dead letter of an item.
func (c *consumer) bury(it *item, reason string) {
	c.done(it)
	c.bus.bury(DeadLetter{Message: it.message, For: c.label, Reason: reason})
}
