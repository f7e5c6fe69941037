package transporttest

import (
	"fmt"
	"sync"

	"github.com/postbus/postbus/transport"
)

func needsLast(f Features) bool { return f.Last }

var lastCases = []testCase{
	{"LastComesFirst", needsLast, lastComesFirst},
	{"LastOfFew", needsLast, lastOfFew},
	{"LastOfAPattern", needsLast, lastOfAPattern},
	{"LastMeetsLive", needsLast, lastMeetsLive},
	{"LastOfADurableName", func(f Features) bool { return f.Last && f.Durable }, lastOfADurableName},
}

func last(n int) transport.Interest {
	return transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: n}
}

func lastComesFirst(e *env) {
	a, b := e.open(), e.open()
	live := b.topic("/t")
	src := newSource()
	for range 5 {
		src.publish(a, "/t", "x")
		newSource().publish(a, "/other", "x")
	}
	live.atLeast(5)
	box := b.hold(last(3))
	box.numbers("before anything new", 3, 4, 5)
	src.publishAll(a, 2)
	box.numbers("with what is new", 3, 4, 5, 6, 7)
	settle(a, b)
	box.exactly(5)
}

func lastOfFew(e *env) {
	a, b := e.open(), e.open()
	live := b.topic("/t")
	none := b.hold(last(10))
	src := newSource()
	src.publishAll(a, 2)
	live.atLeast(2)
	box := b.hold(last(10))
	box.numbers("all there are", 1, 2)
	settle(a, b)
	box.exactly(2)
	none.numbers("live only", 1, 2)
}

func lastOfAPattern(e *env) {
	a, b := e.open(), e.open()
	live := b.topic("/>")
	src := newSource()
	for _, name := range []string{"/r/1", "/r/2", "/s/1", "/r/1", "/r/2"} {
		src.publish(a, name, "x")
	}
	live.atLeast(5)
	in := last(3)
	in.Name = "/r/*"
	in.GapWait = -1 // the others are missing for good
	box := b.hold(in)
	box.numbers("the newest of all topics together", 2, 4, 5)
	settle(a, b)
	box.exactly(3)
}

// lastMeetsLive joins while messages are published: what came before and what comes after fit together.
func lastMeetsLive(e *env) {
	a, b := e.open(), e.open()
	const n, most = 100, 5
	src := newSource()
	boxes := []*inbox{b.hold(last(most))}
	src.publishAll(a, n/2)
	boxes[0].atLeast(n / 2)
	var publishing sync.WaitGroup
	publishing.Go(func() { src.publishAll(a, n/2-1) })
	boxes = append(boxes, b.hold(last(most)))
	publishing.Wait()
	src.publishAll(a, 1)
	for i, box := range boxes {
		box.until(fmt.Sprintf("message %d", n), func(got []*transport.Message) bool {
			return len(got) > 0 && hasNumber(got, n)
		})
		settle(a, b)
		got := box.messages()
		seen := make(map[uint64]bool)
		lowest := uint64(n)
		for _, m := range got {
			if seen[m.Info.Sequence] {
				e.Errorf("interest %d got message %d twice", i, m.Info.Sequence)
			}
			seen[m.Info.Sequence] = true
			lowest = min(lowest, m.Info.Sequence)
		}
		if want := n - int(lowest) + 1; len(got) != want {
			e.Errorf("interest %d got %d messages from %d on, want %d", i, len(got), lowest, want)
		}
	}
}

func hasNumber(messages []*transport.Message, seq uint64) bool {
	for _, m := range messages {
		if m.Info.Sequence == seq {
			return true
		}
	}
	return false
}

// lastOfADurableName checks that a durable interest begins with the last messages, and later
// goes on where it was.
func lastOfADurableName(e *env) {
	a, b := e.open(), e.open()
	live := b.topic("/t")
	src := newSource()
	src.publishAll(a, 4)
	live.atLeast(4)
	in := durable()
	in.Last = 2
	box := b.hold(in)
	src.publishAll(a, 1)
	for _, d := range box.numbers("at first", 3, 4, 5) {
		if d.Message.Info.Sequence != 4 {
			e.ack(d)
		}
	}
	b = e.reopen(b)
	box = b.hold(in)
	box.numbers("when reopened", 4)
	box.stays(1)
}
