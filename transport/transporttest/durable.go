package transporttest

import (
	"time"

	"github.com/postbus/postbus/transport"
)

func needsDurable(f Features) bool { return f.Durable }

var durableCases = []testCase{
	{"DurableResumes", needsDurable, durableResumes},
	{"DurableBeginsWithItsName", needsDurable, durableBeginsWithItsName},
	{"DurableGoesOnAfterStop", needsDurable, durableGoesOnAfterStop},
	{"DurableInUse", needsDurable, durableInUse},
	{"DurableNamesAreApart", needsDurable, durableNamesAreApart},
	{"DurableInFlight", needsDurable, durableInFlight},
	{"DurableDelaysNobody", needsDurable, durableDelaysNobody},
	{"DurableDropsRepetitions", needsDurable, durableDropsRepetitions},
	{"DurableMarksRepeatedRequests", needsDurable, durableMarksRepeatedRequests},
	{"DurableKeepsRequests", needsDurable, durableKeepsRequests},
	{"Deduplicates", func(f Features) bool { return f.Deduplicates }, deduplicates},
	{"UnsupportedOptions", nil, unsupportedOptions},
}

// durableResumes closes a participant that has settled some of its messages.
func durableResumes(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.hold(durable())
	src.publishAll(a, 6)
	for i, d := range box.numbers("at first", 1, 2, 3, 4, 5, 6) {
		if d.Settler == nil || d.Attempt != 1 || d.Repeated {
			e.Errorf("message %d came with the settler %v, attempt %d, repeated %v", i+1, d.Settler, d.Attempt, d.Repeated)
		}
		if seq := d.Message.Info.Sequence; seq == 1 || seq == 2 || seq == 4 {
			e.ack(d)
		}
	}
	b.close()
	src.publishAll(a, 2)
	b = e.reopen(b)
	box = b.hold(durable())
	for _, d := range box.numbers("when reopened", 3, 5, 6, 7, 8) {
		e.ack(d)
	}
	b = e.reopen(b)
	box = b.hold(durable())
	src.publishAll(a, 1)
	box.atLeast(1)
	box.stays(1)
	box.numbers("when all was settled", 9)
}

// durableBeginsWithItsName checks that what came before the first use of a name does not count.
func durableBeginsWithItsName(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	live := b.topic("/t")
	src.publishAll(a, 2)
	live.atLeast(2)
	in := durable()
	in.GapWait = -1 // the others are missing for good
	box := b.hold(in)
	src.publishAll(a, 1)
	box.numbers("from the first use of the name on", 3)
	box.stays(1)
}

func durableGoesOnAfterStop(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.hold(durable())
	src.publishAll(a, 3)
	all := box.numbers("at first", 1, 2, 3)
	e.ack(all[1])
	box.stop()
	e.ack(all[0]) // can still be done
	src.publishAll(a, 1)
	again := b.hold(durable())
	got := again.deliveries(2)
	missing := map[uint64]bool{all[2].Message.Info.Sequence: true, 4: true}
	for _, d := range got {
		if seq := d.Message.Info.Sequence; !missing[seq] {
			e.Errorf("message %d came after it had been settled, or twice", seq)
		}
		delete(missing, d.Message.Info.Sequence)
		e.ack(d)
	}
	again.stays(2)
	box.exactly(3)
}

func durableInUse(e *env) {
	b := e.open()
	box := b.hold(durable())
	_, err := b.node.Receive(durable(), newInbox(e))
	e.wantError("a durable name for the second time", err, transport.ErrInUse)
	box.stop()
	b.hold(durable()) // is free again
}

func durableNamesAreApart(e *env) {
	a, b := e.open(), e.open()
	other := durable()
	other.Durable = "d-2"
	src := newSource()
	one, two := b.hold(durable()), b.hold(other)
	src.publishAll(a, 2)
	for _, d := range one.numbers("the first name", 1, 2) {
		e.ack(d)
	}
	two.numbers("the second name", 1, 2)
	b = e.reopen(b)
	two = b.hold(other)
	one = b.hold(durable())
	two.numbers("the second name, when reopened", 1, 2)
	one.stays(0)
}

// durableInFlight checks that no more than InFlight deliveries are unsettled at once.
func durableInFlight(e *env) {
	a, b := e.open(), e.open()
	in := durable()
	in.InFlight = 3
	src := newSource()
	box := b.hold(in)
	src.publishAll(a, 8)
	box.stays(3)
	e.ack(box.delivery(1))
	box.stays(4)
	for i := range 8 {
		e.ack(box.delivery(i)) // one of them again, which does nothing
	}
	box.numbers("in all", 1, 2, 3, 4, 5, 6, 7, 8)
	box.stays(8)
}

