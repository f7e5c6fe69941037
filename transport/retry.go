package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postbus/postbus/internal/backoff"
)

// sendUntilTaken hands a complete message to the carrier, again and again while that
// may help.
func (n *Node) sendUntilTaken(ctx context.Context, m *Message) error {
	unknown := false
	for failed := 1; ; failed++ {
		err := n.carrier.Send(ctx, m)
		n.noteState(m, err)
		if err == nil {
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
		timer := time.NewTimer(backoff.Delay(failed))
		select {
		case <-timer.C:
			continue
		case <-ctx.Done():
			err = fmt.Errorf("%w: after %d attempts, of which the last failed: %w", ContextError(ctx), failed, failure.Err)
		case <-n.hurry:
			err = fmt.Errorf("node is %w: after %d attempts, of which the last failed: %w", ErrClosed, failed, failure.Err)
		}
		timer.Stop()
		return &SendError{Name: m.Name, Outcome: outcome(failure.Outcome, unknown), Code: failure.Code, Err: err}
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

// noteState logs when messages begin to fail for the time being, and when they go out again.
func (n *Node) noteState(m *Message, err error) {
	if err == nil {
		if n.failing.Load() && n.failing.Swap(false) {
			n.logger.Info("messages can be sent again", "name", m.Name)
		}
		return
	}
	failure, ok := errors.AsType[*SendError](err)
	if ok && failure.Outcome != Permanent && !errors.Is(err, ErrFull) && !errors.Is(err, context.Canceled) && !n.failing.Swap(true) {
		n.logger.Warn("a message could not be sent; trying again", "name", m.Name, "message_id", m.ID.String(), "error", err)
	}
}
