package transporttest

import (
	"fmt"
	"slices"
	"time"

	"github.com/postbus/postbus/transport"
)

// quietTime is how long a test waits to see that nothing comes. A carrier that delivers
// what it should not does so soon.
const quietTime = 50 * time.Millisecond

// hold states an interest whose deliveries the test settles.
func (p *participant) hold(interest transport.Interest) *inbox {
	p.Helper()
	box := newInbox(p.env)
	box.hold = true
	stop, err := p.node.Receive(interest, box)
	if err != nil {
		p.Fatalf("receive %+v: %v", interest, err)
	}
	box.stop = stop
	return box
}

// durable returns an interest in the topic /t with a durable name.
func durable() transport.Interest {
	return transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d-1"}
}

// inGroup returns an interest in the topic /t as a member of a group.
func inGroup() transport.Interest {
	return transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g_1"}
}

// deliveries waits for n deliveries and returns those there are.
func (b *inbox) deliveries(n int) []transport.Delivery {
	b.env.Helper()
	b.atLeast(n)
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.held)
}

// delivery waits for the nth delivery, counted from 0.
func (b *inbox) delivery(n int) transport.Delivery {
	b.env.Helper()
	return b.deliveries(n + 1)[n]
}

// ack settles a delivery.
func (e *env) ack(d transport.Delivery) {
	e.Helper()
	if err := d.Ack(); err != nil {
		e.Errorf("ack message %d: %v", d.Message.Info.Sequence, err)
	}
}

// stays checks that the inbox has n deliveries and gets no more.
func (b *inbox) stays(n int) {
	b.env.Helper()
	b.atLeast(n)
	time.Sleep(quietTime)
	b.exactly(n)
}

// numbers checks that the inbox gets the messages with these numbers, once each, and nothing else.
func (b *inbox) numbers(what string, want ...uint64) []transport.Delivery {
	b.env.Helper()
	all := b.deliveries(len(want))
	var got []uint64
	for _, d := range all {
		got = append(got, d.Message.Info.Sequence)
	}
	if !b.env.Features.Ordered {
		slices.Sort(got)
	}
	if !slices.Equal(got, want) {
		b.env.Errorf("%s: got the messages %d, want %d", what, got, want)
	}
	return all
}

// publishAll publishes n messages, numbered on from those before.
func (s *source) publishAll(p *participant, n int) {
	p.Helper()
	for range n {
		s.publish(p, "/t", "x")
	}
}

// pool collects the deliveries of several members of a group as they come.
type pool struct {
	env *env
	all chan pooled
}

type pooled struct {
	transport.Delivery
	member int
}

func newPool(e *env) *pool { return &pool{e, make(chan pooled, 1<<12)} }

// join adds a member.
func (l *pool) join(p *participant, member int, interest transport.Interest) (stop func()) {
	p.Helper()
	box := newInbox(p.env)
	stop, err := p.node.Receive(interest, poolSink{box, l, member})
	if err != nil {
		p.Fatalf("receive %+v: %v", interest, err)
	}
	return stop
}

type poolSink struct {
	*inbox
	pool   *pool
	member int
}

func (s poolSink) Deliver(d transport.Delivery) {
	s.inbox.Deliver(d)
	s.pool.all <- pooled{d, s.member}
}

// next waits for a delivery to any member.
func (l *pool) next(what string) pooled {
	l.env.Helper()
	select {
	case d := <-l.all:
		return d
	case <-time.After(l.env.Timeout):
		l.env.Fatalf("%s did not come within %v", what, l.env.Timeout)
		panic("unreachable")
	}
}

// firstAttempt is the number of the first delivery to a member of a group, or 0 where none is tracked.
func (e *env) firstAttempt() int {
	if e.Features.Group {
		return 1
	}
	return 0
}

// once acknowledges all until messages 1 to n of the source have come, and checks that each
// comes once. It returns how many each member got.
func (l *pool) once(s *source, n int) map[int]int {
	l.env.Helper()
	seen := make(map[uint64]bool)
	members := make(map[int]int)
	for len(seen) < n {
		d := l.next(fmt.Sprintf("message %d of %d", len(seen)+1, n))
		seq := d.Message.Info.Sequence
		if seen[seq] || d.Message.Info.PublisherGID != s.gid || seq < 1 || seq > uint64(n) {
			l.env.Errorf("message %d came again, or was not sent", seq)
		}
		if want := l.env.firstAttempt(); d.Attempt != want {
			l.env.Errorf("message %d came in attempt %d, want %d", seq, d.Attempt, want)
		}
		seen[seq] = true
		members[d.member]++
		l.env.ack(d.Delivery)
	}
	l.empty()
	return members
}

// empty checks that nothing more comes.
func (l *pool) empty() {
	l.env.Helper()
	select {
	case d := <-l.all:
		l.env.Errorf("message %d came to member %d, in attempt %d, when none should", d.Message.Info.Sequence, d.member, d.Attempt)
	case <-time.After(quietTime):
	}
}
