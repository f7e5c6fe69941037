package pubsub

import (
	"context"
	"fmt"
	"iter"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

// TypedPublisher publishes values of T, which a codec turns into bodies.
type TypedPublisher[T any] struct {
	*Publisher
	codec codec.Codec[T]
}

// NewTypedPublisher is NewPublisher for values of T.
func NewTypedPublisher[T any](node *transport.Node, name string, c codec.Codec[T], options ...PublisherOption) (*TypedPublisher[T], error) {
	p, err := NewPublisher(node, name, options...)
	if err != nil {
		return nil, err
	}
	return &TypedPublisher[T]{p, c}, nil
}

// Publish encodes v and publishes it with the codec's content type. Errors: those of the
// codec and of [Publisher.Publish].
func (p *TypedPublisher[T]) Publish(ctx context.Context, v T, options ...transport.MessageOption) error {
	body, err := p.codec.Encode(v)
	if err != nil {
		return fmt.Errorf("publish %s: encode: %w", p.name, err)
	}
	options = append([]transport.MessageOption{transport.WithContentType(p.codec.ContentType())}, options...)
	return p.Publisher.Publish(ctx, body, options...)
}

// TypedSubscription receives values of T, which a codec makes of bodies. A message
// whose body can't be decoded comes as an error that wraps codec.ErrDecode; the ones
// behind it are not affected.
type TypedSubscription[T any] struct {
	*Subscription
	codec codec.Codec[T]
}

// Typed is a received value with the message that brought it.
type Typed[T any] struct {
	// Value is the decoded body.
	Value T
	// Message is what was received. It is read-only.
	Message *transport.Message
}

// NewTypedSubscription is NewSubscription for values of T.
func NewTypedSubscription[T any](node *transport.Node, name string, c codec.Codec[T], options ...SubscriptionOption) (*TypedSubscription[T], error) {
	s, err := NewSubscription(node, name, options...)
	if err != nil {
		return nil, err
	}
	return &TypedSubscription[T]{s, c}, nil
}

// Next is [Subscription.Next] with the decoded value. With an error that wraps
// codec.ErrDecode it returns the message, too.
func (s *TypedSubscription[T]) Next(ctx context.Context) (Typed[T], error) {
	m, err := s.Subscription.Next(ctx)
	if err != nil {
		return Typed[T]{}, err
	}
	return s.decode(m)
}

// TryNext is [Subscription.TryNext] with the decoded value; ok is false when there is
// no message. With an error that wraps codec.ErrDecode it returns the message, too.
func (s *TypedSubscription[T]) TryNext() (v Typed[T], ok bool, err error) {
	m, ok := s.Subscription.TryNext()
	if !ok {
		return Typed[T]{}, false, nil
	}
	v, err = s.decode(m)
	return v, true, err
}

// All is [Subscription.All] with decoded values. A message that can't be decoded
// comes with an error that wraps codec.ErrDecode, and the iteration goes on.
func (s *TypedSubscription[T]) All(ctx context.Context) iter.Seq2[Typed[T], error] {
	return func(yield func(Typed[T], error) bool) {
		for m := range s.Subscription.All(ctx) {
			if !yield(s.decode(m)) {
				return
			}
		}
	}
}

// Handle is [Subscription.Handle] with decoded values. A message that can't be decoded
// is logged and skipped; of a durable subscription or group it becomes a dead letter.
func (s *TypedSubscription[T]) Handle(callback func(context.Context, Typed[T]) error) error {
	return s.Subscription.Handle(func(ctx context.Context, m *transport.Message) error {
		v, err := s.decode(m)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrReject, err)
		}
		return callback(ctx, v)
	})
}

func (s *TypedSubscription[T]) decode(m *transport.Message) (Typed[T], error) {
	v, err := codec.Decode(s.codec, m.Body)
	if err != nil {
		return Typed[T]{Message: m}, fmt.Errorf("subscription %s: message %s: %w", s.name, m.ID, err)
	}
	return Typed[T]{v, m}, nil
}
