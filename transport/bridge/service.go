package bridge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

const (
	// DefaultTimeout is how long the other side has for the answer to a request without a deadline.
	DefaultTimeout = time.Minute
	// MaxMargin is the longest time that a request's deadline is made shorter for the way back of its answer.
	MaxMargin = 5 * time.Second
	// MaxCalls is how many calls of one rule can be under way at once. Further requests wait.
	MaxCalls = 1 << 10
)

// lateSending is how much longer a request is being sent that has been answered, or given up.
const lateSending = 5 * time.Second

// answerTimeout is how long sending an answer is tried at least: the caller's deadline may have passed by
// then.
const answerTimeout = 30 * time.Second

// service is a rule in requests, at work.
type service struct {
	*route
	pattern  bool // the rule stands for several names
	inbox    *queue.Inbox
	underway atomic.Int64 // requests that the inbox has handed over
}

func openService(r *route) (crossing, error) {
	s := &service{route: r, pattern: strings.ContainsAny(r.rule.Pattern, "*>")}
	var err error
	s.inbox, err = queue.Attach(r.from.Node, r.rule.interest(), queue.Options{QoS: transport.QoS{KeepAll: true}})
	if err != nil {
		return nil, err
	}
	r.stated(s.inbox.Close)
	if err := s.inbox.Handle(MaxCalls, s.forward); err != nil {
		return nil, err
	}
	return s, nil
}

// Drain implements crossing.
func (s *service) Drain(ctx context.Context) error {
	err := s.inbox.Drain(ctx)
	for d, ok := s.inbox.TryPop(); ok; d, ok = s.inbox.TryPop() {
		s.giveBack(d) // there was no time to begin with it
	}
	if err != nil {
		return fmt.Errorf("rule %q: calls are still under way to %s: %w", s.rule, s.to.Name, err)
	}
	return nil
}

// forward has a request answered on the other side. ctx ends when Drain runs out of time.
func (s *service) forward(ctx context.Context, d transport.Delivery) {
	s.underway.Add(1)
	defer s.underway.Add(-1)
	m := d.Message
	s.noteUntracked(&d)
	way, ok := mayCross(m, s.from.Name, s.to.Name)
	switch {
	case s.another(m):
		s.ack(d)
	case !ok:
		s.noteLooped(m)
		s.ack(d)
	case d.Repeated && !awaited(m, time.Now()): // its answer has been taken
		s.repeated.Add(1)
		s.ack(d)
	case m.Expired(time.Now()):
		s.expired.Add(1)
		s.answer(ctx, []transport.Delivery{d}, errorOf(m, &transport.RemoteError{
			Code: CodeDeadline, Text: "the deadline had passed when the request came to the bridge"}))
	default:
		s.call(ctx, d, way)
	}
}

// call sends a request on the other side, waits for the answer and sends that back.
func (s *service) call(ctx context.Context, d transport.Delivery, way []string) {
	request := requestOf(d.Message, way, time.Now())
	inTime, cancel := context.WithDeadline(ctx, request.Deadline)
	defer cancel()
	decided := make(chan struct{}, 1)
	key := caller{request.Info.ClientGID, request.Info.RequestSequence}
	begun, again, err := s.calls.begin(key, request.Name, d, func() {
		select {
		case decided <- struct{}{}:
		default:
		}
	})
	switch again {
	case isHeld:
		s.repeated.Add(1)
		return
	case isTooMany:
		queue.Retry(d, "the answer to the request is awaited")
		return
	}
	deliveries := []transport.Delivery{d}
	var answer *transport.Message
	if err == nil {
		sent := s.sendRequest(inTime, request)
		defer endSending(sent, cancel)
		err = s.ask(inTime, sent, decided)
		var held []transport.Delivery
		answer, held = s.calls.end(begun)
		deliveries = append(deliveries, held...)
	}
	if answer == nil && err == nil {
		err = transport.ErrClosed // the call was decided by the end of the node
	}
	closed := answer == nil && ctx.Err() == nil && errors.Is(err, transport.ErrClosed)
	if closed {
		s.otherSideClosed()
	}
	if answer != nil && answer.Kind == transport.Undeliverable {
		answer, err = nil, answer.Bounce(request.Name)
	}
	switch {
	case answer != nil:
		s.answerAll(ctx, deliveries, answerOf(d.Message, answer))
	case ctx.Err() != nil, closed && d.Settler != nil:
		s.giveBackAll(deliveries)
	case s.pattern && errors.Is(err, transport.ErrNoResponder):
		s.failed.Add(1)
		s.ackAll(deliveries) // who serves the name may be next to the caller
	default:
		s.failed.Add(1)
		s.answerAll(ctx, deliveries, errorOf(d.Message, failure(err, s.to.Name)))
	}
}

// sendRequest sends a request, also when its answer comes first: what is being sent is not cut off at once (see
// endSending). The channel gets the outcome, and is closed.
func (s *service) sendRequest(inTime context.Context, request *transport.Message) <-chan error {
	sent := make(chan error, 1)
	go func() {
		defer close(sent)
		err := send(inTime, s.to.Node, func() *transport.Message {
			next := *request
			return &next
		})
		if err == nil {
			s.forwarded.Add(1)
		}
		sent <- err
	}()
	return sent
}

// endSending waits until a request has been sent whose call is over, and soon no longer: that holds up others.
func endSending(sent <-chan error, cancel context.CancelFunc) {
	timer := time.NewTimer(lateSending)
	defer timer.Stop()
	select {
	case <-sent:
	case <-timer.C:
		cancel()
		<-sent
	}
}

