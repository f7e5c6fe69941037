package pubsub

import (
	"context"
	"errors"
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

// ErrReject makes an error of a callback final: a message of a durable subscription or group whose
// callback returns an error that wraps it does not come again, but becomes a dead letter at once.
var ErrReject = errors.New("message rejected")

// NewSubscription returns a subscription of the topic called name, or of all topics that name stands
// for as a pattern (see transport.ValidatePattern). It gets what is published from now on, unless Last,
// Durable or Group say otherwise. Errors: those of transport.Node.Receive; one that wraps
// transport.ErrNotSupported if the carrier can't do what an option asks for.
func NewSubscription(node *transport.Node, name string, options ...SubscriptionOption) (*Subscription, error) {
	c := subscribing{interest: transport.Interest{Kind: transport.TopicMessage, Name: name}}
	for _, o := range options {
		o.subscription(&c)
	}
	switch {
	case c.interest.Tracked():
		c.interest.InFlight = min(c.qos.Depth, transport.MaxInFlight)
	case c.qos.Depth == 0:
		c.qos.Depth = max(c.interest.Last, transport.DefaultDepth)
	}
	inbox, err := queue.Attach(node, c.interest, queue.Options{QoS: c.qos, Silence: c.silence, Silent: c.silent})
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
//
// A message is done with when it is taken: a program that stops before it has handled it does not get
// it again, also from a durable subscription or group. Those should be read with Handle or Take. If
// they can't put on record that the message is taken, that is logged, and it may come again.
func (s *Subscription) Next(ctx context.Context) (*transport.Message, error) {
	for {
		d, err := s.Take(ctx)
		if err != nil {
			return nil, err
		}
		if s.keep(d) {
			return d.Message, nil
		}
	}
}

// Take is Next for programs that say themselves what has become of the message: by the Ack, Nack or
// Term of the delivery. Of a durable subscription or group, what is not settled comes again: when the
// subscription is made anew, or to another member. A subscription with KeepLast(n) has at most n
// messages unsettled. Without Durable and Group there is nothing to settle.
func (s *Subscription) Take(ctx context.Context) (transport.Delivery, error) {
	d, err := s.inbox.Pop(ctx)
	if err != nil {
		return transport.Delivery{}, fmt.Errorf("subscription %s: %w", s.name, err)
	}
	return d, nil
}

// TryNext is Next without waiting for a message: it takes one if there is one.
func (s *Subscription) TryNext() (*transport.Message, bool) {
	for {
		d, ok := s.inbox.TryPop()
		if !ok {
			return nil, false
		}
		if s.keep(d) {
			return d.Message, true
		}
	}
}

// All returns an iterator that waits for messages and takes them, as Next does, until ctx ends or
// the subscription is closed.
func (s *Subscription) All(ctx context.Context) iter.Seq[*transport.Message] {
	return func(yield func(*transport.Message) bool) {
		for {
			d, err := s.inbox.Pop(ctx)
			if err != nil || s.keep(d) && !yield(d.Message) {
				return
			}
		}
	}
}

// keep settles a delivery that has been taken, and reports whether it is the reader's now. Also if that
// is not on record: here the message does not come again. But it may be somebody else's.
func (s *Subscription) keep(d transport.Delivery) bool { return s.ack(d) || !d.Lost() }

// ack settles a delivery that has been taken or handled. It returns false if that is not on record.
func (s *Subscription) ack(d transport.Delivery) bool {
	err := d.Ack()
	if err != nil {
		s.node.Logger().Warn("a message can't be put on record as done, it may come again",
			"name", d.Message.Name, "message_id", d.Message.ID.String(), "error", err)
	}
	return err == nil
}

// Handle has every message handled by a callback, one after the other, in a goroutine
// of the subscription's own until it is closed; what has arrived by then is still
// handled. The context ends when the Close of the node runs out of time. An error or
// panic of the callback is logged, and the message is done with all the same. Errors: a
// subscription can have one callback, and needs to be open for it (transport.ErrClosed).
//
// Of a durable subscription or group, a message is done with when the callback has returned nil and
// that is on record, before the next one's turn. After an error or a panic it comes again: after a
// second, and after twice as long each further time, up to half a minute, or, after MaxDeliver
// deliveries or with an error that wraps ErrReject, it is kept as a dead letter. Meanwhile others are
// handled. What has arrived when the subscription is closed, and not reached the callback, is given
// back.
func (s *Subscription) Handle(callback func(context.Context, *transport.Message) error) error {
	err := s.inbox.Handle(1, func(ctx context.Context, d transport.Delivery) {
		err := callback(ctx, d.Message)
		if err == nil {
			s.ack(d)
			return
		}
		s.node.Logger().Warn("callback of subscription failed",
			"name", d.Message.Name, "message_id", d.Message.ID.String(), "attempt", d.Attempt, "error", err)
		if errors.Is(err, ErrReject) {
			d.Term(err.Error())
		} else {
			queue.Retry(d, err.Error())
		}
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
// ones, refused by a full one, or too old when they were to be taken. Of a durable subscription or group
// only the last can be.
func (s *Subscription) Dropped() uint64 { return s.inbox.Dropped() }

// Close ends the subscription: nothing more arrives, and waiting readers return. What
// is in the queue can still be taken, or is handled by the callback, which the Close of
// the node waits for; of a durable subscription or group it is given back, for whoever reads it next. It
// always returns nil; a second Close does nothing.
func (s *Subscription) Close() error {
	s.inbox.Close()
	return nil
}
