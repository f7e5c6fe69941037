package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/postbus/postbus/transport"
)

// ErrHandled says that an inbox has a handler already.
var ErrHandled = errors.New("there is a handler already")

// Inbox is the receiving half that subscriptions and servers share: a queue that is
// attached to a node, with readers or a handler. It implements transport.Sink.
type Inbox struct {
	*Queue
	node     *transport.Node
	interest transport.Interest
	detach   func()
	leftover func(context.Context, transport.Delivery)
	full     atomic.Bool // a delivery was dropped, and the queue has not been empty since

	mu      sync.Mutex
	closed  bool
	cancel  context.CancelFunc // ends the handlers' context; nil without a handler
	handled chan struct{}      // closed when the last handler has ended; nil without one
}

var _ transport.Sink = (*Inbox)(nil)

// Handler handles a delivery. It settles it, too.
type Handler func(context.Context, transport.Delivery)

// Attach states the interest and returns the inbox that is filled with what matches it.
// leftover, unless it is nil, gets what is in the queue when the inbox is closed and no
// handler is there to work it off.
func Attach(node *transport.Node, interest transport.Interest, qos transport.QoS, leftover Handler) (*Inbox, error) {
	in := &Inbox{Queue: New(qos), node: node, interest: interest, leftover: leftover}
	detach, err := node.Receive(interest, in)
	if err != nil {
		return nil, err
	}
	in.detach = detach
	return in, nil
}

// Deliver implements transport.Sink.
func (in *Inbox) Deliver(d transport.Delivery) {
	ok := in.Push(d)
	switch {
	case ok && in.full.Load() && in.Len() <= 1:
		in.full.Store(false)
	case !ok && in.qos.KeepAll && !in.full.Swap(true):
		in.node.Logger().Warn("queue full, messages are dropped: the reader is too slow",
			"name", in.interest.Name, "messages", transport.KeepAllMessages, "bytes", transport.KeepAllBytes)
	}
}

// Handle calls handler with each delivery, at most concurrency at a time, from
// goroutines of the inbox's own, until the inbox is closed and its queue empty. The
// context ends when Drain runs out of time. A panic of the handler is logged. Errors are
// ErrHandled and transport.ErrClosed.
func (in *Inbox) Handle(concurrency int, handler Handler) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closed:
		return transport.ErrClosed
	case in.handled != nil:
		return ErrHandled
	}
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel, in.handled = cancel, make(chan struct{})
	l := &loop{in: in, ctx: ctx, handler: handler, free: make(chan struct{}, concurrency)}
	go l.run()
	return nil
}

// loop hands deliveries to a handler.
type loop struct {
	in      *Inbox
	ctx     context.Context
	handler Handler
	free    chan struct{} // has an element for each handler at work
	running sync.WaitGroup
}

func (l *loop) run() {
	done := false
	defer func() {
		if !done {
			go l.run() // the handler has ended its goroutine (runtime.Goexit)
			return
		}
		l.running.Wait()
		l.in.cancel()
		close(l.in.handled)
	}()
	for l.next() {
	}
	done = true
}

// next handles one delivery. It returns false when there will be no more.
func (l *loop) next() bool {
	l.free <- struct{}{} // before Pop: what can't be handled yet waits in the queue
	d, err := l.in.Pop(l.ctx)
	if err != nil {
		return false
	}
	if cap(l.free) == 1 {
		l.call(d)
	} else {
		l.running.Go(func() { l.call(d) })
	}
	return true
}

func (l *loop) call(d transport.Delivery) {
	defer func() { <-l.free }()
	defer func() {
		if p := recover(); p != nil {
			l.in.node.Logger().Error("handler panicked", "name", d.Message.Name,
				"message_id", d.Message.ID.String(), "panic", p, "stack", string(debug.Stack()))
			d.Term("the handler panicked")
		}
	}()
	l.handler(l.ctx, d)
}

// Drain implements transport.Sink: it closes the queue and waits for the handler to
// work off what is in it. When ctx ends first the handlers' context ends too, and
// they are not waited for.
func (in *Inbox) Drain(ctx context.Context) error {
	in.mu.Lock()
	in.closed = true
	handled, cancel := in.handled, in.cancel
	in.mu.Unlock()
	in.Queue.Close()
	if handled == nil {
		in.letGo(ctx)
		return nil
	}
	select {
	case <-handled:
		return nil
	case <-ctx.Done():
		cancel()
		return fmt.Errorf("handler of %s is still at work: %w", in.interest.Name, ctx.Err())
	}
}

// letGo hands what nobody will handle to leftover.
func (in *Inbox) letGo(ctx context.Context) {
	if in.leftover == nil {
		return
	}
	for d, ok := in.TryPop(); ok; d, ok = in.TryPop() {
		in.leftover(ctx, d)
	}
}

// Close ends the interest. Nothing more comes in and waiting readers return; the
// handler works off what is in the queue. It does not wait for that: handlers may call
// it. The Close of the node does.
func (in *Inbox) Close() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	in.Queue.Close()
	in.detach()
}
