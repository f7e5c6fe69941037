package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

const (
	// publishWindow is how many messages of one Send may be on their way to a stream at once.
	publishWindow = 256
	// publishTimeout bounds the wait for a stream to say that it has a message.
	publishTimeout = apiTimeout
)

// flight is the messages of one Send, some of which are on their way to streams.
type flight struct {
	carrier *Carrier
	msgs    []*transport.Message
	taken   int             // so many of msgs have been taken
	under   []*confirmation // of those that come then
	over    uint64          // the number of the connection that these have gone over
	news    chan struct{}   // gets an element when one has been confirmed
	silence *time.Timer     // nil until there has been something to wait for
}

// newFlight returns a flight, one that has ended if there is one: most messages have one of their own, and need little of it.
func (c *Carrier) newFlight(msgs []*transport.Message) *flight {
	f, ok := c.flights.Get().(*flight)
	if !ok {
		f = new(flight)
	}
	f.carrier, f.msgs = c, msgs
	return f
}

// end ends a flight of which nothing is on its way any more.
func (f *flight) end() {
	c := f.carrier
	if f.silence != nil {
		f.silence.Stop()
	}
	*f = flight{news: f.news, silence: f.silence} // news of before do no harm
	c.flights.Put(f)
}

// add sends the next message to the stream that keeps it. When a message has not been taken lately, the next one is waited for
// alone: else those behind it might get through, and it after them. For the same reason all that is on its way at a time goes over
// one connection: what was on its way over an earlier one may be lost.
func (f *flight) add(ctx context.Context, s *stream, e *envelope, m *transport.Message) *transport.SendError {
	if err := s.ensure(ctx); err != nil {
		return s.failed(err)
	}
	alone := s.doubtful.Load()
	switch {
	case alone:
		if err := f.await(ctx, 0); err != nil {
			return err
		}
	case len(f.under) >= publishWindow:
		if err := f.await(ctx, publishWindow/2); err != nil {
			return err
		}
	}
	if connection := f.carrier.connection(); len(f.under) == 0 {
		f.over = connection
	} else if connection != f.over {
		if err := f.await(ctx, 0); err != nil {
			return err
		}
		f.over = connection
	}
	if f.news == nil {
		f.news = make(chan struct{}, 1)
	}
	confirmed, subject, err := f.carrier.confirmations.expect(s, f)
	if err != nil {
		return s.failed(err)
	}
	id := e.msg.Header[headerID][0]
	if m.Kind == transport.Request {
		e.set(headerReplyTo, e.msg.Reply)
		id += " " + e.msg.Reply // another process that takes the call over wants the answer elsewhere
	}
	if m.Kind != transport.Request || !s.hasTaken(m) {
		e.set(headerDedup, id)
	}
	e.msg.Reply = subject
	if failed := f.carrier.publish(e); failed != nil {
		f.carrier.confirmations.forget([]*confirmation{confirmed})
		s.doubtful.Store(true)
		return failed
	}
	f.under = append(f.under, confirmed)
	if alone {
		return f.await(ctx, 0)
	}
	return nil
}

// await waits until no more than so many are not confirmed, and no longer than a while without any news of them.
func (f *flight) await(ctx context.Context, most int) *transport.SendError {
	for len(f.under) > most {
		left, err := f.carrier.confirmations.confirmed(f.under)
		if n := len(f.under) - len(left); n > 0 {
			for i, confirmed := range f.under[:n] {
				confirmed.stream.noteTaken(f.msgs[f.taken+i])
			}
			f.taken += n
			f.under = left
		}
		if err != nil {
			return f.fail(f.under[0].stream.failed(err))
		}
		if len(f.under) <= most {
			return nil
		}
		f.listen()
		began := time.Now()
		select {
		case <-f.news:
		case <-f.silence.C:
			return f.fail(f.under[0].stream.failed(jetstream.ErrAsyncPublishTimeout))
		case <-ctx.Done():
			if time.Since(began) >= lookTimeout {
				f.under[0].stream.ready.Store(false)
			}
			return f.fail(&transport.SendError{Outcome: transport.Unknown, Err: transport.ContextError(ctx)})
		}
	}
	return nil
}

// listen begins a while without news.
func (f *flight) listen() {
	if f.silence == nil {
		f.silence = time.NewTimer(publishTimeout)
	} else {
		f.silence.Reset(publishTimeout)
	}
}

// fail ends the wait for all that is on its way: the first has failed. They are sent again, and known then.
func (f *flight) fail(failed *transport.SendError) *transport.SendError {
	f.under[0].stream.doubtful.Store(true)
	f.carrier.confirmations.forget(f.under)
	f.under = nil
	return failed
}

// noteTaken notes that a message has been taken.
func (s *stream) noteTaken(m *transport.Message) {
	if s.doubtful.Load() {
		s.doubtful.Store(false)
	}
	if m.Kind == transport.Request {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken.Add(order.KeyOf(m), order.SourceTime(m))
	}
}

// hasTaken reports whether a request is known to have been taken: when it is sent again its client wants the answer once more, and
// the stream must not drop it. One that may have been taken is sent again as the same message.
func (s *stream) hasTaken(m *transport.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken.Has(order.KeyOf(m))
}

// failed returns the error of a message that a stream has not taken, or has not confirmed.
func (s *stream) failed(err error) *transport.SendError {
	failed := &transport.SendError{Outcome: transport.Temporary, Err: fmt.Errorf("stream %s: %w", s.Name, s.failure(err))}
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
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, errElsewhere):
		failed.Outcome, failed.NextHop = transport.Unknown, true
	default:
		failed.NextHop = true
	}
	return failed
}
