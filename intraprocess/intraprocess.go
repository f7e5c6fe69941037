// Package intraprocess carries messages between the nodes of one process, in memory.
// It is the carrier for tests, and for programs whose parts talk to each other with
// the same code whether they share a process or not.
//
// One node that talks to itself needs no more than
//
//	node, err := transport.NewNode(intraprocess.New(), nil)
//
// Several nodes see each other when they are attached to one [Bus]:
//
//	bus := intraprocess.NewBus()
//	robot, err := transport.NewNode(bus.Attach(), nil)
//	desk, err := transport.NewNode(bus.Attach(), nil)
//
// Buses know nothing of each other, so tests that run in parallel take one each.
// Nothing needs to be started or stopped besides the nodes; a bus is garbage when its
// nodes are.
//
// # What a program can rely on
//
// A message goes to every matching interest on the bus, the sender's own included,
// exactly once and before Send returns, so Info.ReceivedTime is when the node was given it. Each publisher's order is kept. A request that
// nobody serves fails at once with [transport.ErrNoResponder]. Recipients (routes) are
// not looked at, so a configuration made for another carrier does no harm. Bodies are
// copied once, whatever the number of receivers. There is no limit to their size but
// the node's, and nothing outlives the process.
//
// # Durable interests, groups, late joiners
//
// From the first use of a durable name or a group on, the bus remembers what arrives for it, as long as
// the bus itself is there: within [transport.KeepAllMessages] and [transport.KeepAllBytes], beyond
// which the oldest are dropped. So a request is taken for a service whose durable server or group is
// not there now. Unsettled messages are delivered again when the carrier of their interest has been
// closed, or when the durable name (or the group, if it has no other member) is stated again. A durable
// name is that of the whole bus. Leases mean nothing here: processes do not die one without the other.
// A message that is sent twice is known the second time. What has been given up is in
// [Bus.DeadLetters].
//
// Interest.Last needs a bus with a [Bus.History].
package intraprocess

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

// Bus connects the carriers attached to it. The zero value is ready to use. All
// methods may be called concurrently.
type Bus struct {
	// History is how many of the newest messages of each topic the bus keeps for those who join
	// later and ask for them (Interest.Last), within transport.KeepAllMessages and transport.KeepAllBytes
	// in all. Zero means none, and that Last is not supported. A bus with a history
	// delivers one message at a time. It is set before the first Attach.
	History int

	dispatcher transport.Dispatcher
	attached   atomic.Uint64

	// joining is held, if there is a history, while a message is recorded and delivered and while an interest
	// that asks for the last messages is added and gets them: neither comes in between the other.
	joining sync.Mutex
	history history

	mu        sync.Mutex
	consumers map[string]*consumer
	dead      []DeadLetter
}

// NewBus returns a bus with nothing attached.
func NewBus() *Bus { return new(Bus) }

// Attach returns a further participant: a carrier for one node, with an address of its
// own on this bus.
func (b *Bus) Attach() *Carrier {
	return &Carrier{
		bus:       b,
		address:   strconv.FormatUint(b.attached.Add(1), 10) + "@intraprocess",
		interests: make(map[*interest]struct{}),
		ending:    make(map[*interest]struct{}),
	}
}

// New returns a carrier that is alone on a bus of its own.
func New() *Carrier { return NewBus().Attach() }

// Carrier is one participant on a [Bus]. It implements [transport.Carrier].
type Carrier struct {
	bus     *Bus
	address string
	closed  atomic.Bool

	mu        sync.Mutex
	interests map[*interest]struct{}
	// ending are interests that were stopped during a call of their deliver and have
	// not come out of it.
	ending map[*interest]struct{}
	quiet  chan struct{} // closed when ending is empty; nil unless Close waits
}

var _ transport.Carrier = (*Carrier)(nil)

// interest is a stated interest of a carrier.
type interest struct {
	carrier *Carrier
	remove  func() // from the bus
	deliver func(transport.Delivery)

	mu      sync.Mutex  // held while deliver is called, so that calls come one at a time
	stopped atomic.Bool // no call of deliver may begin
}

// Address returns "n@intraprocess" for the nth participant attached to the bus.
func (c *Carrier) Address() string { return c.address }

// Send delivers the messages to all matching interests on the bus before it returns.
// A request that nobody serves fails with [transport.ErrNoResponder], Permanent. Topic
// messages need no receiver, and an answer whose client has gone is dropped. Answers
// find their client by its GID; Message.To is not looked at.
func (c *Carrier) Send(ctx context.Context, msgs ...*transport.Message) error {
	for _, m := range msgs {
		if ctx.Err() != nil {
			return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
		}
		if c.closed.Load() {
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Err: c.closedError()}
		}
		// The body belongs to the caller, the message is ours to change.
		borrowed := m.Body
		m.Body = make([]byte, len(borrowed)) // bytes.Clone takes a quarter longer
		copy(m.Body, borrowed)
		m.From = c.address
		if m.Info.ReceivedTime.IsZero() {
			m.Info.ReceivedTime = time.Now() // a node has read the clock already
		}
		if m.Kind == transport.Request {
			m.ReplyTo = c.address
		}
		receivers := c.bus.deliver(m)
		if receivers == 0 && m.Kind == transport.Request {
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Err: transport.ErrNoResponder}
		}
	}
	return nil
}

