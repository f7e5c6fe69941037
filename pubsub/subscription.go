package pubsub

import (
	"context"
	"fmt"
	"iter"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

// Subscription receives the messages of a topic. Its methods may be called
// concurrently; each message goes to one of several concurrent readers. Make one with
// NewSubscription and Close it when done, unless its node is closed anyway.
type Subscription struct {
	name  string
	gid   transport.GID
	inbox *queue.Inbox
	node  *transport.Node
}

// NewSubscription returns a subscription of the topic called name, or of all topics that
// name stands for as a pattern (see transport.ValidatePattern). It gets what is
// published from now on. Errors: those of transport.Node.Receive.
func NewSubscription(node *transport.Node, name string, options ...SubscriptionOption) (*Subscription, error) {
	var qos transport.QoS
	for _, o := range options {
		o.subscription(&qos)
	}
	inbox, err := queue.Attach(node, transport.Interest{Kind: transport.TopicMessage, Name: name}, qos, nil)
	if err != nil {
		return nil, fmt.Errorf("subscription: %w", err)
	}
	return &Subscription{name: name, gid: transport.NewGID(), inbox: inbox, node: node}, nil
}

// Name returns the name or name pattern of the topic.
func (s *Subscription) Name() string { return s.name }

// GID returns the identity of the subscription.
func (s *Subscription) GID() transport.GID { return s.gid }

// Next waits for a message and takes it. It returns an error that wraps
// transport.ErrClosed when the subscription or its node is closed and no message is left, and
// one like transport.ContextError when ctx ends or has ended, also when there is a message.
func (s *Subscription) Next(ctx context.Context) (*transport.Message, error) {
	d, err := s.inbox.Pop(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", s.name, err)
	}
	d.Ack()
	return d.Message, nil
}

// TryNext takes a message if there is one, without waiting.
func (s *Subscription) TryNext() (*transport.Message, bool) {
	d, ok := s.inbox.TryPop()
	if !ok {
		return nil, false
	}
	d.Ack()
	return d.Message, true
}

// All returns an iterator that waits for messages and takes them until ctx ends or
// the subscription is closed.
func (s *Subscription) All(ctx context.Context) iter.Seq[*transport.Message] {
	return func(yield func(*transport.Message) bool) {
		for {
			m, err := s.Next(ctx)
			if err != nil || !yield(m) {
				return
			}
		}
	}
}

// Handle has every message handled by a callback, one after the other, in a goroutine
// of the subscription's own until it is closed; what has arrived by then is still
// handled. The context ends when the Close of the node runs out of time. An error or
// panic of the callback is logged, and the message is done with all the same. Errors: a
// subscription can have one callback, and needs to be open for it (transport.ErrClosed).
func (s *Subscription) Handle(callback func(context.Context, *transport.Message) error) error {
	err := s.inbox.Handle(1, func(ctx context.Context, d transport.Delivery) {
		if err := callback(ctx, d.Message); err != nil {
			s.node.Logger().Warn("callback of subscription failed",
				"name", d.Message.Name, "message_id", d.Message.ID.String(), "error", err)
			d.Term(err.Error())
			return
		}
		d.Ack()
	})
	if err != nil {
		return fmt.Errorf("subscription %s: %w", s.name, err)
	}
	return nil
}

// Ready reports whether Next would return at once. With Watch it lets a wait set wait
// for the subscription.
func (s *Subscription) Ready() bool { return s.inbox.Ready() }

// Watch has wake called after each change that may have made the subscription ready,
// until stop is called. wake must not block. It may be called once more while stop
// returns.
func (s *Subscription) Watch(wake func()) (stop func()) { return s.inbox.Watch(wake) }

// Dropped returns how many messages were dropped: pushed out of the queue by newer
// ones, refused by a full one, or too old when they were to be taken.
func (s *Subscription) Dropped() uint64 { return s.inbox.Dropped() }

// Close ends the subscription: nothing more arrives, and waiting readers return. What
// is in the queue can still be taken, or is handled by the callback, which the Close of
// the node waits for. It always returns nil; a second Close does nothing.
func (s *Subscription) Close() error {
	s.inbox.Close()
	return nil
}
