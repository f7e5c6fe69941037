package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/postbus/postbus/transport"
)

// Inbox is the receiving half that subscriptions and servers share: a queue that is
// attached to a node, with readers or a handler. It implements transport.Sink.
type Inbox struct {
	*Queue
	node     *transport.Node
	interest transport.Interest
	detach   func()

	warnOnce sync.Once // about the first delivery that a full queue dropped

	mu      sync.Mutex
	cancel  context.CancelFunc // ends the handlers' context; nil without a handler
	handled chan struct{}      // closed when the handler loop has ended; nil without one
}

var _ transport.Sink = (*Inbox)(nil)

// Attach states the interest and returns the inbox that is filled with what matches it.
func Attach(node *transport.Node, interest transport.Interest, qos transport.QoS) (*Inbox, error) {
	in := &Inbox{Queue: New(qos), node: node, interest: interest}
	detach, err := node.Receive(interest, in)
	if err != nil {
		return nil, err
	}
	in.detach = detach
	return in, nil
}

// Deliver implements transport.Sink.
func (in *Inbox) Deliver(d transport.Delivery) {
	if !in.Push(d) && in.qos.KeepAll {
		in.warnOnce.Do(func() {
			in.node.Logger().Warn("queue full, messages are dropped: the reader is too slow",
				"name", in.interest.Name, "messages", transport.KeepAllMessages, "bytes", transport.KeepAllBytes)
		})
	}
}

// Handle calls handler with each delivery, at most concurrency at a time, from a
// goroutine of the inbox's own until the inbox is closed. The context ends when the
// inbox is closed, or when Drain runs out of time.
func (in *Inbox) Handle(concurrency int, handler func(context.Context, transport.Delivery)) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.handled != nil {
		return errors.New("there is a handler already")
	}
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel, in.handled = cancel, make(chan struct{})
	go func() {
		defer close(in.handled)
		defer cancel()
		in.serve(ctx, concurrency, handler)
	}()
	return nil
}

func (in *Inbox) serve(ctx context.Context, concurrency int, handler func(context.Context, transport.Delivery)) {
	free := make(chan struct{}, concurrency)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		if concurrency > 1 {
			free <- struct{}{} // before Pop: what can't be handled yet waits in the queue
		}
		if ctx.Err() != nil {
			return // what is in the queue is left to readers
		}
		d, err := in.Pop(ctx)
		if err != nil {
			return
		}
		if ctx.Err() != nil {
			d.Nack(0)
			return
		}
		if concurrency == 1 {
			handler(ctx, d)
			continue
		}
		running.Go(func() {
			defer func() { <-free }()
			handler(ctx, d)
		})
	}
}

// Drain implements transport.Sink: it closes the queue and waits for the handler to
// work off what is in it. When ctx ends first the handlers' context ends too, and
// they are not waited for.
func (in *Inbox) Drain(ctx context.Context) error {
	in.Queue.Close()
	in.mu.Lock()
	handled, cancel := in.handled, in.cancel
	in.mu.Unlock()
	if handled == nil {
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

// Close detaches the inbox from its node, makes waiting readers return, and ends the
// handlers' context. It does not wait for handlers: they may call it. What is still
// in the queue can be read, but is not handled any more.
func (in *Inbox) Close() {
	in.detach()
	in.Queue.Close()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.cancel != nil {
		in.cancel()
	}
}
