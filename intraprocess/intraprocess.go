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
// exactly once and before Send returns. Each publisher's order is kept. A request that
// nobody serves fails at once with [transport.ErrNoResponder]. Recipients (routes) are
// not looked at, so a configuration made for another carrier does no harm. Bodies are
// copied once, whatever the number of receivers. There is no limit to their size but
// the node's, and nothing outlives the process.
package intraprocess

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

// Bus connects the carriers attached to it. The zero value is ready to use. All
// methods may be called concurrently.
type Bus struct {
	dispatcher transport.Dispatcher
	attached   atomic.Uint64
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
	now := time.Now()
	for _, m := range msgs {
		if ctx.Err() != nil {
			return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
		}
		if c.closed.Load() {
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Err: c.closedError()}
		}
		// The body belongs to the caller, the message is ours to change.
		m.Body = bytes.Clone(m.Body)
		m.From = c.address
		m.Info.ReceivedTime = now
		if m.Kind == transport.Request {
			m.ReplyTo = c.address
		}
		receivers := c.bus.dispatcher.Dispatch(transport.Delivery{Message: m})
		if receivers == 0 && m.Kind == transport.Request {
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Err: transport.ErrNoResponder}
		}
	}
	return nil
}

// Receive states an interest. It fails after Close, and for interests in kinds of
// messages other than topic messages, requests and responses.
func (c *Carrier) Receive(in transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	switch in.Kind {
	case transport.TopicMessage, transport.Request, transport.Response, transport.Undeliverable:
	default:
		return nil, fmt.Errorf("an interest in %v: %w", in.Kind, transport.ErrNotSupported)
	}
	if in.Tracked() || in.Last > 0 {
		return nil, fmt.Errorf("a durable interest, a group, or the last messages: %w", transport.ErrNotSupported)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return nil, c.closedError()
	}
	i := &interest{carrier: c, deliver: deliver}
	i.remove = c.bus.dispatcher.Add(in, i.take)
	c.interests[i] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end(i)
	}, nil
}

// Close ends the participant's interests and waits for deliveries under way.
func (c *Carrier) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed.Swap(true) {
		c.mu.Unlock()
		return nil
	}
	for i := range c.interests {
		c.end(i)
	}
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

// take hands a delivery to the receiver of the interest.
func (i *interest) take(d transport.Delivery) {
	i.takeAlone(d)
	if i.stopped.Load() {
		i.carrier.ended(i)
	}
}

func (i *interest) takeAlone(d transport.Delivery) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.stopped.Load() {
		i.deliver(d)
	}
}

func (c *Carrier) closedError() error {
	return fmt.Errorf("carrier %s is %w", c.address, transport.ErrClosed)
}
