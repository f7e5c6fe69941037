package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/backoff"
)

// sendUntilTaken hands a complete message to the carrier, again and again while that
// may help. start is the current time.
func (n *Node) sendUntilTaken(ctx context.Context, m *Message, start time.Time) error {
	unknown := false
	for failed := 1; ; failed++ {
		// Taken before the attempt, so that no end of an outage after it is missed.
		over := n.outageOver()
		err := n.hand(ctx, m)
		if err == nil {
			n.noteSent(m)
			return nil
		}
		failure, ok := errors.AsType[*SendError](err)
		if !ok {
			return withOutcome(m, err, unknown)
		}
		unknown = unknown || failure.Outcome == Unknown
		if failure.Outcome == Permanent || errors.Is(err, ErrFull) || errors.Is(err, ErrClosed) || ctx.Err() != nil {
			return withOutcome(m, err, unknown)
		}
		n.noteFailing(m, err)
		if failure.Code != 0 {
			over = nil // the next hop is there; what it says is about this message
		}
		if err := n.pause(ctx, start, backoff.Delay(failed), over); err != nil {
			err = fmt.Errorf("%w: after %d attempts, of which the last failed: %w", err, failed, failure.Err)
			return &SendError{Name: m.Name, Outcome: outcome(failure.Outcome, unknown), Code: failure.Code, Err: err}
		}
		start = time.Now()
	}
}

// lists are lists of one message, for a Sender's msgs: one that is made for each message escapes into the interface,
// and costs 2.5 times as much.
var lists = sync.Pool{New: func() any { return new([1]*Message) }}

// hand hands a message to the carrier once.
func (n *Node) hand(ctx context.Context, m *Message) error {
	list := lists.Get().(*[1]*Message)
	list[0] = m
	err := n.carrier.Send(ctx, list[:]...)
	list[0] = nil
	lists.Put(list)
	return err
}

// pause waits for the time of the next attempt: delay from now or, when the outage is over
// before that, backoff.Least from the start of the last attempt. It fails when ctx ends first, or when
// Close does not wait any longer.
func (n *Node) pause(ctx context.Context, start time.Time, delay time.Duration, over <-chan struct{}) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	next := time.Now().Add(delay)
	for {
		select {
		case <-timer.C:
			return nil
		case <-over:
			over = nil
			if soon := start.Add(backoff.Least); soon.Before(next) {
				timer.Reset(time.Until(soon))
			}
		case <-ctx.Done():
			return ContextError(ctx)
		case <-n.hurry:
			return fmt.Errorf("node is %w", ErrClosed)
		}
	}
}

// withOutcome returns the error of the last attempt. If an earlier one may have got the message through, it
// says so.
func withOutcome(m *Message, err error, unknown bool) error {
	failure, ok := errors.AsType[*SendError](err)
	if !unknown || ok && failure.Outcome == Unknown {
		return err
	}
	e := &SendError{Name: m.Name, Outcome: Unknown, Err: err}
	if ok {
		e.Code, e.Err = failure.Code, failure.Err
	}
	return e
}

func outcome(last Outcome, unknown bool) Outcome {
	if unknown {
		return Unknown
	}
	return last
}

// outageOver returns a channel that is closed when messages can be sent again after some could not.
func (n *Node) outageOver() <-chan struct{} { return *n.over.Load() }

// noteFailing logs when messages begin to fail for the time being.
func (n *Node) noteFailing(m *Message, err error) {
	if !n.failing.Swap(true) {
		n.logger.Warn("a message could not be sent; trying again", "name", m.Name, "message_id", m.ID.String(), "error", err)
	}
}

// noteSent logs when messages go out again, and lets those that wait for it know.
func (n *Node) noteSent(m *Message) {
	if !n.failing.Load() || !n.failing.Swap(false) {
		return
	}
	n.logger.Info("messages can be sent again", "name", m.Name)
	over := make(chan struct{})
	close(*n.over.Swap(&over))
}
