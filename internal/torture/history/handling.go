package history

import (
	"fmt"
	"slices"
	"time"
)

// end is a receiving end: a subscription, a group or a server.
type receiver struct {
	name, topic, mode string
	lease             int64
	opened            int64 // time of the first Open
	dead              bool  // it was plain, and its process is gone
	seen              map[string]*seen
	runs              map[string]map[uint64]*handling // of requests
}

// seen is what an end has handled of one publisher.
type seen struct {
	handlings []*handling // by number, from 1; nil where nothing has come
	highest   uint64      // number handled
	taker     *process    // of the last Take
	taken     uint64      // highest number that it has taken
	gaps      []gap
}

// gap says which sequence numbers were reported missing, and when.
type gap struct {
	first, last uint64
	time        int64
}

// disorder is a message that came after a later one.
type disorder struct {
	of       *seen
	sequence uint64
	time     int64
	found    found
}

// reporting is how long after its gap's end a report of it may come: subscriptions report in the
// background.
const reporting = int64(time.Second)

type state uint8

const (
	begun     state = iota + 1
	acking          // between Ack and Done
	done            // handled
	returned        // given back
	unacked         // Ack has failed: it has been handled, and may come again
	uncertain       // acking when its process was killed
	judged          // begun again after it was done, which is a violation already
)

// handling is what an end has done about one message.
type handling struct {
	state      state
	process    *process
	time       int64 // of the last Take
	take, done Position
}

func (c *Checker) open(e Event) {
	r := c.receivers[e.Receiver]
	if r == nil {
		r = &receiver{name: e.Receiver, topic: e.Topic, mode: e.Mode, lease: e.Lease, opened: e.Time,
			seen: make(map[string]*seen), runs: make(map[string]map[uint64]*handling)}
		c.receivers[e.Receiver] = r
	}
	p := c.process(e.Process)
	p.opened = true
	if e.Mode == Plain || e.Mode == Live {
		p.receivers = append(p.receivers, r)
	}
}

// handling reads what an end says about a message.
func (c *Checker) handling(e Event, at Position) {
	r := c.receivers[e.Receiver]
	if r == nil {
		c.violate(Strange, fmt.Sprintf("%s handles, and was never opened", e.Receiver), at)
		return
	}
	p, m := c.message(e)
	if m == nil || p.topic != r.topic {
		c.violate(Strange, fmt.Sprintf("%s got message %d of %s, which was never published to it", e.Receiver, e.Number, e.Publisher), at)
		return
	}
	s := r.seen[e.Publisher]
	if s == nil {
		s = new(seen)
		r.seen[e.Publisher] = s
	}
	if missing := int(e.Number) - len(s.handlings); missing > 0 {
		s.handlings = append(s.handlings, make([]*handling, missing)...)
	}
	h := s.handlings[e.Number-1]
	if e.Kind == Take {
		s.handlings[e.Number-1] = c.take(e, at, r, s, m, h)
		return
	}
	if h == nil {
		c.violate(Strange, fmt.Sprintf("%s ends what it had not begun: message %d of %s", e.Receiver, e.Number, e.Publisher), at)
		return
	}
	if e.Kind == Done && h.state != done && h.state != judged {
		c.report.Handled++
		s.highest = max(s.highest, e.Number)
		c.recovered(m.time, e.Time)
	}
	c.step(e, at, h)
}

// step moves a handling on.
func (c *Checker) step(e Event, at Position, h *handling) {
	p := c.process(e.Process)
	switch e.Kind {
	case Ack, Answer:
		if h.state == begun && h.process == p {
			h.state = acking
		}
	case Done, Ran:
		if h.state == done {
			c.violate(Duplicated, fmt.Sprintf("%s has handled %d of %s twice", e.Receiver, e.Number, e.Publisher), h.take, h.done, at)
			return
		}
		h.state, h.done = done, at
		delete(p.unsettled, h)
	case Unacked:
		if h.process == p && h.state != done && h.state != judged {
			h.state = unacked
			c.report.Uncertain++
			delete(p.unsettled, h)
		}
	case Nack, Unran:
		if h.process == p && h.state != done && h.state != judged {
			h.state = returned
			delete(p.unsettled, h)
		}
	}
}

