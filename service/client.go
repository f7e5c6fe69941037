package service

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/postbus/postbus/transport"
)

// ErrUnknownCall says that there is no call of this number to wait for: there never
// was, its outcome has been collected, or it was dropped to make room.
var ErrUnknownCall = errors.New("no such call")

// Client calls a service. Its methods may be called concurrently. Make one with
// NewClient and Close it when done, unless its node is closed anyway.
type Client struct {
	node   *transport.Node
	name   string
	gid    transport.GID
	detach func()
	calls  calls
}

// NewClient returns a client of the service called name. Errors: those of
// transport.ValidateName and transport.Node.Receive.
func NewClient(node *transport.Node, name string) (*Client, error) {
	if err := transport.ValidateName(name); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &Client{node: node, name: name, gid: transport.NewGID(), calls: calls{listed: make(map[uint64]*call)}}
	interest := transport.Interest{Kind: transport.Response, Name: name, Client: c.gid}
	var err error
	if c.detach, err = node.Receive(interest, (*clientSink)(c)); err != nil {
		return nil, fmt.Errorf("client %s: %w", name, err)
	}
	return c, nil
}

// Name returns the name of the service.
func (c *Client) Name() string { return c.name }

// GID returns the identity of the client, which servers find in Info.ClientGID.
func (c *Client) GID() transport.GID { return c.gid }

// Call sends a request and waits for the answer. Errors: a [*transport.RemoteError] if the server
// answered with an error; one that wraps transport.ErrTimeout if no answer came by the deadline; those
// of [transport.Node.Send] if the request could not be sent by then, also when a mail server reports so
// later (transport.ErrUndeliverable); one that wraps transport.ErrClosed if the client or its node is
// closed meanwhile.
//
// If it is unknown whether the request was sent the answer is waited for all the same;
// the error of a call that then has none wraps that of Send as well.
func (c *Client) Call(ctx context.Context, request []byte, options ...transport.MessageOption) (*transport.Message, error) {
	call, err := c.send(ctx, request, false, options)
	if err != nil {
		return nil, err
	}
	// A server in this process has been woken and is next in line. When it has had its turn the answer is often
	// there: then there is no channel to make, nothing to wait for and nobody to wake.
	runtime.Gosched()
	return c.await(ctx, call)
}

// Send sends a request and returns its number, with which Response collects the
// answer. ctx and its deadline, or DefaultTimeout, bound the sending; the deadline is that of the
// call too. Errors: those of Call that concern sending, and ErrTooManyCalls.
func (c *Client) Send(ctx context.Context, request []byte, options ...transport.MessageOption) (sequence uint64, err error) {
	call, err := c.send(ctx, request, true, options)
	if err != nil {
		return 0, err
	}
	return call.sequence, nil
}

// HasResponse reports whether the outcome of this call of Send is there to be
// collected: its answer, or that there is none. It is false for a number that Response
// does not know.
func (c *Client) HasResponse(sequence uint64) bool {
	return c.calls.hasOutcome(sequence)
}

// Response waits for the outcome of a call of Send and collects it: the call is then
// done with. Errors: those of Call that concern the answer, and ErrUnknownCall. When ctx
// ends before there is an outcome the call goes on, and can be waited for again.
func (c *Client) Response(ctx context.Context, sequence uint64) (*transport.Message, error) {
	call := c.calls.find(sequence)
	if call == nil {
		return nil, fmt.Errorf("call %d of %s: %w", sequence, c.name, ErrUnknownCall)
	}
	return c.await(ctx, call)
}

// Ready reports whether the outcome of some call of Send is there to be collected, or
// the client is closed. With Watch it lets a wait set wait for the client.
func (c *Client) Ready() bool { return c.calls.anyReady() }

// Watch has wake called after each change that may have made the client ready, until
// stop is called. wake must not block. It may be called once more while stop returns.
func (c *Client) Watch(wake func()) (stop func()) { return c.calls.watchers.Watch(wake) }

// Late returns how many answers were dropped because no call was waiting for them: too
// late, or a second time.
func (c *Client) Late() uint64 { return c.calls.lateAnswers() }

// Close ends the client. Calls under way fail with transport.ErrClosed; outcomes that
// are there can still be collected. It always returns nil; a second Close does nothing.
func (c *Client) Close() error {
	c.detach()
	c.calls.close()
	return nil
}

// send lists a call and sends its request.
func (c *Client) send(ctx context.Context, request []byte, async bool, options []transport.MessageOption) (*call, error) {
	now := time.Now()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = now.Add(DefaultTimeout)
	}
	// The node tries until the request is taken, but not beyond the call: it may have been answered
	// although that is not known.
	call, err := c.calls.add(ctx, deadline, async)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", c.name, err)
	}
	defer call.sending.end()
	m := &transport.Message{
		Kind:     transport.Request,
		Name:     c.name,
		Body:     request,
		Deadline: deadline,
		Info: transport.Info{
			SourceTime:      now,
			PublisherGID:    c.gid,
			Sequence:        call.sequence,
			ClientGID:       c.gid,
			RequestSequence: call.sequence,
		},
	}
	for _, o := range options {
		o(m)
	}
	if err := c.node.Send(&call.sending, m); err != nil {
		failed, ok := errors.AsType[*transport.SendError](err)
		if ok && failed.Outcome == transport.Unknown || c.calls.answered(call) {
			c.calls.unsent(call, err)
			return call, nil
		}
		if _, outcome, ok := c.calls.collect(call); ok { // its deadline, or Close
			return nil, fmt.Errorf("call %s: %w: %w", c.name, outcome, err)
		}
		return nil, fmt.Errorf("call: %w", err)
	}
	return call, nil
}

// await waits for a call's outcome and collects it.
func (c *Client) await(ctx context.Context, call *call) (*transport.Message, error) {
	if done := c.calls.outcome(call); done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			if err := c.calls.giveUp(call, transport.ContextError(ctx)); err != nil {
				return nil, fmt.Errorf("call %s: %w", c.name, err)
			}
		}
	}
	answer, err, ok := c.calls.collect(call)
	switch {
	case !ok:
		err = ErrUnknownCall // another goroutine was faster
	case err == nil && answer.Kind == transport.ErrorResponse:
		err = answer.Error
	case err == nil && answer.Kind == transport.Undeliverable:
		err = answer.Bounce(c.name)
	}
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", c.name, err)
	}
	return answer, nil
}

// clientSink is the side of a client that its node sees.
type clientSink Client

// Deliver implements transport.Sink.
func (s *clientSink) Deliver(d transport.Delivery) {
	if s.calls.answer(d.Message) {
		d.Ack()
	} else {
		d.Term("no call waits for this answer")
	}
}

// Drain implements transport.Sink.
func (s *clientSink) Drain(context.Context) error {
	s.calls.close()
	return nil
}
