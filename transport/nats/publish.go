package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
)

const (
	// publishWindow is how many messages of one Send may be on their way to a stream at once.
	publishWindow = 256
	// publishPending is how many of all calls together may be.
	publishPending = 1 << 14
	// publishTimeout bounds the wait for a stream to say that it has a message.
	publishTimeout = apiTimeout
)

// flight is the messages of one Send, some of which are on their way to streams.
type flight struct {
	carrier *Carrier
	msgs    []*transport.Message
	taken   int       // so many of msgs have been taken
	acks    []pending // of those that come then
}

// pending is a message that a stream has not confirmed.
type pending struct {
	stream *stream
	ack    jetstream.PubAckFuture
}

// add sends the next message to the stream that keeps it. When a message has not been taken lately, the next one is waited for
// alone: else those behind it might get through, and it after them.
func (f *flight) add(ctx context.Context, s *stream, e *envelope, m *transport.Message) *transport.SendError {
	if err := s.ensure(ctx); err != nil {
		return s.failed(err)
	}
	alone := s.doubtful.Load()
	for len(f.acks) > 0 && (alone || len(f.acks) >= publishWindow) {
		if err := f.await(ctx); err != nil {
			return err
		}
	}
	if m.Kind == transport.Request {
		// The reply subject is the stream's, for its confirmation. A request is not dropped when it comes
		// again, for then its client wants the answer once more.
		e.set(headerReplyTo, e.msg.Reply)
		e.msg.Reply = ""
	} else {
		e.set(headerDedup, m.ID.String())
	}
	ack, err := f.carrier.js.PublishMsgAsync(&e.msg, jetstream.WithExpectStream(s.Name), jetstream.WithRetryAttempts(0), jetstream.WithStallWait(publishTimeout))
	if err != nil {
		s.doubtful.Store(true)
		if errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return s.failed(err)
		}
		return f.carrier.publishError(err, len(m.Body))
	}
	f.acks = append(f.acks, pending{s, ack})
	if alone {
		return f.await(ctx)
	}
	return nil
}

// await waits for the stream to confirm the oldest message.
func (f *flight) await(ctx context.Context) *transport.SendError {
	p := f.acks[0]
	f.acks = f.acks[1:]
	var failed *transport.SendError
	select {
	case <-p.ack.Ok():
		f.taken++
		p.stream.clear()
		return nil
	case err := <-p.ack.Err():
		failed = p.stream.failed(err)
	case <-ctx.Done():
		failed = &transport.SendError{Outcome: transport.Unknown, Err: transport.ContextError(ctx)}
	}
	p.stream.doubtful.Store(true)
	f.acks = nil // they are sent again, and known then
	return failed
}

// finish waits for all that is on its way.
func (f *flight) finish(ctx context.Context) *transport.SendError {
	for len(f.acks) > 0 {
		if err := f.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// clear says that a message has been taken.
func (s *stream) clear() {
	if s.doubtful.Load() {
		s.doubtful.Store(false)
	}
}

// failed returns the error of a message that a stream has not taken, or has not confirmed.
func (s *stream) failed(err error) *transport.SendError {
	failed := &transport.SendError{Outcome: transport.Temporary, Err: fmt.Errorf("stream %s: %w", s.Name, jetStreamError(err))}
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		failed.Code = api.Code
		if api.Code < 500 && api.Code != 408 && api.Code != 429 {
			failed.Outcome = transport.Permanent
		}
		if api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum {
			failed.Err = fmt.Errorf("%w: %w", transport.ErrTooLarge, failed.Err)
		}
	case errors.Is(err, errDiffers):
		failed.Outcome = transport.Permanent
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, jetstream.ErrInvalidJSAck):
		failed.Outcome, failed.NextHop = transport.Unknown, true
	default:
		failed.NextHop = true
	}
	return failed
}
