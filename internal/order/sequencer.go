package order

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

// The bounds of a Sequencer. What is held back beyond them is waited for no longer.
const (
	maxStreams   = 1 << 14
	maxHeld      = 1 << 14 // what goes by in a second where messages travel in batches
	maxHeldBytes = 64 << 20
)

// Of a publisher that is heard of for the first time nobody knows whether its earlier messages are
// still on their way or were there before. When it has only begun (its number is not above
// youngUntil) the former is as likely, and the wait as long as for a gap. Else only mails that
// have overtaken each other speak for it: then it is firstContact times shorter.
const (
	youngUntil   = 512
	firstContact = 4
)

// Options are the options of a Sequencer.
type Options struct {
	// Wait is how long a message is held back while an earlier one is missing. Zero means
	// transport.DefaultGapWait; below zero nothing is held back.
	Wait time.Duration
	// Deliver gets the messages, each once.
	Deliver func(transport.Delivery)
	// Gap, if set, is told of what was waited for in vain.
	Gap func(transport.Gap)
	// Handled is what has been passed on before; the Sequencer goes on with it as its own. Nil
	// means nothing.
	Handled *Memory
}

// Sequencer passes on the topic messages of one interest: each once, and each publisher's in the
// order of their numbers. When one is missing it holds back those behind it for
// a while. Then it reports the gap and goes on; should the missing one come after all, it
// is passed on late, for to lose it would be worse. What is below the first message of a publisher
// that has come is no gap, for it may be from before, until some of it does come: then all that is missing there is reported. Messages without a number pass as they come.
//
// Calls of Deliver and Gap come one at a time. All methods may be called concurrently,
// but not from Deliver and Gap.
type Sequencer struct {
	wait    time.Duration
	deliver func(transport.Delivery)
	gap     func(transport.Gap)

	mu      sync.Mutex
	passed  *Memory
	streams lru[transport.GID, *stream]
	holding lru[*stream, struct{}] // those that hold something, in the order in which they have begun to
	held    int
	bytes   int
	timer   *time.Timer // nil until something is held
	due     time.Time   // when timer fires; zero if it is not set
	stopped bool
}

// stream is what is known of a publisher.
type stream struct {
	gid  transport.GID
	next uint64 // the number expected; 0 if nothing has passed yet, and nothing is known
	held []held // in the order of their numbers, all above next
	// first is the number that the first contact was with, when nothing had come before it in
	// time. Nobody has been told that those below are missing.
	first uint64
}

type held struct {
	delivery transport.Delivery
	number   uint64
	since    time.Time
}

// NewSequencer returns a Sequencer. Stop it when it is not needed any more.
func NewSequencer(o Options) *Sequencer {
	if o.Wait == 0 {
		o.Wait = transport.DefaultGapWait
	}
	if o.Handled == nil {
		o.Handled = new(Memory)
	}
	return &Sequencer{wait: o.Wait, deliver: o.Deliver, gap: o.Gap, passed: o.Handled}
}

// Offer takes a message that has arrived, and passes on what is in order now. It reports
// whether the message was news: not passed on before, nor held back already.
func (s *Sequencer) Offer(d transport.Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := KeyOf(d.Message)
	if s.stopped || s.passed.Has(key) {
		return false
	}
	n := key.Sequence
	if n == 0 || n == math.MaxUint64 || s.wait < 0 {
		s.pass(d)
		return true
	}
	st := s.stream(key.Publisher, n)
	switch {
	case n == 1 && st.next == 0, st.next != 0 && n <= st.next:
		if n >= st.next {
			st.next = n + 1
		} else if n < st.first { // it is late, and that is no news only for gaps that were reported
			s.report(st.gid, 1, st.first-1)
			st.first = 0
		}
		s.pass(d)
		s.passReady(st)
		return true
	}
	return s.hold(st, d, n)
}

// Expect says which number of each of these publishers is the first that is going to be offered. What is below it
// counts as before a first contact.
func (s *Sequencer) Expect(first map[transport.GID]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wait < 0 || s.stopped {
		return
	}
	for gid, n := range first {
		if n > 0 && n < math.MaxUint64 {
			st := s.stream(gid, n)
			st.next, st.first = n, n
			s.passReady(st)
		}
	}
}

// Judge says what is known of a message: whether it has been handled, that is, passed on or
// held back.
func (s *Sequencer) Judge(m *transport.Message) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := KeyOf(m)
	if st, ok := s.streams.get(key.Publisher); ok && key.Sequence != 0 {
		if _, found := st.find(key.Sequence); found {
			return Handled
		}
	}
	return s.passed.Judge(m)
}

// Stop makes the Sequencer pass on nothing any more.
func (s *Sequencer) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.holding, s.streams = lru[*stream, struct{}]{}, lru[transport.GID, *stream]{}
	if s.timer != nil {
		s.timer.Stop()
	}
}

