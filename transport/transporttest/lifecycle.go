package transporttest

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

var lifecycleCases = []testCase{
	{"Address", nil, address},
	{"SendSeveral", nil, sendSeveral},
	{"StopEndsDelivery", nil, stopEndsDelivery},
	{"ParticipantLeaves", nil, participantLeaves},
	{"CloseTwice", nil, closeTwice},
	{"CloseWaitsForDelivery", nil, closeWaitsForDelivery},
	{"CloseGivesUpWithContext", nil, closeGivesUpWithContext},
	{"UseAfterClose", nil, useAfterClose},
	{"ContextEnded", nil, contextEnded},
	{"InvalidMessagesAreRefused", nil, invalidMessagesAreRefused},
	{"UnsupportedInterest", nil, unsupportedInterest},
}

func address(e *env) {
	c := e.openCarrier()
	before := c.Address()
	if before == "" {
		e.Errorf("the address is empty")
	}
	if err := c.Send(e.context(), bare("/t", "x")); err != nil {
		e.Errorf("send: %v", err)
	}
	if after := c.Address(); after != before {
		e.Errorf("the address has changed from %q to %q", before, after)
	}
}

// bare returns a message that is complete without a node.
func bare(name, body string) *transport.Message {
	gid := transport.NewGID()
	return &transport.Message{
		Kind: transport.TopicMessage, Name: name, Body: []byte(body),
		ID:   transport.NewID(gid, 1, "transporttest.example"),
		Info: transport.Info{SourceTime: time.Now(), PublisherGID: gid, Sequence: 1},
	}
}

func sendSeveral(e *env) {
	c := e.openCarrier()
	box := newInbox(e)
	stop, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, box.Deliver)
	if err != nil {
		e.Fatalf("receive: %v", err)
	}
	defer stop()
	gid, want := transport.NewGID(), []string{"one", "", "three"}
	var msgs []*transport.Message
	for i, body := range want {
		m := bare("/t", body)
		m.Info.PublisherGID, m.Info.Sequence = gid, uint64(i+1)
		m.ID = transport.NewID(gid, uint64(i+1), "transporttest.example")
		msgs = append(msgs, m)
	}
	if err := c.Send(e.context()); err != nil {
		e.Errorf("send nothing: %v", err)
	}
	if err := c.Send(e.context(), msgs...); err != nil {
		e.Errorf("send %d messages: %v", len(msgs), err)
	}
	for i, m := range box.atLeast(len(want)) {
		n := m.Info.Sequence
		if e.Features.Ordered && n != uint64(i+1) {
			e.Errorf("message %d came as number %d", n, i+1)
		}
		if n < 1 || n > uint64(len(want)) || string(m.Body) != want[n-1] {
			e.Errorf("message %d arrived with body %q", n, m.Body)
		}
	}
}

func stopEndsDelivery(e *env) {
	a, b := e.open(), e.open()
	stopped, stays, service := b.topic("/t"), b.topic("/t"), b.service("/t")
	pattern := b.topic("/*")
	src := newSource()
	src.publish(a, "/t", "before")
	boxes := []*inbox{stopped, stays, pattern}
	for _, box := range boxes {
		box.atLeast(1)
	}
	stopped.stop()
	stopped.stop() // is harmless
	pattern.stop()
	src.publish(a, "/t", "after")
	stays.atLeast(2)
	settle(a, b)
	stopped.exactly(1)
	pattern.exactly(1)
	stays.exactly(2)
	service.exactly(0)
}

func participantLeaves(e *env) {
	a, b, c := e.open(), e.open(), e.open()
	boxes := []*inbox{a.topic("/t"), b.topic("/t"), c.topic("/t")}
	src := newSource()
	src.publish(a, "/t", "before")
	for _, box := range boxes {
		box.atLeast(1)
	}
	b.close()
	src.publish(a, "/t", "after")
	boxes[0].atLeast(2)
	boxes[2].atLeast(2)
	settle(a, c)
	boxes[0].exactly(2)
	boxes[1].exactly(1)
	boxes[2].exactly(2)
}

func closeTwice(e *env) {
	c := e.openCarrier()
	for range 2 {
		if err := c.Close(e.context()); err != nil {
			e.Errorf("close: %v", err)
		}
	}
	p := e.open()
	p.topic("/t")
	p.close()
	p.close()
}

// slowReceiver is a carrier with a call of deliver under way.
type slowReceiver struct {
	transport.Carrier
	release func()        // lets the call go on
	ended   chan struct{} // closed at its end
}

func openSlowReceiver(e *env) *slowReceiver {
	sender := e.open()
	resume := make(chan struct{})
	s := &slowReceiver{
		Carrier: e.Open(e.TB),
		release: sync.OnceFunc(func() { close(resume) }),
		ended:   make(chan struct{}),
	}
	delivering := make(chan struct{})
	_, err := s.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(d transport.Delivery) {
		close(delivering)
		<-resume // a real one does not block, but may be slow
		d.Ack()
		close(s.ended)
	})
	if err != nil {
		e.Fatalf("receive: %v", err)
	}
	sent := make(chan struct{})
	go func() { // Send may deliver before it returns
		defer close(sent)
		newSource().publish(sender, "/t", "x")
	}()
	e.Cleanup(func() { s.release(); <-sent })
	e.await("the message", delivering)
	return s
}

