package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/transport"
)

// Send implements transport.Sender. It returns nil when the messages are in the buffer of the connection, from
// where they go to the server at once: what is in it when the connection is lost is lost, too. While there is
// no connection it fails with the outcome Temporary.
func (c *Carrier) Send(ctx context.Context, msgs ...*transport.Message) error {
	for i, m := range msgs {
		if failed := c.send(ctx, m); failed != nil {
			failed.Name, failed.Taken = m.Name, i
			return failed
		}
	}
	return nil
}

// send sends one message.
func (c *Carrier) send(ctx context.Context, m *transport.Message) *transport.SendError {
	if ctx.Err() != nil {
		return &transport.SendError{Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
	}
	if c.closed.Load() {
		return &transport.SendError{Outcome: transport.Permanent, Err: c.closedError()}
	}
	e := envelopes.Get().(*envelope)
	defer e.release()
	if err := c.address(e, m); err != nil {
		return &transport.SendError{Outcome: transport.Permanent, Err: err}
	}
	return c.publish(e)
}

// address makes a message ready to be sent where it belongs.
func (c *Carrier) address(e *envelope, m *transport.Message) error {
	switch m.Kind {
	case transport.TopicMessage:
		e.msg.Subject = Subject(m.Name)
	case transport.Request:
		if err := c.inbox.open(); err != nil {
			return err
		}
		e.msg.Subject, e.msg.Reply = Subject(m.Name), c.inbox.subject(m)
	case transport.Response, transport.ErrorResponse:
		to, ok := replyAddress{}, false
		if len(m.To) > 0 {
			to, ok = parseReply(m.To[0])
		}
		if !ok {
			return fmt.Errorf("%w: the request did not say at which subject its answer is wanted", transport.ErrUndeliverable)
		}
		e.msg.Subject = to.subject
		if to.plain {
			e.writePlain(m)
			return nil
		}
		e.set(headerSubject, m.Name)
	}
	return e.write(m, c.inbox.address)
}

// writePlain makes the answer to a request of another program ready: the payload as it is, and the
// fields of an error if it is one.
func (e *envelope) writePlain(m *transport.Message) {
	e.msg.Data = m.Body
	if m.Error != nil {
		e.writeMicroError(m.Error)
		e.finish()
	}
}

// publish sends a message that is ready.
func (c *Carrier) publish(e *envelope) *transport.SendError {
	if !c.conn.IsConnected() {
		return c.notConnected(nats.ErrDisconnected)
	}
	err := c.conn.PublishMsg(&e.msg)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		err = fmt.Errorf("%w: the server takes %d bytes at most, header included, and the body has %d", transport.ErrTooLarge, c.conn.MaxPayload(), len(e.msg.Data))
		return &transport.SendError{Outcome: transport.Permanent, Err: err}
	case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, nats.ErrHeadersNotSupported):
		return &transport.SendError{Outcome: transport.Permanent, Err: err}
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return c.notConnected(err)
	}
	// It broke while this was being written.
	return &transport.SendError{Outcome: transport.Unknown, NextHop: true, Err: err}
}

func (c *Carrier) notConnected(err error) *transport.SendError {
	return &transport.SendError{Outcome: transport.Temporary, NextHop: true, Err: fmt.Errorf("no connection to %s: %w", c.config.where(), err)}
}