// stream returns what is known of a publisher whose message number n has come.
func (s *Sequencer) stream(gid transport.GID, n uint64) *stream {
	if st, ok := s.streams.get(gid); ok {
		s.streams.use(gid)
		return st
	}
	st := &stream{gid: gid}
	if w := s.passed.Window(gid); w != nil {
		if before := w.Before(n); before > 0 {
			st.next = before + 1
		}
	}
	s.streams.put(gid, st)
	if s.streams.len() > maxStreams {
		oldest, old := s.streams.oldest()
		s.giveUp(old, math.MaxUint64)
		s.streams.delete(oldest)
	}
	return st
}

func (st *stream) find(n uint64) (int, bool) {
	return slices.BinarySearchFunc(st.held, n, func(h held, n uint64) int { return cmp.Compare(h.number, n) })
}

// hold keeps a message back.
func (s *Sequencer) hold(st *stream, d transport.Delivery, n uint64) bool {
	i, found := st.find(n)
	if found {
		return false
	}
	now := time.Now()
	st.held = slices.Insert(st.held, i, held{d, n, now})
	if len(st.held) == 1 {
		s.holding.put(st, struct{}{})
	}
	s.held++
	s.bytes += len(d.Message.Body)
	for s.held > maxHeld || s.bytes > maxHeldBytes {
		longest, _ := s.holding.oldest()
		s.giveUp(longest, longest.held[0].number)
	}
	s.arm(now.Add(s.patience(st)))
	return true
}

// patience is how long a message of the stream is held back.
func (s *Sequencer) patience(st *stream) time.Duration {
	if st.next == 0 && len(st.held) > 0 && st.held[0].number > youngUntil {
		return s.wait / firstContact
	}
	return s.wait
}

// arm sets the timer, unless it will fire earlier.
func (s *Sequencer) arm(at time.Time) {
	if !s.due.IsZero() && !at.Before(s.due) {
		return
	}
	s.due = at
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(at), s.expire)
	} else {
		s.timer.Reset(time.Until(at))
	}
}

// expire goes on without what has been waited for long enough.
func (s *Sequencer) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	now := time.Now()
	s.due = time.Time{}
	var next time.Time
	for st := range s.holding.all {
		for !s.expireStream(st, now) {
		}
		for _, h := range st.held {
			if at := h.since.Add(s.patience(st)); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	if !next.IsZero() {
		s.arm(next)
	}
}

// expireStream goes on without what a stream has been waited for long enough. It returns false
// if there may be more of that: the first message has told what is missing from there on.
func (s *Sequencer) expireStream(st *stream, now time.Time) (done bool) {
	last := uint64(0) // all that is missing below has been waited for
	for _, h := range st.held {
		if now.Sub(h.since) >= s.patience(st) {
			last = h.number
		}
	}
	switch {
	case last == 0:
		return true
	case st.next == 0:
		s.giveUp(st, st.held[0].number)
		return false
	}
	s.giveUp(st, last)
	return true
}

// giveUp passes on what is held up to a number, whatever is missing before it, and what follows
// without a gap.
func (s *Sequencer) giveUp(st *stream, last uint64) {
	for len(st.held) > 0 && st.held[0].number <= last {
		first := st.held[0].number
		if st.next != 0 {
			s.report(st.gid, st.next, first-1)
		} else {
			st.first = first
		}
		st.next = first
		s.passReady(st)
	}
}

// report tells of each gap in a range of numbers: some may have been passed on in a life before.
func (s *Sequencer) report(gid transport.GID, from, to uint64) {
	if s.gap == nil {
		return
	}
	w := s.passed.Window(gid)
	if w == nil {
		w = new(Window)
	}
	for {
		first, last, ok := w.gap(from, to)
		if !ok {
			return
		}
		s.gap(transport.Gap{Publisher: gid, First: first, Last: last})
		if from = last + 1; from == 0 {
			return
		}
	}
}

// passReady passes on what is held and in order.
func (s *Sequencer) passReady(st *stream) {
	for {
		if w := s.passed.Window(st.gid); w != nil {
			st.next = max(w.Next(st.next), st.next)
		}
		if len(st.held) == 0 || st.held[0].number > st.next {
			break
		}
		h := st.held[0]
		st.held[0] = held{}
		st.held = st.held[1:]
		s.held--
		s.bytes -= len(h.delivery.Message.Body)
		st.next = max(st.next, h.number+1)
		s.pass(h.delivery)
	}
	if len(st.held) == 0 {
		st.held = nil
		s.holding.delete(st)
	}
}

func (s *Sequencer) pass(d transport.Delivery) {
	s.passed.Add(KeyOf(d.Message), SourceTime(d.Message))
	s.deliver(d)
}
