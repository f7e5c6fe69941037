package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/notify"
	"github.com/postbus/postbus/transport"
)

// ErrTooManyCalls says that MaxOutstanding calls of the client are under way, or
// answered and not collected.
var ErrTooManyCalls = errors.New("too many outstanding calls")

// ErrUnknownCall says that there is no call of this number to wait for: there never
// was, its answer has been collected, or it was given up.
var ErrUnknownCall = errors.New("no such call")

// Client calls a service. Its methods may be called concurrently. Make one with
// NewClient and Close it when done, unless its node is closed anyway.
type Client struct {
	node     *transport.Node
	name     string
	gid      transport.GID
	detach   func()
	watchers notify.List

	mu       sync.Mutex
	sequence uint64
	calls    map[uint64]*call
	ready    int // answered calls of Send that have not been collected
	late     uint64
	closed   bool
}

// call is a request whose answer is awaited or has not been collected.
type call struct {
	deadline time.Time
	timer    *time.Timer   // makes the deadline an outcome
	async    bool          // made by Send: Response collects the answer
	done     chan struct{} // closed when there is an outcome
	answer   *transport.Message
	err      error
}

func (c *call) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// NewClient returns a client of the service called name. Errors: those of
// transport.ValidateName and transport.Node.Receive.
func NewClient(node *transport.Node, name string) (*Client, error) {
	if err := transport.ValidateName(name); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &Client{node: node, name: name, gid: transport.NewGID(), calls: make(map[uint64]*call)}
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

// Call sends a request and waits for the answer. Errors: a [*transport.RemoteError]
// if the server answered with an error; one that wraps transport.ErrTimeout if no answer
// came by the deadline; those of [transport.Node.Send] if the request could not be
// sent; one that wraps transport.ErrClosed if the client or its node is closed meanwhile.
func (c *Client) Call(ctx context.Context, request []byte, options ...transport.MessageOption) (*transport.Message, error) {
	sequence, call, err := c.send(ctx, request, false, options)
	if err != nil {
		return nil, err
	}
	return c.await(ctx, sequence, call)
}

// Send sends a request and returns its number, with which Response collects the
// answer. ctx bounds the sending; its deadline, or DefaultTimeout, is that of the
// call too. Errors: those of Call that concern sending, and ErrTooManyCalls.
func (c *Client) Send(ctx context.Context, request []byte, options ...transport.MessageOption) (sequence uint64, err error) {
	sequence, _, err = c.send(ctx, request, true, options)
	return sequence, err
}

// HasResponse reports whether Response for this call would return at once: with its
// answer, or because its deadline has passed.
func (c *Client) HasResponse(sequence uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls[sequence]
	return call != nil && call.async && call.finished()
}

// Response waits for the answer to a call of Send and collects it: the call is then
// done with. Errors: those of Call that concern the answer, and ErrUnknownCall. When ctx
// ends before there is an outcome the call goes on, and can be waited for again.
func (c *Client) Response(ctx context.Context, sequence uint64) (*transport.Message, error) {
	c.mu.Lock()
	call := c.calls[sequence]
	c.mu.Unlock()
	if call == nil || !call.async {
		return nil, fmt.Errorf("call %d of %s: %w", sequence, c.name, ErrUnknownCall)
	}
	return c.await(ctx, sequence, call)
}

// Ready reports whether Response would return at once for some call of Send, or
// the client is closed. With Watch it lets a wait set wait for the client.
func (c *Client) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready > 0 || c.closed
}

// Watch has wake called after each change that may have made the client ready, until
// stop is called. wake must not block. It may be called once more while stop returns.
func (c *Client) Watch(wake func()) (stop func()) { return c.watchers.Watch(wake) }

// Late returns how many answers were dropped because no call was waiting for them: too
// late, or a second time.
func (c *Client) Late() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

// Close ends the client. Calls under way fail with transport.ErrClosed; answers that
// have come can still be collected. It always returns nil; a second Close does nothing.
func (c *Client) Close() error {
	c.detach()
	c.shut()
	return nil
}

