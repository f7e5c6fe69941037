package transport_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// carrier is a carrier that notes what it is asked to do. Its functions may be nil.
type carrier struct {
	address string
	send    func(ctx context.Context) error
	receive func(transport.Interest) error
	close   func(ctx context.Context) error

	dispatcher transport.Dispatcher
	mu         sync.Mutex
	sent       []transport.Message
	log        []string
}

func (c *carrier) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, what)
}

func (c *carrier) Send(ctx context.Context, msgs ...*transport.Message) error {
	c.mu.Lock()
	for _, m := range msgs {
		c.sent = append(c.sent, *m)
	}
	c.mu.Unlock()
	if c.send != nil {
		return c.send(ctx)
	}
	return nil
}

func (c *carrier) Receive(in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	if c.receive != nil {
		if err := c.receive(in); err != nil {
			return nil, err
		}
	}
	remove := c.dispatcher.Add(in, deliver)
	return func() { remove(); c.note("stop " + in.Kind.String()) }, nil
}

func (c *carrier) Close(ctx context.Context) error {
	c.note("close")
	if c.close != nil {
		return c.close(ctx)
	}
	return nil
}

func (c *carrier) Address() string { return c.address }

// sink is an entity whose Drain takes as long as drain does.
type sink struct {
	deliver func(transport.Delivery)
	drain   func(context.Context) error
}

func (s sink) Deliver(d transport.Delivery) {
	if s.deliver != nil {
		s.deliver(d)
	}
}

func (s sink) Drain(ctx context.Context) error {
	if s.drain != nil {
		return s.drain(ctx)
	}
	return nil
}

func newNode(t *testing.T, c transport.Carrier, o *transport.Options) *transport.Node {
	t.Helper()
	n, err := transport.NewNode(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNewNodeInvalidOptions(t *testing.T) {
	for _, test := range []struct {
		what    string
		options transport.Options
		want    string
	}{
		{"pattern", transport.Options{Routes: transport.Routes{{Pattern: "a b", To: []string{"x"}}}}, "invalid name"},
		{"recipients", transport.Options{Routes: transport.Routes{{Pattern: "/t"}}}, "no recipients"},
		{"limit", transport.Options{MaxBody: -1}, "MaxBody is -1"},
	} {
		closeErr := errors.New("close failed")
		c := &carrier{close: func(context.Context) error { return closeErr }}
		n, err := transport.NewNode(c, &test.options)
		if n != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: NewNode = %v, %v, want an error with %q", test.what, n, err, test.want)
		}
		if !errors.Is(err, closeErr) || len(c.log) != 1 {
			t.Errorf("%s: the carrier heard %q, error %v; want one close and its error", test.what, c.log, err)
		}
	}
}

func TestNodeLogger(t *testing.T) {
	if n := newNode(t, &carrier{}, nil); n.Logger() != slog.Default() {
		t.Error("without options the logger is not slog.Default()")
	}
	logger := slog.New(slog.DiscardHandler)
	if n := newNode(t, &carrier{}, &transport.Options{Logger: logger}); n.Logger() != logger {
		t.Error("the logger is not that of the options")
	}
}

func TestNodeSendCompletesMessage(t *testing.T) {
	gid := mustGID(t, someGID)
	at := time.Unix(1000, 1)
	routes := transport.Routes{{Pattern: "/r", To: []string{"r@example.com"}}}
	foreign := transport.ParseID("foreign@id")
	for _, test := range []struct {
		what    string
		address string
		in      transport.Message
		want    transport.Message // without the times that the node sets
	}{
		{
			"what is missing", "robot@mail.example.com",
			transport.Message{Kind: transport.TopicMessage, Name: "/t", Info: transport.Info{PublisherGID: gid, Sequence: 5}},
			transport.Message{Kind: transport.TopicMessage, Name: "/t", Info: transport.Info{PublisherGID: gid, Sequence: 5}, ID: transport.NewID(gid, 5, "mail.example.com")},
		},
		{
			"recipients", "a@b@c",
			transport.Message{Kind: transport.TopicMessage, Name: "/r", Info: transport.Info{PublisherGID: gid, Sequence: 5}},
			transport.Message{Kind: transport.TopicMessage, Name: "/r", Info: transport.Info{PublisherGID: gid, Sequence: 5}, ID: transport.NewID(gid, 5, "c"), To: []string{"r@example.com"}},
		},
		{
			"address without @", "inbox.1",
			transport.Message{Kind: transport.TopicMessage, Name: "/t", Info: transport.Info{PublisherGID: gid, Sequence: 5}},
			transport.Message{Kind: transport.TopicMessage, Name: "/t", Info: transport.Info{PublisherGID: gid, Sequence: 5}, ID: transport.NewID(gid, 5, "inbox.1")},
		},
		{
			"nothing", "a@b",
			transport.Message{Kind: transport.TopicMessage, Name: "/r", ID: foreign, To: []string{"x@y"}, Info: transport.Info{PublisherGID: gid, Sequence: 5, SourceTime: at}},
			transport.Message{Kind: transport.TopicMessage, Name: "/r", ID: foreign, To: []string{"x@y"}, Info: transport.Info{PublisherGID: gid, Sequence: 5, SourceTime: at}},
		},
	} {
		c := &carrier{address: test.address}
		n := newNode(t, c, &transport.Options{Routes: routes})
		before := time.Now()
		if err := n.Send(t.Context(), &test.in); err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		got := c.sent[0]
		if test.want.Info.SourceTime.IsZero() {
			if source := got.Info.SourceTime; source.Before(before) || source.After(time.Now()) {
				t.Errorf("%s: the source time is %v, it is %v", test.what, source, before)
			}
			got.Info.SourceTime = time.Time{}
		}
		if sent := got.Info.ReceivedTime; sent.Before(before) || sent.After(time.Now()) {
			t.Errorf("%s: it is said to be sent at %v, it is %v", test.what, sent, before)
		}
		got.Info.ReceivedTime = time.Time{}
		if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b transport.ID) bool { return a == b })); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", test.what, diff)
		}
	}
}