// ask waits until a request that is being sent is decided, or its time is over.
func (s *service) ask(inTime context.Context, sent <-chan error, decided <-chan struct{}) (err error) {
	select {
	case err = <-sent:
	case <-decided:
		return nil
	case <-inTime.Done():
		err = <-sent // which ends then, too
	}
	if failed, ok := errors.AsType[*transport.SendError](err); err != nil && (!ok || failed.Outcome != transport.Unknown) {
		return err
	}
	select {
	case <-decided:
		return nil
	case <-inTime.Done():
	}
	if err != nil {
		return fmt.Errorf("the request may not have been sent: %w", err)
	}
	return transport.ContextError(inTime)
}

// answerAll answers a request to each of its senders: one that has taken the call over wants the answer at an address of its own.
func (s *service) answerAll(ctx context.Context, deliveries []transport.Delivery, answer *transport.Message) {
	elsewhere := func(d transport.Delivery) bool { return d.Message.From != deliveries[0].Message.From }
	if !slices.ContainsFunc(deliveries, elsewhere) {
		s.answer(ctx, deliveries, answer)
		return
	}
	var same, others []transport.Delivery
	for _, d := range deliveries {
		if elsewhere(d) {
			others = append(others, d)
		} else {
			same = append(same, d)
		}
	}
	var first sync.WaitGroup
	first.Go(func() { s.answer(ctx, same, answer) }) // it may be long in vain
	again := *answer
	s.answerAll(ctx, others, addressed(&again, others[0].Message))
	first.Wait()
}

// answer sends an answer to the original request, and settles what has brought it.
func (s *service) answer(ctx context.Context, deliveries []transport.Delivery, answer *transport.Message) {
	request := deliveries[0].Message
	sending, cancel := ctx, context.CancelFunc(func() {})
	if deliveries[0].Settler == nil { // what is tracked waits until its answer can be sent
		deadline := time.Now().Add(answerTimeout)
		if request.Deadline.After(deadline) {
			deadline = request.Deadline
		}
		sending, cancel = context.WithDeadline(ctx, deadline)
	}
	defer cancel()
	err := s.sendBack(sending, answer)
	if answer.Kind == transport.Response && (errors.Is(err, transport.ErrTooLarge) || errors.Is(err, transport.ErrNotSupported) || errors.Is(err, transport.ErrInvalidHeader)) {
		s.failed.Add(1)
		err = s.sendBack(sending, errorOf(request, failure(err, s.to.Name))) // it is this result that can't be sent
	}
	if err == nil {
		s.answered.Add(1)
		s.ackAll(deliveries)
		return
	}
	if ctx.Err() != nil {
		s.giveBackAll(deliveries)
		return
	}
	s.from.Node.Logger().Warn("bridge: an answer can't be sent back",
		"to", s.from.Name, "name", request.Name, "message_id", request.ID.String(), "error", err)
	failed, ok := errors.AsType[*transport.SendError](err)
	for _, d := range deliveries {
		if !errors.Is(err, transport.ErrClosed) && (!ok || failed.Outcome == transport.Permanent) {
			d.Term(err.Error())
		} else {
			queue.Retry(d, err.Error())
		}
	}
}

func (s *service) sendBack(ctx context.Context, answer *transport.Message) error {
	return send(ctx, s.from.Node, func() *transport.Message {
		next := *answer
		return &next
	})
}

func (s *service) ackAll(deliveries []transport.Delivery) {
	for _, d := range deliveries {
		s.ack(d)
	}
}

func (s *service) giveBackAll(deliveries []transport.Delivery) {
	for _, d := range deliveries {
		s.giveBack(d)
	}
}

func (s *service) stats() Stats {
	stats := s.route.stats()
	stats.Dropped += s.inbox.Dropped()
	stats.Waiting = s.inbox.Len() + int(s.underway.Load())
	return stats
}

// requestOf returns a request as it is sent on the other side: with a client and number that lead the answer back
// here, and with less time.
func requestOf(m *transport.Message, way []string, now time.Time) *transport.Message {
	request := across(m, way)
	request.Deadline = shorter(m.Deadline, now)
	gid, number := m.Info.ClientGID, m.Info.RequestSequence
	if gid != gid.Short() && number != 0 {
		request.Info.ClientGID, request.Info.RequestSequence = gid, number
		if client, n, ok := m.ID.Origin(); ok && client == gid && n == number {
			return request
		}
	} else {
		gid, number = identityOf(m.ID), 1
	}
	// The node makes the ID of these. It has to lead to the call: a person's answer names nothing else.
	request.ID = transport.ID{}
	request.Info.PublisherGID, request.Info.Sequence = gid, number
	request.Info.ClientGID, request.Info.RequestSequence = gid, number
	return request
}

// identityOf returns the client that stands for the sender of a request that names none of its own. It is the same
// whenever the request comes, if it has an ID.
func identityOf(id transport.ID) transport.GID {
	if id.IsZero() {
		return transport.NewGID()
	}
	sum := sha256.Sum256([]byte("request " + id.String()))
	return transport.GID(sum[:16])
}

// awaited reports whether a client may still wait for the answer to a request.
func awaited(m *transport.Message, now time.Time) bool {
	if m.Deadline.IsZero() {
		return now.Sub(m.Info.SourceTime) < DefaultTimeout
	}
	return !m.Expired(now)
}

// shorter returns the deadline of a request on the other side.
func shorter(deadline, now time.Time) time.Time {
	if deadline.IsZero() {
		return now.Add(DefaultTimeout)
	}
	return deadline.Add(-min(max(deadline.Sub(now), 0)/10, MaxMargin))
}