// deliver hands a message to all who want it, and returns how many they are.
func (b *Bus) deliver(m *transport.Message) int {
	if b.History > 0 && m.Kind == transport.TopicMessage {
		b.joining.Lock()
		defer b.joining.Unlock()
		b.history.record(m, b.History)
	}
	return b.dispatcher.Dispatch(transport.Delivery{Message: m})
}

// Receive states an interest. It fails after Close, for interests in kinds of
// messages other than topic messages, requests and responses, and for the last messages of a bus without
// a history. The last messages are delivered before it returns.
func (c *Carrier) Receive(in transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	switch in.Kind {
	case transport.TopicMessage, transport.Request, transport.Response, transport.Undeliverable:
	default:
		return nil, fmt.Errorf("an interest in %v: %w", in.Kind, transport.ErrNotSupported)
	}
	if in.Last > 0 {
		if c.bus.History == 0 {
			return nil, fmt.Errorf("the last messages of a bus that keeps none, for want of a History: %w", transport.ErrNotSupported)
		}
		c.bus.joining.Lock()
		defer c.bus.joining.Unlock()
	}
	if in.Tracked() {
		return c.receiveTracked(in, deliver)
	}
	i := &interest{carrier: c, deliver: deliver}
	if stop, err = c.list(i, func() error {
		i.remove = c.bus.dispatcher.Add(in, func(d transport.Delivery) { i.take(d) })
		return nil
	}); err != nil {
		return nil, err
	}
	for _, m := range c.bus.history.last(in) {
		i.take(transport.Delivery{Message: m})
	}
	return stop, nil
}

// receiveTracked is Receive for durable interests and groups.
func (c *Carrier) receiveTracked(in transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	consumer, err := c.bus.consumer(in)
	if err != nil {
		return nil, err
	}
	i := &interest{carrier: c, deliver: deliver}
	if stop, err = c.list(i, func() error { return consumer.join(i, in) }); err != nil {
		return nil, err
	}
	consumer.pump()
	return stop, nil
}

// list adds an interest to the carrier, and by add to the bus.
func (c *Carrier) list(i *interest, add func() error) (stop func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return nil, c.closedError()
	}
	if err := add(); err != nil {
		return nil, err
	}
	c.interests[i] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end(i)
	}, nil
}

// Close ends the participant's interests and waits for deliveries under way. What is not settled then
// is delivered to others, or waits for them.
func (c *Carrier) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed.Swap(true) {
		c.mu.Unlock()
		return nil
	}
	for i := range c.interests {
		c.end(i)
	}
	defer c.bus.release(c)
	if len(c.ending) == 0 {
		c.mu.Unlock()
		return nil
	}
	quiet := make(chan struct{})
	c.quiet = quiet
	c.mu.Unlock()

	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close carrier %s: messages are still being delivered: %w", c.address, ctx.Err())
	}
}

// release passes on what interests of a closed carrier have not settled.
func (b *Bus) release(closed *Carrier) {
	b.mu.Lock()
	consumers := slices.Collect(maps.Values(b.consumers))
	b.mu.Unlock()
	for _, c := range consumers {
		c.release(closed)
	}
}

// end takes an interest from the bus, unless that has been done. c.mu is held.
func (c *Carrier) end(i *interest) {
	if _, ok := c.interests[i]; !ok {
		return
	}
	delete(c.interests, i)
	i.remove()
	// A Dispatch that found the interest before remove may come to it yet.
	i.stopped.Store(true)
	c.note(i)
}

// note keeps the stopped interest in c.ending as long as it is delivering. c.mu is held.
func (c *Carrier) note(i *interest) {
	// Whoever holds i.mu, or is about to, calls ended when it has let go.
	if !i.mu.TryLock() {
		c.ending[i] = struct{}{}
		return
	}
	i.mu.Unlock()
	delete(c.ending, i)
	if len(c.ending) == 0 && c.quiet != nil {
		close(c.quiet)
		c.quiet = nil
	}
}

// ended says that a call for a stopped interest has come to an end.
func (c *Carrier) ended(i *interest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(i)
}

// take hands a delivery to the receiver of the interest, unless it has been stopped.
func (i *interest) take(d transport.Delivery) { i.tryTake(d) }

// tryTake is take that says whether the delivery has been handed over.
func (i *interest) tryTake(d transport.Delivery) (taken bool) {
	taken = i.takeAlone(d)
	if i.stopped.Load() {
		i.carrier.ended(i)
	}
	return taken
}

func (i *interest) takeAlone(d transport.Delivery) (taken bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if taken = !i.stopped.Load(); taken {
		i.deliver(d)
	}
	return taken
}

func (c *Carrier) closedError() error {
	return fmt.Errorf("carrier %s is %w", c.address, transport.ErrClosed)
}
