package transporttest

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

// inbox is the upper end of an interest: it keeps what is delivered.
type inbox struct {
	env  *env
	stop func()
	hold bool // deliveries are left for the test to settle
	// busy is the number of calls of Deliver under way.
	busy atomic.Int32

	mu      sync.Mutex
	got     []*transport.Message
	held    []transport.Delivery // as got, if hold
	changed chan struct{}        // closed and replaced when got grows
}

func newInbox(e *env) *inbox {
	return &inbox{env: e, changed: make(chan struct{})}
}

// Deliver implements transport.Sink.
func (b *inbox) Deliver(d transport.Delivery) {
	if b.busy.Add(1) > 1 {
		b.env.Errorf("deliver is called while another call for the same interest is under way")
	}
	runtime.Gosched() // invites another call
	b.mu.Lock()
	b.got = append(b.got, d.Message)
	if b.hold {
		b.held = append(b.held, d)
	}
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	b.busy.Add(-1)
}

// Drain implements transport.Sink.
func (b *inbox) Drain(context.Context) error { return nil }

// messages returns what has been delivered.
func (b *inbox) messages() []*transport.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got[:len(b.got):len(b.got)]
}

// until waits until done says that the messages delivered are enough.
func (b *inbox) until(what string, done func([]*transport.Message) bool) []*transport.Message {
	b.env.Helper()
	timeout := time.NewTimer(b.env.Timeout)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		got, changed := b.got[:len(b.got):len(b.got)], b.changed
		b.mu.Unlock()
		if done(got) {
			return got
		}
		select {
		case <-changed:
		case <-timeout.C:
			b.env.Fatalf("%s did not come within %v; %d messages came: %s", what, b.env.Timeout, len(got), names(got))
		}
	}
}

// atLeast waits for n messages.
func (b *inbox) atLeast(n int) []*transport.Message {
	b.env.Helper()
	return b.until(fmt.Sprintf("message %d", n), func(got []*transport.Message) bool { return len(got) >= n })
}

// next waits for the nth message, counted from 0.
func (b *inbox) next(n int) *transport.Message {
	b.env.Helper()
	return b.atLeast(n + 1)[n]
}

// exactly checks that the inbox holds n messages, when nothing else is under way.
func (b *inbox) exactly(n int) []*transport.Message {
	b.env.Helper()
	got := b.messages()
	if len(got) != n {
		b.env.Errorf("%d messages were delivered, want %d: %s", len(got), n, names(got))
	}
	return got
}

// markerName is the topic of the messages that show that others would have arrived.
const markerName = "transporttest/marker"

// settle waits until what was sent before, by any participant, has very likely
// arrived: it sends markers from each and waits for them at each. Carriers that keep
// the order of what one participant sends make this certain.
func settle(participants ...*participant) {
	participants[0].Helper()
	var boxes []*inbox
	for _, p := range participants {
		boxes = append(boxes, p.topic(markerName))
	}
	const rounds = 2
	for range rounds {
		for _, p := range participants {
			newSource().send(p, &transport.Message{Kind: transport.TopicMessage, Name: markerName})
		}
	}
	for _, box := range boxes {
		box.atLeast(rounds * len(participants))
		box.stop()
	}
}

// source numbers the messages of one sending entity. It can be used by several
// goroutines.
type source struct {
	gid transport.GID
	seq atomic.Uint64
}

func newSource() *source { return &source{gid: transport.NewGID()} }

// number gives m the GID of the source and the next number.
func (s *source) number(m *transport.Message) *transport.Message {
	m.Info.PublisherGID = s.gid
	m.Info.Sequence = s.seq.Add(1)
	return m
}

// send numbers and sends m, and returns its number. The message must not be used after
// that. A failure is an error, so that it can be called in any goroutine.
func (s *source) send(p *participant, m *transport.Message) uint64 {
	p.Helper()
	number, kind, name := s.number(m).Info.Sequence, m.Kind, m.Name
	ctx, cancel := context.WithTimeout(context.Background(), p.Timeout)
	defer cancel()
	if err := p.lend(ctx, m); err != nil {
		p.Errorf("send %v %s: %v", kind, name, err)
	}
	return number
}

// publish sends a topic message.
func (s *source) publish(p *participant, name, body string) uint64 {
	p.Helper()
	return s.send(p, &transport.Message{Kind: transport.TopicMessage, Name: name, Body: []byte(body)})
}

// lend sends m with a body that is only lent: it is overwritten as soon as Send
// returns.
func (p *participant) lend(ctx context.Context, m *transport.Message) error {
	p.Helper()
	body, lent := m.Body, bytes.Clone(m.Body)
	m.Body = lent
	err := p.node.Send(ctx, m)
	if !bytes.Equal(lent, body) {
		p.Errorf("Send changed the body that was lent to it")
	}
	for i := range lent {
		lent[i] = '#'
	}
	return err
}
