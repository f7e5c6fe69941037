package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/transport"
)

// Send implements transport.Sender. It returns nil when the streams have confirmed the messages that they keep, and when the
// others are in the buffer of the connection, from where they go to the server at once: what is in it when the connection
// is lost is lost, too. While there is no connection it fails with the outcome Temporary. When the network stalls and the buffer is full it may take two seconds longer than ctx: a write that has begun is not given up sooner.
//
// Of several messages for a stream some may be taken behind one that fails: when they are sent again with it they are not
// stored twice, but it comes after them. The next message after a failure is sent alone.
func (c *Carrier) Send(ctx context.Context, msgs ...*transport.Message) error {
	f := c.newFlight(msgs)
	defer f.end()
	var failed *transport.SendError
	for _, m := range msgs {
		if failed = c.send(ctx, f, m); failed != nil {
			break
		}
	}
	if earlier := f.await(ctx, 0); earlier != nil {
		failed = earlier
	}
	if failed != nil {
		if failed.Outcome == transport.Temporary && c.conn.IsClosed() {
			failed.Outcome, failed.Err = transport.Permanent, c.closedError()
		}
		failed.Name, failed.Taken = msgs[f.taken].Name, f.taken
		return failed
	}
	return nil
}

// send sends the next message of a flight.
func (c *Carrier) send(ctx context.Context, f *flight, m *transport.Message) *transport.SendError {
	if ctx.Err() != nil {
		return &transport.SendError{Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
	}
	if c.closed.Load() {
		return &transport.SendError{Outcome: transport.Permanent, Err: c.closedError()}
	}
	e := envelopeFor(m.Kind)
	defer e.release(m.Kind)
	to, err := c.address(e, m)
	if err != nil {
		return &transport.SendError{Outcome: transport.Permanent, Err: err}
	}
	if failed := c.outsource(ctx, e, m); failed != nil {
		return failed
	}
	if m.Kind == transport.TopicMessage || m.Kind == transport.Request {
		if s := c.streamOf(e.msg.Subject); s != nil {
			return f.add(ctx, s, e, m)
		}
	}
	if failed := f.await(ctx, 0); failed != nil {
		return failed
	}
	if failed := c.publish(e); failed != nil {
		return failed
	}
	f.taken++
	if to.endpoint != 0 {
		c.monitor.answered(to, m)
	}
	return nil
}

// address makes a message ready to be sent where it belongs: an answer to the reply address that it returns.
func (c *Carrier) address(e *envelope, m *transport.Message) (to replyAddress, err error) {
	switch m.Kind {
	case transport.TopicMessage:
		e.address(m.Name)
	case transport.Request:
		if err := c.inbox.open(); err != nil {
			return to, err
		}
		e.address(m.Name)
		e.msg.Reply = c.inbox.subject(m)
	case transport.Response, transport.ErrorResponse:
		ok := false
		if len(m.To) > 0 {
			to, ok = parseReply(m.To[0])
		}
		if !ok {
			return to, fmt.Errorf("%w: the request did not say at which subject its answer is wanted", transport.ErrUndeliverable)
		}
		e.msg.Subject = to.subject
		if to.plain {
			e.writePlain(m)
			return to, nil
		}
	}
	return to, e.write(m, c.inbox.address)
}

// writePlain makes the answer to a request of another program ready: the payload as it is, and the
// fields of an error if it is one.
func (e *envelope) writePlain(m *transport.Message) {
	e.msg.Data = m.Body
	if m.Error != nil {
		e.writeMicroError(m.Error)
	}
	e.finish()
}

// publish sends a message that is ready.
func (c *Carrier) publish(e *envelope) *transport.SendError {
	err := c.fits(&e.msg)
	if err == nil {
		err = c.conn.PublishMsg(&e.msg)
	}
	if err != nil {
		return c.publishError(err, len(e.msg.Data))
	}
	return nil
}

// publishError returns the error of a message that could not be written to the connection.
func (c *Carrier) publishError(err error, body int) *transport.SendError {
	switch {
	case !c.conn.IsConnected() && errors.Is(err, nats.ErrHeadersNotSupported): // as far as is known before the first connection
		return c.notConnected(nats.ErrDisconnected)
	case errors.Is(err, nats.ErrMaxPayload):
		way := ""
		if c.bucket == nil {
			way = "; the configuration names no bucket for larger ones (objects)"
		}
		err = fmt.Errorf("%w: the server takes %d bytes at most, header included, and the body has %d%s", transport.ErrTooLarge, c.maxPayload(), body, way)
		return &transport.SendError{Outcome: transport.Permanent, Err: err}
	case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, nats.ErrHeadersNotSupported):
		return &transport.SendError{Outcome: transport.Permanent, Err: err}
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return c.notConnected(err)
	}
	// It broke while this was being written.
	return &transport.SendError{Outcome: transport.Unknown, NextHop: true, Err: err}
}

// maxPayload returns how many bytes a message may have, header included, or 0 as long as that is not known.
func (c *Carrier) maxPayload() int64 {
	most := c.conn.MaxPayload()
	if limit := c.config.MaxPayload; limit > 0 && (most == 0 || limit < most) {
		return limit
	}
	return most
}

// fits refuses what is larger than the configuration allows; nats.go sees to what the server does.
func (c *Carrier) fits(m *nats.Msg) error {
	if limit := c.config.MaxPayload; limit > 0 && int64(payload(m)) > limit {
		return nats.ErrMaxPayload
	}
	return nil
}

// payload returns how many bytes a server counts of a message.
func payload(m *nats.Msg) int {
	n := len(m.Data)
	if len(m.Header) > 0 {
		n += len("NATS/1.0\r\n\r\n")
	}
	for field, values := range m.Header {
		for _, value := range values {
			n += len(field) + len(value) + len(": \r\n")
		}
	}
	return n
}

func (c *Carrier) notConnected(err error) *transport.SendError {
	return &transport.SendError{Outcome: transport.Temporary, NextHop: true, Err: fmt.Errorf("no connection to %s: %w", c.config.where(), err)}
}
