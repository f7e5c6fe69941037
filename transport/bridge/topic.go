package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// maxSending is how many messages of one rule are being sent at once, each of another publisher.
const maxSending = 64

// topic is a rule in topic messages, at work. It is the sink of its interest: each publisher's messages are forwarded
// one after the other, in the order in which they arrive, and those of several publishers at once.
type topic struct {
	*route
	ctx    context.Context // ends when Drain runs out of time
	cancel context.CancelFunc

	mu      sync.Mutex
	strands map[strand][]transport.Delivery // what waits behind the message that is being forwarded
	ready   []strand                        // those that have no worker
	workers int
	waiting int // messages that have arrived and are not done with
	bytes   int // of their bodies
	full    bool
	closed  bool
	idle    chan struct{} // closed when all is done after the end

	knowing sync.Mutex
	crossed order.Memory
}

// strand is what is kept in order: the messages of a publisher or, if they do not say whose they are, of a topic.
type strand struct {
	publisher transport.GID
	name      string
}

func strandOf(m *transport.Message) strand {
	if gid := m.Info.PublisherGID; !gid.IsZero() {
		return strand{publisher: gid}
	}
	return strand{name: m.Name}
}

func openTopic(r *route) (crossing, error) {
	t := &topic{route: r, strands: make(map[strand][]transport.Delivery), idle: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	detach, err := r.from.Node.Receive(r.rule.interest(), t)
	if err != nil {
		t.cancel()
		r.stated(func() {}) // what came all the same may have found the other side closed
		return nil, err
	}
	r.stated(detach)
	return t, nil
}

// Deliver implements transport.Sink.
func (t *topic) Deliver(d transport.Delivery) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		t.giveBack(d)
		return
	}
	t.noteUntracked(&d)
	size := len(d.Message.Body)
	// The carrier limits what is tracked.
	if d.Settler == nil && (t.waiting >= transport.KeepAllMessages || t.bytes+size > transport.KeepAllBytes) {
		news := !t.full
		t.full = true
		t.mu.Unlock()
		t.dropped.Add(1)
		if news {
			t.from.Node.Logger().Warn("bridge: messages are dropped: the other side takes them too slowly, or not at all",
				"rule", t.rule.String(), "to", t.to.Name, "messages", transport.KeepAllMessages, "bytes", transport.KeepAllBytes)
		}
		return
	}
	defer t.mu.Unlock()
	t.waiting++
	t.bytes += size
	s := strandOf(d.Message)
	before, busy := t.strands[s]
	t.strands[s] = append(before, d)
	switch {
	case busy:
	case t.workers < maxSending:
		t.workers++
		go t.work(s)
	default:
		t.ready = append(t.ready, s)
	}
}

// work forwards the messages of one strand, or of several by turns.
func (t *topic) work(s strand) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		d := t.strands[s][0]
		t.mu.Unlock()
		t.forward(d)
		t.mu.Lock()
		t.done(d)
		// Drain may have taken all that was behind it.
		if rest := t.strands[s]; len(rest) > 1 {
			rest[0] = transport.Delivery{}
			t.strands[s] = rest[1:]
			t.ready = append(t.ready, s)
		} else {
			delete(t.strands, s)
		}
		if len(t.ready) == 0 {
			break
		}
		s = t.ready[0]
		t.ready = t.ready[1:]
	}
	t.workers--
	t.endIfIdle()
}

// done counts a delivery as done with. t.mu is held.
func (t *topic) done(d transport.Delivery) {
	t.waiting--
	t.bytes -= len(d.Message.Body)
	t.full = t.full && t.waiting > 0
}

// endIfIdle notes that all has been done. t.mu is held.
func (t *topic) endIfIdle() {
	if t.closed && t.workers == 0 {
		t.cancel()
		select {
		case <-t.idle:
		default:
			close(t.idle)
		}
	}
}

// Drain implements transport.Sink: what is tracked and has not been begun is given back, the rest is forwarded.
func (t *topic) Drain(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	back := t.takeTracked()
	t.endIfIdle()
	t.mu.Unlock()
	for _, d := range back {
		t.giveBack(d)
	}
	select {
	case <-t.idle:
		return nil
	default:
	}
	select {
	case <-t.idle:
		return nil
	case <-ctx.Done():
		t.cancel()
		return fmt.Errorf("rule %q: messages are still being forwarded to %s: %w", t.rule, t.to.Name, ctx.Err())
	}
}

// takeTracked takes out the deliveries that can be given back. t.mu is held.
func (t *topic) takeTracked() (back []transport.Delivery) {
	idle := make(map[strand]bool)
	for _, s := range t.ready {
		idle[s] = true
	}
	t.ready = nil
	for s, waiting := range t.strands {
		kept := waiting[:0:0]
		for i, d := range waiting {
			if d.Settler == nil || i == 0 && !idle[s] {
				kept = append(kept, d)
				continue
			}
			back = append(back, d)
			t.done(d)
		}
		t.strands[s] = kept
		switch {
		case len(kept) == 0:
			delete(t.strands, s)
		case idle[s]:
			t.ready = append(t.ready, s)
		}
	}
	return back
}

// forward sends a message on the other side, and settles it.
func (t *topic) forward(d transport.Delivery) {
	m := d.Message
	key := order.KeyOf(m)
	way, ok := mayCross(m, t.from.Name, t.to.Name)
	switch {
	case d.Lost():
		return // it is another's by now
	case t.another(m):
	case !ok:
		t.noteLooped(m)
	case t.knows(key):
		t.repeated.Add(1)
	case m.Expired(time.Now()):
		t.expired.Add(1)
	default:
		err := send(t.ctx, t.to.Node, func() *transport.Message { return across(m, way) })
		if err != nil {
			t.notSent(d, err)
			return
		}
		t.forwarded.Add(1)
		t.note(key, order.SourceTime(m))
	}
	t.ack(d)
}

// notSent settles a message that has not been taken.
func (t *topic) notSent(d transport.Delivery, err error) {
	switch {
	case t.ctx.Err() != nil:
		t.giveBack(d)
	case errors.Is(err, transport.ErrClosed):
		t.otherSideClosed()
		t.giveBack(d)
	default:
		t.failed.Add(1)
		t.to.Node.Logger().Warn("bridge: a message can't be forwarded",
			"to", t.to.Name, "name", d.Message.Name, "message_id", d.Message.ID.String(), "error", err)
		d.Term(err.Error())
	}
}

func (t *topic) knows(key order.Key) bool {
	t.knowing.Lock()
	defer t.knowing.Unlock()
	return t.crossed.Has(key)
}

func (t *topic) note(key order.Key, source time.Time) {
	t.knowing.Lock()
	defer t.knowing.Unlock()
	t.crossed.Add(key, source)
}

func (t *topic) stats() Stats {
	s := t.route.stats()
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Waiting = t.waiting
	return s
}
