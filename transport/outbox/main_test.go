package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// hop is a carrier whose next hop behaves as the test says, and that notes what it takes.
type hop struct {
	// reply says what becomes of a message; nil is that it is taken.
	reply func(*transport.Message) error

	mu       sync.Mutex
	taken    []*transport.Message
	attempts map[transport.ID][]time.Time
	calls    int
	changed  chan struct{}
	closed   int
}

func newHop(reply func(*transport.Message) error) *hop {
	return &hop{reply: reply, attempts: make(map[transport.ID][]time.Time), changed: make(chan struct{})}
}

func (h *hop) Send(ctx context.Context, msgs ...*transport.Message) error {
	h.mu.Lock()
	h.calls++
	h.mu.Unlock()
	for i, m := range msgs {
		h.mu.Lock()
		h.attempts[m.ID] = append(h.attempts[m.ID], time.Now())
		h.note()
		h.mu.Unlock()
		var err error
		if h.reply != nil {
			err = h.reply(m)
		}
		if ctx.Err() != nil {
			err = &transport.SendError{Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
		}
		if err != nil {
			if failure, ok := errors.AsType[*transport.SendError](err); ok {
				failure.Taken = i
			}
			return err
		}
		h.mu.Lock()
		h.taken = append(h.taken, m)
		h.note()
		h.mu.Unlock()
	}
	return nil
}

// note wakes those who wait for something to happen. h.mu is held.
func (h *hop) note() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hop) Address() string { return "hop@test" }

func (h *hop) Receive(transport.Interest, func(transport.Delivery)) (func(), error) {
	return nil, transport.ErrNotSupported
}

func (h *hop) Close(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed++
	return nil
}

// await waits until the hop has taken n messages, and returns them.
func (h *hop) await(t testing.TB, n int) []*transport.Message {
	t.Helper()
	timeout := time.After(time.Hour) // of a synctest bubble, mostly
	for {
		h.mu.Lock()
		taken, changed := h.taken, h.changed
		h.mu.Unlock()
		if len(taken) >= n {
			return taken
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%d messages were taken, want %d", len(taken), n)
		}
	}
}

// bodies returns the bodies of messages.
func bodies(msgs []*transport.Message) []string {
	var all []string
	for _, m := range msgs {
		all = append(all, string(m.Body))
	}
	return all
}

// publisher makes numbered messages.
type publisher struct {
	gid      transport.GID
	sequence uint64
}

func newPublisher() *publisher { return &publisher{gid: transport.NewGID()} }

func (p *publisher) message(body string) *transport.Message {
	p.sequence++
	return &transport.Message{
		Kind: transport.TopicMessage, Name: "/t", Body: []byte(body),
		ID:   transport.NewID(p.gid, p.sequence, "test"),
		Info: transport.Info{SourceTime: time.Now(), PublisherGID: p.gid, Sequence: p.sequence},
	}
}

// several makes n messages, with the bodies "prefix1" and so on.
func (p *publisher) several(prefix string, n int) []*transport.Message {
	msgs := make([]*transport.Message, n)
	for i := range msgs {
		msgs[i] = p.message(fmt.Sprint(prefix, i+1))
	}
	return msgs
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newFile(t testing.TB) string { return filepath.Join(t.TempDir(), "outbox.db") }

// open opens an outbox that is closed with the test.
func open(t testing.TB, c transport.Carrier, options outbox.Options) *outbox.Outbox {
	t.Helper()
	if options.File == "" {
		options.File = newFile(t)
	}
	if options.Logger == nil {
		options.Logger = quiet
	}
	o, err := outbox.Open(c, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBox(t, o) })
	return o
}

func closeBox(t testing.TB, o *outbox.Outbox) {
	t.Helper()
	if err := o.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
}

func send(t testing.TB, o *outbox.Outbox, msgs ...*transport.Message) {
	t.Helper()
	if err := o.Send(context.Background(), msgs...); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func fail(outcome transport.Outcome, code int, err error) error {
	return &transport.SendError{Name: "/t", Outcome: outcome, Code: code, Err: err}
}

// entries returns what a sequence of entries has.
func entries(t testing.TB, seq func(func(outbox.Entry, error) bool)) []outbox.Entry {
	t.Helper()
	var all []outbox.Entry
	for e, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}