// Messages of nobody in particular must not share an ID, or receivers drop them as
// duplicates.
func TestNodeSendGivesAnonymousMessagesDifferentIDs(t *testing.T) {
	c := &carrier{address: "a@b"}
	n := newNode(t, c, nil)
	for range 2 {
		if err := n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/t"}); err != nil {
			t.Fatal(err)
		}
	}
	if c.sent[0].ID == c.sent[1].ID {
		t.Errorf("both messages have the ID %q", c.sent[0].ID)
	}
	for _, m := range c.sent {
		if !m.Info.PublisherGID.IsZero() || m.Info.Sequence != 0 {
			t.Errorf("the message is said to be number %d of %v", m.Info.Sequence, m.Info.PublisherGID)
		}
	}
}

func TestNodeSendRefuses(t *testing.T) {
	c := &carrier{}
	n := newNode(t, c, &transport.Options{MaxBody: 3})
	for _, test := range []struct {
		what string
		m    transport.Message
		want error
	}{
		{"name", transport.Message{Kind: transport.TopicMessage, Name: "a b"}, transport.ErrInvalidName},
		{"pattern", transport.Message{Kind: transport.TopicMessage, Name: "*"}, transport.ErrInvalidName},
		{"header", transport.Message{Kind: transport.TopicMessage, Name: "/t", Header: transport.Header{{Name: "Subject", Value: "x"}}}, transport.ErrInvalidHeader},
		{"file name", transport.Message{Kind: transport.TopicMessage, Name: "/t", Filename: "../a"}, transport.ErrInvalidFilename},
		{"error as a file", transport.Message{Kind: transport.ErrorResponse, Name: "/t", Filename: "a", Error: new(transport.RemoteError)}, transport.ErrInvalidFilename},
		{"no kind", transport.Message{Name: "/t"}, transport.ErrInvalidKind},
		{"error without text", transport.Message{Kind: transport.ErrorResponse, Name: "/t"}, transport.ErrInvalidKind},
		{"error in a topic message", transport.Message{Kind: transport.TopicMessage, Name: "/t", Error: new(transport.RemoteError)}, transport.ErrInvalidKind},
		{"body", transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte("1234")}, transport.ErrTooLarge},
		{"error text", transport.Message{Kind: transport.ErrorResponse, Name: "/t", Error: &transport.RemoteError{Text: strings.Repeat("x", transport.MaxErrorText+1)}}, transport.ErrTooLarge},
	} {
		if err := n.Send(t.Context(), &test.m); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want an error that wraps %v", test.what, err, test.want)
		}
	}
	if len(c.sent) != 0 {
		t.Errorf("%d messages reached the carrier", len(c.sent))
	}
	if err := n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte("123")}); err != nil {
		t.Errorf("a body of the limit: %v", err)
	}
}

func TestNodeReceiveErrors(t *testing.T) {
	n := newNode(t, &carrier{receive: func(transport.Interest) error { return transport.ErrNotSupported }}, nil)
	for _, test := range []struct {
		interest transport.Interest
		want     error
	}{
		{topic("a b"), transport.ErrInvalidName},
		{topic(""), transport.ErrInvalidName},
		{topic("/a*"), transport.ErrInvalidName},
		{topic("/a/*"), transport.ErrNotSupported},
		{transport.Interest{Kind: transport.Response, Client: transport.NewGID()}, transport.ErrNotSupported},
	} {
		if stop, err := n.Receive(test.interest, sink{}); stop != nil || !errors.Is(err, test.want) {
			t.Errorf("Receive(%+v): %v, want an error that wraps %v", test.interest, err, test.want)
		}
	}
}

func TestNodeAfterClose(t *testing.T) {
	n := newNode(t, &carrier{}, nil)
	stop, err := n.Receive(topic("/t"), sink{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	stop() // is harmless
	if err := n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/t"}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Send after Close: %v, want ErrClosed", err)
	}
	if _, err := n.Receive(topic("/t"), sink{}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Receive after Close: %v, want ErrClosed", err)
	}
}

func TestNodeConcurrentUse(t *testing.T) {
	n := newNode(t, intraprocess.New(), nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			gid := transport.NewGID()
			for seq := range uint64(200) {
				err := n.Send(t.Context(), &transport.Message{
					Kind: transport.TopicMessage, Name: "/t", Body: []byte("x"),
					Info: transport.Info{PublisherGID: gid, Sequence: seq + 1},
				})
				if err != nil && !errors.Is(err, transport.ErrClosed) {
					t.Errorf("Send: %v", err)
				}
				stop, err := n.Receive(topic("/t"), sink{})
				if err == nil {
					stop()
				} else if !errors.Is(err, transport.ErrClosed) {
					t.Errorf("Receive: %v", err)
				}
				if seq == 150 {
					if err := n.Close(t.Context()); err != nil {
						t.Errorf("Close: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkNodeSend(b *testing.B) {
	n, err := transport.NewNode(&discard{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close(context.Background())
	m := &transport.Message{Kind: transport.TopicMessage, Name: "/chatter", Info: transport.Info{PublisherGID: transport.NewGID()}}
	b.ReportAllocs()
	for b.Loop() {
		m.Info.Sequence++
		m.ID, m.Info.SourceTime = transport.ID{}, time.Time{}
		if err := n.Send(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
}

// discard takes every message and does nothing with it.
type discard struct{ carrier }

func (*discard) Send(context.Context, ...*transport.Message) error { return nil }
