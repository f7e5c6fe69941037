package transporttest

import (
	"context"
	"fmt"

	"github.com/postbus/postbus/transport"
)

func needsGroup(f Features) bool { return f.Group }

func needsShares(f Features) bool { return f.Group || f.Shares }

var groupCases = []testCase{
	{"GroupHandlesOnce", needsShares, groupHandlesOnce},
	{"GroupOfOneParticipant", needsShares, groupOfOneParticipant},
	{"GroupAndOthers", needsShares, groupAndOthers},
	{"GroupPassesOnWhatAMemberLeaves", needsGroup, groupPassesOnWhatAMemberLeaves},
	{"GroupPassesOnWhatIsGivenBack", needsGroup, groupPassesOnWhatIsGivenBack},
	{"GroupCountsAttempts", needsGroup, groupCountsAttempts},
	{"GroupRemembers", needsGroup, groupRemembers},
	{"GroupDropsRepetitions", needsGroup, groupDropsRepetitions},
	{"GroupOfServers", needsShares, groupOfServers},
}

// sinkFunc is a sink without a memory.
type sinkFunc func(transport.Delivery)

// Deliver implements transport.Sink.
func (f sinkFunc) Deliver(d transport.Delivery) { f(d) }

// Drain implements transport.Sink.
func (sinkFunc) Drain(context.Context) error { return nil }

func groupHandlesOnce(e *env) {
	members := []*participant{e.open(), e.open(), e.open()}
	all := newPool(e)
	for i, p := range members {
		all.join(p, i, inGroup())
	}
	src := newSource()
	const n = 30
	src.publishAll(members[0], n)
	all.once(src, n)
}

func groupOfOneParticipant(e *env) {
	a, b := e.open(), e.open()
	all := newPool(e)
	in := inGroup()
	in.InFlight = 2
	for i := range 3 {
		all.join(b, i, in)
	}
	src := newSource()
	const n = 20
	src.publishAll(a, n)
	if members := all.once(src, n); len(members) < 2 {
		e.Errorf("the members got %v messages, want some for more than one", members)
	}
}

// groupAndOthers checks that a group takes nothing away from others.
func groupAndOthers(e *env) {
	a, b := e.open(), e.open()
	other := inGroup()
	other.Group = "g_2"
	one, two := newPool(e), newPool(e)
	for i, p := range []*participant{a, b} {
		one.join(p, i, inGroup())
		two.join(p, i, other)
	}
	live := b.topic("/t")
	src := newSource()
	const n = 10
	src.publishAll(a, n)
	one.once(src, n)
	two.once(src, n)
	live.atLeast(n)
	settle(a, b)
	live.exactly(n)
}

// groupPassesOnWhatAMemberLeaves closes a member that has not settled what it has.
func groupPassesOnWhatAMemberLeaves(e *env) {
	a, b, c := e.open(), e.open(), e.open()
	in := inGroup()
	in.InFlight = 3
	left := a.hold(in)
	src := newSource()
	const n = 6
	src.publishAll(c, n)
	left.stays(3)
	e.ack(left.delivery(0))
	left.deliveries(4)
	stays := b.hold(inGroup())
	seen := make(map[uint64]int)
	seen[left.delivery(0).Message.Info.Sequence]++
	take := func(i int) {
		d := stays.delivery(i)
		seen[d.Message.Info.Sequence]++
		e.ack(d)
	}
	take(0)
	take(1)
	a.close()
	for i := range 3 {
		take(2 + i)
	}
	stays.stays(5)
	left.exactly(4)
	for seq := uint64(1); seq <= n; seq++ {
		if seen[seq] != 1 {
			e.Errorf("message %d was settled %d times", seq, seen[seq])
		}
	}
}

func groupPassesOnWhatIsGivenBack(e *env) {
	a, b := e.open(), e.open()
	in := inGroup()
	in.InFlight = 1
	all := newPool(e)
	all.join(a, 0, in)
	all.join(b, 1, in)
	src := newSource()
	src.publishAll(a, 1)
	first := all.next("the message")
	first.Nack(-1, "not tried")
	second := all.next("the message that was given back")
	if first.member == second.member {
		e.Errorf("the message came back to the member that had given it back, though there is another")
	}
	e.wantAttempt(second.Delivery, 1, 1)
	e.ack(second.Delivery)
	all.empty()
}

// groupCountsAttempts checks that the members count together.
func groupCountsAttempts(e *env) {
	a, b := e.open(), e.open()
	in := inGroup()
	in.MaxDeliver = 4
	all := newPool(e)
	all.join(a, 0, in)
	all.join(b, 1, in)
	src := newSource()
	src.publishAll(a, 1)
	for i := range 4 {
		d := all.next(fmt.Sprintf("attempt %d", i+1))
		e.wantAttempt(d.Delivery, 1, i+1)
		d.Nack(0, "never")
	}
	all.empty()
}

// groupRemembers publishes to a group that has no member just then.
func groupRemembers(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	first := b.hold(inGroup())
	src.publishAll(a, 1)
	e.ack(first.delivery(0))
	b = e.reopen(b)
	src.publishAll(a, 3)
	box := b.hold(inGroup())
	got := box.deliveries(3)
	seen := make(map[uint64]bool)
	for _, d := range got {
		seen[d.Message.Info.Sequence] = true
		e.ack(d)
	}
	if !seen[2] || !seen[3] || !seen[4] {
		e.Errorf("the group got %v, want 2, 3 and 4", seen)
	}
	box.stays(3)
}

func groupDropsRepetitions(e *env) {
	a, b := e.open(), e.open()
	all := newPool(e)
	all.join(a, 0, inGroup())
	all.join(b, 1, inGroup())
	src := newSource()
	src.twice(a, src.repeatable(transport.TopicMessage), func() {})
	src.twice(a, src.repeatable(transport.TopicMessage), func() {
		for range 2 {
			e.ack(all.next("a message").Delivery)
		}
	})
	src.publishAll(a, 1)
	d := all.next("the third message")
	e.wantAttempt(d.Delivery, 3, 1)
	e.ack(d.Delivery)
	all.empty()
}

func groupOfServers(e *env) {
	a, b := e.open(), e.open()
	in := inGroup()
	in.Kind = transport.Request
	all := newPool(e)
	all.join(a, 0, in)
	all.join(b, 1, in)
	c := newClient(a)
	const n = 6
	for range n {
		c.call("/t", "x")
	}
	server := newSource()
	seen := make(map[uint64]bool)
	for range n {
		d := all.next("a request")
		if seq := d.Message.Info.RequestSequence; seen[seq] {
			e.Errorf("request %d came twice", seq)
		} else {
			seen[seq] = true
		}
		server.send(b, answer(d.Message, "y"))
		e.ack(d.Delivery)
	}
	c.answers.atLeast(n)
	all.empty()
	settle(a, b)
	c.answers.exactly(n)
}