// durableDelaysNobody has a durable interest that does not settle anything.
func durableDelaysNobody(e *env) {
	a, b := e.open(), e.open()
	in := durable()
	in.InFlight = 1
	src := newSource()
	slow := b.hold(in)
	other := durable()
	other.Durable = "quick"
	quick, live := b.hold(other), b.topic("/t")
	const n = 20
	src.publishAll(a, n)
	live.atLeast(n)
	for i := range n {
		e.ack(quick.delivery(i))
	}
	slow.stays(1)
	// When it goes on it has missed nothing.
	for i := range n {
		e.ack(slow.delivery(i))
	}
	slow.stays(n)
}

// twice sends the same message again, as a sender does that does not know whether the first try
// went through.
func (s *source) twice(p *participant, m transport.Message, between func()) {
	p.Helper()
	first, again := m, m
	again.Info.PublisherGID, again.Info.Sequence = s.gid, s.send(p, &first)
	between()
	if err := p.lend(p.context(), &again); err != nil {
		p.Errorf("send again: %v", err)
	}
}

// repeatable returns a message with the number that the source will give it.
func (s *source) repeatable(kind transport.Kind) transport.Message {
	m := transport.Message{
		Kind: kind, Name: "/t", ID: transport.NewID(s.gid, s.seq.Load()+1, "transporttest.example"),
		Info: transport.Info{SourceTime: time.Now()},
	}
	if kind == transport.Request {
		m.Info.ClientGID, m.Info.RequestSequence = s.gid, s.seq.Load()+1
	}
	return m
}

func durableDropsRepetitions(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.hold(durable())
	src.twice(a, src.repeatable(transport.TopicMessage), func() {})
	src.twice(a, src.repeatable(transport.TopicMessage), func() {
		for _, d := range box.numbers("at first", 1, 2) {
			e.ack(d)
		}
	})
	src.twice(a, src.repeatable(transport.TopicMessage), func() {
		e.ack(box.delivery(2))
		b = e.reopen(b)
		box = b.hold(durable())
	})
	src.publishAll(a, 1)
	box.numbers("when reopened", 4)
	box.stays(1)
}

func durableMarksRepeatedRequests(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	in := durable()
	in.Kind = transport.Request
	box := b.hold(in)
	src.twice(a, src.repeatable(transport.Request), func() {
		d := box.delivery(0)
		if d.Repeated {
			e.Errorf("the first delivery of a request is marked as repeated")
		}
		e.ack(d)
	})
	d := box.delivery(1)
	if !d.Repeated || d.Message.Info.Sequence != 1 {
		e.Errorf("a request that was sent again came as number %d, repeated %v", d.Message.Info.Sequence, d.Repeated)
	}
	e.ack(d)
	box.stays(2)
}

// durableKeepsRequests sends a request while the server is away.
func durableKeepsRequests(e *env) {
	a, b := e.open(), e.open()
	in := durable()
	in.Kind = transport.Request
	b.hold(in)
	b.close()
	c := newClient(a)
	c.call("/t", "x")
	b = e.reopen(b)
	box := b.hold(in)
	d := box.delivery(0)
	newSource().send(b, answer(d.Message, "y"))
	e.ack(d)
	if got := c.answers.next(0); string(got.Body) != "y" {
		e.Errorf("the answer is %q", got.Body)
	}
}

func deduplicates(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.topic("/t")
	src.twice(a, src.repeatable(transport.TopicMessage), func() {})
	src.twice(a, src.repeatable(transport.TopicMessage), func() { box.atLeast(2) })
	src.publishAll(a, 1)
	box.atLeast(3)
	settle(a, b)
	seen := make(map[uint64]bool)
	for _, m := range box.exactly(3) {
		if seen[m.Info.Sequence] {
			e.Errorf("message %d came twice", m.Info.Sequence)
		}
		seen[m.Info.Sequence] = true
	}
}

// unsupportedOptions checks that a carrier says so if it can't do what it is asked for.
func unsupportedOptions(e *env) {
	c := e.openCarrier()
	last := transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 1}
	for _, option := range []struct {
		name      string
		supported bool
		interest  transport.Interest
	}{
		{"a durable interest", e.Features.Durable, durable()},
		{"a member of a group", e.Features.Group || e.Features.Shares || e.Features.OwnGroups, inGroup()},
		{"an interest in the last message", e.Features.Last, last},
	} {
		stop, err := c.Receive(option.interest, func(transport.Delivery) {})
		if option.supported {
			if err != nil {
				e.Errorf("%s: %v", option.name, err)
				continue
			}
			stop()
			continue
		}
		e.wantError(option.name, err, transport.ErrNotSupported)
	}
}