// send registers a call and sends its request.
func (c *Client) send(ctx context.Context, request []byte, async bool, options []transport.MessageOption) (uint64, *call, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(DefaultTimeout)
	}
	call := &call{deadline: deadline, async: async, done: make(chan struct{})}
	sequence, err := c.register(call)
	if err != nil {
		return 0, nil, fmt.Errorf("call %s: %w", c.name, err)
	}
	m := &transport.Message{
		Kind:     transport.Request,
		Name:     c.name,
		Body:     request,
		Deadline: deadline,
		Info: transport.Info{
			SourceTime:      time.Now(),
			PublisherGID:    c.gid,
			Sequence:        sequence,
			ClientGID:       c.gid,
			RequestSequence: sequence,
		},
	}
	for _, o := range options {
		o(m)
	}
	if err := c.node.Send(ctx, m); err != nil {
		c.forget(sequence, call)
		return 0, nil, fmt.Errorf("call: %w", err)
	}
	return sequence, call, nil
}

func (c *Client) register(call *call) (sequence uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, fmt.Errorf("client is %w", transport.ErrClosed)
	}
	if len(c.calls) >= MaxOutstanding {
		c.forgetExpired(time.Now())
	}
	if len(c.calls) >= MaxOutstanding {
		return 0, fmt.Errorf("%w: %d; collect answers with Response", ErrTooManyCalls, len(c.calls))
	}
	c.sequence++
	c.calls[c.sequence] = call
	call.timer = time.AfterFunc(time.Until(call.deadline), func() {
		c.finish(call, nil, fmt.Errorf("no answer: %w: %w", transport.ErrTimeout, context.DeadlineExceeded))
	})
	return c.sequence, nil
}

// finish gives a call its outcome, and reports whether it had none before.
func (c *Client) finish(call *call, answer *transport.Message, err error) bool {
	c.mu.Lock()
	if call.finished() {
		c.mu.Unlock()
		return false
	}
	c.finishLocked(call, answer, err)
	c.mu.Unlock()
	if call.async {
		c.watchers.Notify()
	}
	return true
}

// finishLocked is finish with c.mu held, for a call without an outcome; the watchers
// are not notified.
func (c *Client) finishLocked(call *call, answer *transport.Message, err error) {
	call.timer.Stop()
	call.answer, call.err = answer, err
	close(call.done)
	if call.async {
		c.ready++
	}
}

// forgetExpired drops the calls that nobody has collected by their deadline. c.mu is held.
func (c *Client) forgetExpired(now time.Time) {
	for sequence, call := range c.calls {
		if call.async && call.deadline.Before(now) {
			c.remove(sequence, call)
		}
	}
}

// forget drops a call, if it has not been dropped already.
func (c *Client) forget(sequence uint64, call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(sequence, call)
}

// remove is forget with c.mu held. It reports whether the call was still there.
func (c *Client) remove(sequence uint64, call *call) bool {
	if c.calls[sequence] != call {
		return false
	}
	delete(c.calls, sequence)
	call.timer.Stop()
	if call.async && call.finished() {
		c.ready--
	}
	return true
}

// await waits for a call's outcome and collects it.
func (c *Client) await(ctx context.Context, sequence uint64, call *call) (*transport.Message, error) {
	select {
	case <-call.done:
	case <-ctx.Done():
		// An answer that is there counts, however late we look.
		if !call.finished() {
			if !call.async {
				c.forget(sequence, call)
			}
			return nil, fmt.Errorf("call %s: no answer: %w", c.name, transport.ContextError(ctx))
		}
	}
	c.mu.Lock()
	collected := c.remove(sequence, call)
	answer, err := call.answer, call.err
	c.mu.Unlock()
	switch {
	case !collected:
		err = ErrUnknownCall // another goroutine was faster
	case err == nil && answer.Kind == transport.ErrorResponse:
		err = answer.Error
	}
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", c.name, err)
	}
	return answer, nil
}

// shut fails the calls under way.
func (c *Client) shut() {
	c.mu.Lock()
	c.closed = true
	for _, call := range c.calls {
		if !call.finished() {
			c.finishLocked(call, nil, transport.ErrClosed)
		}
	}
	c.mu.Unlock()
	c.watchers.Notify()
}

// clientSink is the side of a client that its node sees.
type clientSink Client

// Deliver implements transport.Sink.
func (s *clientSink) Deliver(d transport.Delivery) {
	c := (*Client)(s)
	_, sequence, _ := d.Message.Caller()
	c.mu.Lock()
	call := c.calls[sequence]
	c.mu.Unlock()
	if call != nil && c.finish(call, d.Message, nil) {
		d.Ack()
		return
	}
	c.mu.Lock()
	c.late++
	c.mu.Unlock()
	d.Term("no call waits for this answer")
}

// Drain implements transport.Sink.
func (s *clientSink) Drain(context.Context) error {
	(*Client)(s).shut()
	return nil
}