// take is the beginning of a handling.
func (c *Checker) take(e Event, at Position, r *receiver, s *seen, m *message, h *handling) *handling {
	p := c.process(e.Process)
	name := fmt.Sprintf("message %d of %s", e.Number, e.Publisher)
	if e.Hash != m.hash || e.Sequence != 0 && e.Sequence != m.sequence {
		c.violate(Corrupted, fmt.Sprintf("%s got %s with another body or number", e.Receiver, name), m.published, at)
	}
	if m.result == Failed {
		c.violate(Unsaid, fmt.Sprintf("%s got %s, which was said not to have been sent", e.Receiver, name), m.published, m.outcome, at)
	}
	again := h != nil
	if r.mode != Group && !s.inOrder(e.Number, p, again && (h.state == returned || h.state == unacked)) && (!again || h.state != done && h.state != judged && h.process.ended) {
		// Again, in the same process or after it was handled, is a duplicate, which is worse.
		text := fmt.Sprintf("%s got %s after %d", e.Receiver, name, max(s.highest, s.taken))
		c.disorders = append(c.disorders, disorder{s, m.sequence, e.Time, found{OutOfOrder, text, []Position{m.published, c.lineOf(s), at}}})
	}
	if s.taker != p {
		s.taker, s.taken = p, 0
	}
	s.taken = max(s.taken, e.Number)
	if !again {
		h = new(handling)
	}
	c.begin(e, at, r, h, name, again)
	return h
}

// begin begins the handling of a message or request, and checks that it may begin again.
func (c *Checker) begin(e Event, at Position, r *receiver, h *handling, name string, again bool) {
	p := c.process(e.Process)
	if again {
		c.report.Again++
		switch {
		case h.state == done, h.state == judged:
			c.violate(Duplicated, fmt.Sprintf("%s got %s again after it had been handled", e.Receiver, name), h.take, h.done, at)
			h.state = judged
			return
		case h.state == returned, h.state == unacked, h.process.ended:
		case r.mode == Group && e.Time-h.time >= r.lease:
		default:
			c.violate(Duplicated, fmt.Sprintf("%s got %s again while it was being handled", e.Receiver, name), h.take, at)
		}
		delete(h.process.unsettled, h)
	}
	h.state, h.process, h.time, h.take = begun, p, e.Time, at
	if p.unsettled != nil {
		p.unsettled[h] = struct{}{}
	}
}

// lineOf returns where the last handling of a publisher began.
func (c *Checker) lineOf(s *seen) Position {
	n := max(s.highest, s.taken)
	if n == 0 || s.handlings[n-1] == nil {
		return Position{}
	}
	return s.handlings[n-1].take
}

// inOrder reports whether a message comes in its turn: after all that have been handled,
// and after all that this process has been given.
func (s *seen) inOrder(n uint64, p *process, returned bool) bool {
	return returned || n > s.highest && (s.taker != p || n > s.taken)
}

// judge takes those messages for out of order that nobody had reported missing.
func (c *Checker) judge() {
	for _, d := range c.disorders {
		reported := slices.ContainsFunc(d.of.gaps, func(g gap) bool {
			return g.first <= d.sequence && d.sequence <= g.last && g.time <= d.time+reporting
		})
		if reported {
			c.report.Late++
		} else {
			c.violate(d.found.what, d.found.text, d.found.lines...)
		}
	}
	c.disorders = nil
}

func (c *Checker) gap(e Event) {
	c.report.Gaps++
	if r := c.receivers[e.Receiver]; r != nil {
		s := r.seen[e.Publisher]
		if s == nil {
			s = new(seen)
			r.seen[e.Publisher] = s
		}
		s.gaps = append(s.gaps, gap{e.Number, e.Last, e.Time})
	}
}

// owes reports whether an end has to handle a message.
func (r *receiver) owes(p *publisher, m *message) bool {
	return m.result == Acked && !m.expunged && !r.dead && r.mode != Live && p.topic == r.topic && m.time > r.opened
}

// handled reports whether an end has handled message n of a publisher, or may have.
func (r *receiver) handled(gid string, n int) bool {
	s := r.seen[gid]
	if s == nil || n >= len(s.handlings) || s.handlings[n] == nil {
		return false
	}
	state := s.handlings[n].state
	return state == done || state == uncertain || state == unacked || state == judged
}