// await waits for an event.
func (e *env) await(what string, event <-chan struct{}) {
	e.Helper()
	select {
	case <-event:
	case <-time.After(e.Timeout):
		e.Fatalf("%s did not come within %v", what, e.Timeout)
	}
}

func closeWaitsForDelivery(e *env) {
	s := openSlowReceiver(e)
	var err error
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		err = s.Close(e.context())
	}()
	// Nothing tells that Close waits; one that does not wait is soon back.
	select {
	case <-closed:
		e.Fatalf("close returned during a call of deliver, error: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	s.release()
	e.await("the end of Close", closed)
	if err != nil {
		e.Errorf("close: %v", err)
	}
	select {
	case <-s.ended:
	default:
		e.Errorf("close returned during a call of deliver")
	}
}

func closeGivesUpWithContext(e *env) {
	s := openSlowReceiver(e)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var err error
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		err = s.Close(ctx)
	}()
	e.await("the end of Close with an ended context", closed)
	e.wantError("close with an ended context during a delivery", err, context.Canceled)
	s.release()
	e.await("the end of deliver", s.ended)
}

func useAfterClose(e *env) {
	c := e.openCarrier()
	if err := c.Close(e.context()); err != nil {
		e.Errorf("close: %v", err)
	}
	if err := c.Send(e.context(), bare("/t", "x")); err == nil {
		e.Errorf("send over a closed carrier: no error")
	}
	if _, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {}); err == nil {
		e.Errorf("receive from a closed carrier: no error")
	}

	p := e.open()
	box := p.topic("/t")
	p.close()
	err := p.node.Send(e.context(), bare("/t", "x"))
	e.wantError("send over a closed node", err, transport.ErrClosed)
	_, err = p.node.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, box)
	e.wantError("receive from a closed node", err, transport.ErrClosed)
	box.stop() // is harmless
}

func contextEnded(e *env) {
	a, b := e.open(), e.open()
	box := b.topic("/t")
	src := newSource()
	failing := func(ctx context.Context, cause ...error) {
		e.Helper()
		m := src.number(&transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte("not sent")})
		err := a.lend(ctx, m)
		e.wantError("send with an ended context", err, cause...)
		e.wantSendError("send with an ended context", err, transport.Temporary)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	failing(ctx, context.Canceled)
	ctx, cancel = context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	failing(ctx, context.DeadlineExceeded, transport.ErrTimeout)

	newSource().publish(a, "/t", "sent") // nothing of which is missing
	box.atLeast(1)
	settle(a, b)
	for _, m := range box.exactly(1) {
		if string(m.Body) != "sent" {
			e.Errorf("got the message %q", m.Body)
		}
	}
}

// counting counts the messages that reach a carrier.
type counting struct {
	transport.Carrier
	sent atomic.Int64
}

func (c *counting) Send(ctx context.Context, msgs ...*transport.Message) error {
	c.sent.Add(int64(len(msgs)))
	return c.Carrier.Send(ctx, msgs...)
}

func invalidMessagesAreRefused(e *env) {
	c := &counting{Carrier: e.openCarrier()}
	node, err := transport.NewNode(c, &transport.Options{MaxBody: 10})
	if err != nil {
		e.Fatalf("new node: %v", err)
	}
	for name, bad := range map[string]struct {
		change func(*transport.Message)
		want   error
	}{
		"empty name":         {func(m *transport.Message) { m.Name = "" }, transport.ErrInvalidName},
		"name with newline":  {func(m *transport.Message) { m.Name = "/t\r\nBcc: x" }, transport.ErrInvalidName},
		"name with wildcard": {func(m *transport.Message) { m.Name = "/*" }, transport.ErrInvalidName},
		"long name":          {func(m *transport.Message) { m.Name = strings.Repeat("n", transport.MaxName+1) }, transport.ErrInvalidName},
		"reserved field":     {func(m *transport.Message) { m.Header.Add("Subject", "x") }, transport.ErrInvalidHeader},
		"value with newline": {func(m *transport.Message) { m.Header.Add("A", "x\r\nBcc: y") }, transport.ErrInvalidHeader},
		"field without name": {func(m *transport.Message) { m.Header.Add("", "x") }, transport.ErrInvalidHeader},
		"path of a file":     {func(m *transport.Message) { m.Filename = "../x" }, transport.ErrInvalidFilename},
		"large body":         {func(m *transport.Message) { m.Body = make([]byte, 11) }, transport.ErrTooLarge},
	} {
		m := bare("/t", "x")
		bad.change(m)
		e.wantError(name, node.Send(e.context(), m), bad.want)
	}
	if n := c.sent.Load(); n != 0 {
		e.Errorf("%d invalid messages reached the carrier", n)
	}
	if err := node.Close(e.context()); err != nil {
		e.Errorf("close: %v", err)
	}
}

func unsupportedInterest(e *env) {
	c := e.openCarrier()
	for _, kind := range []transport.Kind{0, transport.ErrorResponse, 200} {
		_, err := c.Receive(transport.Interest{Kind: kind, Name: "/t"}, func(transport.Delivery) {})
		e.wantError("receive "+kind.String(), err, transport.ErrNotSupported)
	}
}
