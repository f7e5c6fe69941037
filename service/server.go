package service

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

// DefaultConcurrency is how many requests a handler works on at once unless it is
// told otherwise.
const DefaultConcurrency = 64

// answerTimeout is how long sending an answer by Handle is tried at least: the request's own
// deadline may have passed by then.
const answerTimeout = 30 * time.Second

// ErrAnswered is returned for a second answer to a request.
var ErrAnswered = errors.New("request is answered already")

// Server answers the requests of a service. Its methods may be called concurrently;
// each request goes to one of several concurrent readers. Make one with NewServer and
// Close it when done, unless its node is closed anyway.
type Server struct {
	node        *transport.Node
	name        string
	gid         transport.GID
	inbox       *queue.Inbox
	concurrency int
	sequence    atomic.Uint64
	kept        kept
	cache       *cache        // nil without the option
	lost        atomic.Uint64 // untracked requests that came again and could not be answered
	// lastWord returns until when a closed server sends what it has to say to those that it has
	// not handled: half a minute from the first time that it is called.
	lastWord func() time.Time
}

// NewServer returns a server of the service called name, or of all services that name stands for as a
// pattern (see transport.ValidatePattern). Requests wait in a queue with the bounds of
// transport.QoS.KeepAll; those of a durable server or group with the carrier. Errors: those of
// transport.Node.Receive; one that wraps transport.ErrNotSupported if the carrier can't do what an
// option asks for; a Cache for no time.
func NewServer(node *transport.Node, name string, options ...ServerOption) (*Server, error) {
	o := serving{interest: transport.Interest{Kind: transport.Request, Name: name}, concurrency: DefaultConcurrency}
	for _, option := range options {
		option.server(&o)
	}
	if o.interest.Tracked() {
		o.interest.InFlight = min(o.concurrency, transport.MaxInFlight)
	}
	s := &Server{node: node, name: name, gid: transport.NewGID(), concurrency: o.concurrency}
	s.lastWord = sync.OnceValue(func() time.Time { return time.Now().Add(answerTimeout) })
	var err error
	if s.cache, err = newCache(s, &o); err != nil {
		return nil, err
	}
	s.inbox, err = queue.Attach(node, o.interest, queue.Options{
		QoS:      transport.QoS{KeepAll: true},
		Leftover: s.turnAway,
		Admit:    s.admit,
		Refused:  s.forget,
		Shut: func() {
			if s.cache != nil {
				s.cache.close()
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	return s, nil
}

// Name returns the name or name pattern of the service.
func (s *Server) Name() string { return s.name }

// GID returns the identity of the server.
func (s *Server) GID() transport.GID { return s.gid }

// Request is a received request. Whoever takes it owes it one answer, by Respond or
// RespondError.
type Request struct {
	*transport.Message
	server   *Server
	inbox    *queue.Inbox // the server's, which that may not have yet
	delivery transport.Delivery
	answered atomic.Bool
	sequence uint64 // of the answer, from the first try on
}

// Next waits for a request and takes it. It returns an error that wraps
// transport.ErrClosed when the server or its node is closed and no request is left, and one
// like transport.ContextError when ctx ends.
func (s *Server) Next(ctx context.Context) (*Request, error) {
	d, err := s.inbox.Pop(ctx)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", s.name, err)
	}
	return s.request(s.inbox, d), nil
}

// TryNext takes a request if there is one, without waiting.
func (s *Server) TryNext() (*Request, bool) {
	d, ok := s.inbox.TryPop()
	if !ok {
		return nil, false
	}
	return s.request(s.inbox, d), true
}

func (s *Server) request(in *queue.Inbox, d transport.Delivery) *Request {
	return &Request{Message: d.Message, server: s, inbox: in, delivery: d}
}

// Respond answers the request with a result. It returns nil when the next hop has durably taken the
// answer; the request of a durable server or group is done with then. Errors are ErrAnswered and those
// of [transport.Node.Send]. After an error of Send the request can be answered again: that answer has
// the same ID, so that receivers can tell if the first one came through.
func (r *Request) Respond(ctx context.Context, body []byte, options ...transport.MessageOption) error {
	return r.respond(ctx, &answer{body: body, time: time.Now(), options: options})
}

// RespondError answers the request with an error: with the code and text of a
// [*transport.RemoteError] that err wraps, or else with CodeError, or CodeDeadline
// for a context's deadline, and the text of err. A text beyond transport.MaxErrorText is
// cut, and a code of more than 32 bits becomes part of the text. Errors are those of Respond.
func (r *Request) RespondError(ctx context.Context, err error, options ...transport.MessageOption) error {
	return r.respond(ctx, &answer{err: remoteError(err), time: time.Now(), options: options})
}

// respond completes an answer and sends it.
func (r *Request) respond(ctx context.Context, a *answer) error {
	if r.answered.Swap(true) {
		return fmt.Errorf("answer %s: %w", r.Name, ErrAnswered)
	}
	s := r.server
	if r.sequence == 0 {
		r.sequence = s.sequence.Add(1)
	}
	a.sequence = r.sequence
	if err := s.node.Send(ctx, a.message(s.gid, r.Message)); err != nil {
		r.answered.Store(false)
		return fmt.Errorf("answer: %w", err)
	}
	r.settle(a, s.ack)
	return nil
}

// settle keeps the answer, and settles what has brought the request.
func (r *Request) settle(a *answer, how func(transport.Delivery)) {
	held := r.server.kept.keep(r.Message, a)
	how(r.delivery)
	for _, d := range held {
		if d.Message.From == r.From {
			how(d)
		} else {
			r.inbox.Deliver(d) // the answer has been kept for it
		}
	}
}

// Handler answers requests: the bytes it returns are the result, an error makes an
// error answer, as RespondError does. The context ends at the request's deadline, when
// the server is closed, or when the Close of its node runs out of time.
type Handler func(ctx context.Context, request *transport.Message) ([]byte, error)

// Handle has every request answered by a handler, several at once (see Concurrency),
// in goroutines of the server's own until it is closed; what has arrived by then is
// still answered. Each request gets an answer: a handler that panics makes an error
// answer, and a request whose deadline has passed on arrival gets one with CodeDeadline
// without reaching the handler. Errors: a server can have one handler, and needs to be
// open for it (transport.ErrClosed).
func (s *Server) Handle(handler Handler) error {
	return s.handle(func(ctx context.Context, m *transport.Message) ([]byte, string, error) {
		body, err := handler(ctx, m)
		return body, "", err
	})
}

// handlerFunc is a Handler that also names the content type of its result.
type handlerFunc func(context.Context, *transport.Message) (body []byte, contentType string, err error)

// handle is Handle for a handlerFunc.
func (s *Server) handle(handler handlerFunc) error {
	if s.cache != nil {
		handler = s.cache.handler(handler)
	}
	err := s.inbox.Handle(s.concurrency, func(ctx context.Context, d transport.Delivery) {
		s.answer(ctx, s.request(s.inbox, d), handler)
	})
	if err != nil {
		return fmt.Errorf("server %s: %w", s.name, err)
	}
	return nil
}

// answer runs the handler for one request and sends what it returns, also when it
// panics or ends its goroutine.
func (s *Server) answer(ctx context.Context, r *Request, handler handlerFunc) {
	var body []byte
	var contentType string
	var err error
	contexts := new(struct{ handling, sending deadlineContext })
	returned := false
	defer func() {
		if !returned {
			err = s.mishap(r.Message, recover())
		}
		s.send(&contexts.sending, r, body, contentType, err)
	}()
	contexts.handling.parent = ctx
	body, contentType, err = s.run(&contexts.handling, r, handler)
	returned = true
}

// mishap returns the answer to a request whose handler did not return, but panicked or, if p is nil, ended
// its goroutine.
func (s *Server) mishap(m *transport.Message, p any) error {
	if p == nil {
		return &transport.RemoteError{Code: CodeError, Text: "the handler ended without an answer"}
	}
	s.node.Logger().Error("handler of service panicked",
		"name", m.Name, "message_id", m.ID.String(), "panic", p, "stack", string(debug.Stack()))
	return &transport.RemoteError{Code: CodeError, Text: "the handler panicked"}
}

// run calls the handler within the request's deadline. ctx has a parent.
func (s *Server) run(ctx *deadlineContext, r *Request, handler handlerFunc) ([]byte, string, error) {
	if r.Deadline.IsZero() {
		return handler(ctx.parent, r.Message)
	}
	if time.Until(r.Deadline) <= 0 {
		return nil, "", &transport.RemoteError{Code: CodeDeadline, Text: "the deadline had passed when the request arrived"}
	}
	ctx.deadline = r.Deadline
	defer ctx.end()
	return handler(ctx, r.Message)
}

// send answers the request with a handler's outcome. The answer goes out even when the
// handlers' context has ended. ctx has not been used; if it has no deadline it gets one.
func (s *Server) send(ctx *deadlineContext, r *Request, body []byte, contentType string, err error) {
	now := time.Now()
	ctx.parent = context.Background()
	if ctx.deadline.IsZero() {
		ctx.deadline = now.Add(answerTimeout)
		if r.Deadline.After(ctx.deadline) {
			ctx.deadline = r.Deadline
		}
	}
	defer ctx.end()
	a := &answer{time: now}
	if err == nil {
		a.body = body
		if contentType != "" {
			a.options = []transport.MessageOption{transport.WithContentType(contentType)}
		}
	} else {
		a.err = remoteError(err)
	}
	err = r.respond(ctx, a)
	if a.err == nil && (errors.Is(err, transport.ErrTooLarge) || errors.Is(err, transport.ErrNotSupported) || errors.Is(err, transport.ErrInvalidHeader)) {
		a = &answer{time: now, err: remoteError(err)} // it is this result that can't be sent
		err = r.respond(ctx, a)
	}
	if err == nil {
		return
	}
	s.node.Logger().Warn("request could not be answered",
		"name", r.Name, "message_id", r.ID.String(), "to", r.ReplyTo, "error", err)
	a.sequence = r.sequence
	r.settle(a, func(d transport.Delivery) { giveUp(d, err) })
}

// giveUp settles a request whose answer could not be sent: for good, or for now.
func giveUp(d transport.Delivery, err error) {
	failed, ok := errors.AsType[*transport.SendError](err)
	if !errors.Is(err, transport.ErrClosed) && (!ok || failed.Outcome == transport.Permanent) {
		d.Term(err.Error())
		return
	}
	queue.Retry(d, err.Error())
}

// ack settles a request that has been answered.
func (s *Server) ack(d transport.Delivery) {
	if err := d.Ack(); err != nil {
		s.node.Logger().Warn("a request can't be put on record as answered, it may come again",
			"name", d.Message.Name, "message_id", d.Message.ID.String(), "error", err)
	}
}

// admit says whether a request that has arrived is new, and sees to it if it is not.
func (s *Server) admit(in *queue.Inbox, d transport.Delivery) bool {
	found, kept := s.kept.arrive(d)
	switch found {
	case isNew:
		return true
	case isAnswered:
		if !in.Background(func() { s.again(in, d, kept) }) {
			s.retry(d, "too many requests come again")
		}
	case isTooMany:
		s.retry(d, "the request is being handled")
	}
	return false
}

// retry has a request come again, or counts it as lost if it is not tracked.
func (s *Server) retry(d transport.Delivery, reason string) {
	if d.Settler == nil {
		s.lost.Add(1)
		return
	}
	queue.Retry(d, reason)
}

// forget drops a request that will not be handled, and gives back its repetitions, or counts those that are not
// tracked as lost.
func (s *Server) forget(refused transport.Delivery) {
	for _, d := range s.kept.forget(refused.Message) {
		if d.Settler == nil {
			s.lost.Add(1)
			continue
		}
		d.Nack(-1, "the request was given back")
	}
}

// again answers a request that has been answered before, if the answer was kept. One comes after the other:
// those whose turn comes only when the server has been closed are given back if they can be, and share their
// time if not.
func (s *Server) again(in *queue.Inbox, d transport.Delivery, kept *answer) {
	if kept != nil {
		deadline := time.Now().Add(answerTimeout)
		if in.Closed() {
			if d.Settler != nil {
				d.Nack(-1, "the server was closed before it could answer again")
				return
			}
			deadline = s.lastWord()
		}
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		if err := s.node.Send(ctx, kept.message(s.gid, d.Message)); err != nil {
			s.node.Logger().Warn("request that came again could not be answered",
				"name", d.Message.Name, "message_id", d.Message.ID.String(), "to", d.Message.ReplyTo, "error", err)
			giveUp(d, err)
			return
		}
	}
	s.ack(d)
}

// Ready reports whether Next would return at once. With Watch it lets a wait set wait
// for the server.
func (s *Server) Ready() bool { return s.inbox.Ready() }

// Watch has wake called after each change that may have made the server ready, until
// stop is called. wake must not block. It may be called once more while stop returns.
func (s *Server) Watch(wake func()) (stop func()) { return s.inbox.Watch(wake) }

// Dropped returns how many requests were dropped because the queue was full, or that came again and could neither be
// answered nor given back: from too many senders, or with the server's end.
func (s *Server) Dropped() uint64 { return s.inbox.Dropped() + s.lost.Load() }

// Close ends the server: nothing more arrives, and waiting readers return. What is in
// the queue is still answered: by the handler, which the Close of the node waits for, or
// if there is none with CodeClosing, as far as that can be sent within half a minute; that of a durable
// server or group is given back, for whoever serves next. It always returns nil; a second Close does nothing.
func (s *Server) Close() error {
	s.inbox.Close()
	return nil
}

// turnAway answers a request that nobody will handle.
func (s *Server) turnAway(in *queue.Inbox, d transport.Delivery) {
	s.send(&deadlineContext{deadline: s.lastWord()}, s.request(in, d), nil, "", &transport.RemoteError{Code: CodeClosing, Text: "the server is closing"})
}
