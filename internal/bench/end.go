package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// end is one subscriber: what it has got in a phase.
type end struct {
	subscriber int
	publishers []heard
	expected   int
	received   int
	start      time.Time
	last       time.Time
	points     []Point
	repeated   int
	disordered int
	steps      chan<- struct{} // nil unless in lockstep
}

// heard is what a subscriber has got of one publisher.
type heard struct {
	base    uint64          // the number of the last message before the phase
	last    uint64          // and that of the last one in it
	next    uint64          // the first number that has not come
	early   map[uint64]bool // those behind it that have
	highest uint64
	taken   int
	portion int
	credit  chan struct{}
}

func newEnd(subscriber int, load Load) *end {
	return &end{subscriber: subscriber, publishers: make([]heard, load.Publishers)}
}

// begin prepares for a phase, in which each publisher sends so many messages.
func (e *end) begin(base uint64, counts []int, portion int, steps chan<- struct{}, lockstep bool) {
	e.expected, e.received, e.repeated, e.disordered, e.points, e.steps = 0, 0, 0, 0, nil, nil
	if lockstep {
		e.steps = steps
	}
	for p := range e.publishers {
		h := &e.publishers[p]
		*h = heard{base: base, last: base + uint64(counts[p]), next: base + 1, early: make(map[uint64]bool), highest: base,
			portion: portion, credit: make(chan struct{}, credits)}
		for range credits {
			h.credit <- struct{}{}
		}
		e.expected += counts[p]
	}
}

// receive takes what comes until all is there or the phase ends.
func (e *end) receive(ctx context.Context, s *streaming, progress *atomic.Int64, cancel context.CancelCauseFunc) {
	if s.timed {
		e.points = make([]Point, 0, e.expected)
	}
	for e.received < e.expected {
		a, err := s.session.Next(ctx, e.subscriber)
		if err != nil {
			if ctx.Err() == nil {
				cancel(fmt.Errorf("subscriber %d: %w", e.subscriber, err))
			}
			break
		}
		if s.timed {
			now := time.Now()
			e.points = append(e.points, Point{At: a.Sent.Sub(e.start), Took: now.Sub(a.Sent)})
		}
		if err := e.note(a, len(s.body)); err != nil {
			cancel(fmt.Errorf("subscriber %d: %w", e.subscriber, err))
			break
		}
		if s.timed || e.received%256 == 0 { // whatever is slow is timed
			progress.Add(1)
		}
		if e.steps != nil {
			e.steps <- struct{}{}
		}
	}
	e.last = time.Now()
}

var errForeign = errors.New("a message that nobody has published")

// note checks an arrival.
func (e *end) note(a Arrival, size int) error {
	if a.Publisher < 0 || a.Publisher >= len(e.publishers) {
		return errForeign
	}
	h := &e.publishers[a.Publisher]
	if a.Bytes != size {
		return fmt.Errorf("message %d of publisher %d has %d bytes, not %d", a.Number, a.Publisher, a.Bytes, size)
	}
	if a.Number == 0 || a.Number > h.last {
		return fmt.Errorf("%w: number %d of publisher %d", errForeign, a.Number, a.Publisher)
	}
	if !h.first(a.Number) {
		e.repeated++
		return nil
	}
	e.received++
	if a.Number < h.highest {
		e.disordered++
	} else {
		h.highest = a.Number
	}
	if h.taken++; h.taken%h.portion == 0 {
		select {
		case h.credit <- struct{}{}:
		default: // in lockstep nobody takes any
		}
	}
	return nil
}

// first notes a number, and reports whether it has come for the first time.
func (h *heard) first(number uint64) bool {
	switch {
	case number < h.next || h.early[number]:
		return false
	case number > h.next:
		h.early[number] = true
		return true
	}
	for h.next++; len(h.early) > 0 && h.early[h.next]; h.next++ {
		delete(h.early, h.next)
	}
	return true
}

// add adds what the subscriber has seen to a sample.
func (e *end) add(s *Sample) {
	s.Received += e.received
	s.Lost += e.expected - e.received
	s.Repeated += e.repeated
	s.Disordered += e.disordered
	s.Points = append(s.Points, e.points...)
	s.Elapsed = max(s.Elapsed, e.last.Sub(e.start))
}
