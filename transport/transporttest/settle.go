package transporttest

import (
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

// The tests of what becomes of deliveries that are not simply acknowledged. They use a durable interest, or a
// group where the carrier has only those.
var settleCases = []testCase{
	{"NackDelivers", needsTracked, nackDelivers},
	{"NackEndsInDeadLetter", needsTracked, nackEndsInDeadLetter},
	{"NackHoldsNobodyUp", needsTracked, nackHoldsNobodyUp},
	{"GivenBackDoesNotCount", needsTracked, givenBackDoesNotCount},
	{"Term", needsTracked, term},
	{"FirstSettlementCounts", needsTracked, firstSettlementCounts},
	{"SettledInDeliver", needsTracked, settledInDeliver},
	{"ConcurrentAcks", needsTracked, concurrentAcks},
}

func needsTracked(f Features) bool { return f.Durable || f.Group }

// tracked returns an interest whose deliveries are tracked.
func (e *env) tracked() transport.Interest {
	if e.Features.Durable {
		return durable()
	}
	return inGroup()
}

func (e *env) wantAttempt(d transport.Delivery, seq uint64, attempt int) {
	e.Helper()
	if d.Message.Info.Sequence != seq || d.Attempt != attempt {
		e.Errorf("message %d came in attempt %d, want message %d in attempt %d", d.Message.Info.Sequence, d.Attempt, seq, attempt)
	}
}

func nackDelivers(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.hold(e.tracked())
	src.publishAll(a, 1)
	d := box.delivery(0)
	e.wantAttempt(d, 1, 1)
	const delay = 100 * time.Millisecond
	begin := time.Now()
	d.Nack(delay, "not yet")
	d = box.delivery(1)
	if passed := time.Since(begin); passed < delay {
		e.Errorf("the message came again after %v, want %v", passed, delay)
	}
	e.wantAttempt(d, 1, 2)
	d.Nack(0, "not yet")
	d = box.delivery(2)
	e.wantAttempt(d, 1, 3)
	e.ack(d)
	box.stays(3)
}

func nackEndsInDeadLetter(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	in := e.tracked()
	in.MaxDeliver = 3
	box := b.hold(in)
	src.publishAll(a, 1)
	for i := range 3 {
		d := box.delivery(i)
		e.wantAttempt(d, 1, i+1)
		d.Nack(0, "never")
	}
	src.publishAll(a, 1)
	d := box.delivery(3)
	e.wantAttempt(d, 2, 1)
	e.ack(d)
	box.stays(4)
	if !e.Features.Durable {
		return
	}
	b = e.reopen(b)
	box = b.hold(in)
	box.stays(0) // dead is dead
}

// nackHoldsNobodyUp checks that others pass a message that waits to come again.
func nackHoldsNobodyUp(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	in := e.tracked()
	in.InFlight = 1
	box := b.hold(in)
	src.publishAll(a, 3)
	first := box.delivery(0)
	first.Nack(time.Hour, "later")
	for i := 1; i <= 2; i++ {
		d := box.delivery(i)
		if d.Message.Info.Sequence == first.Message.Info.Sequence {
			e.Errorf("message %d came again before its time", first.Message.Info.Sequence)
		}
		e.ack(d)
	}
	box.stays(3)
}

func givenBackDoesNotCount(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	in := e.tracked()
	in.MaxDeliver = 2
	box := b.hold(in)
	src.publishAll(a, 1)
	for i := range 4 {
		d := box.delivery(i)
		e.wantAttempt(d, 1, 1)
		d.Nack(-1, "not tried")
	}
	e.ack(box.delivery(4))
	box.stays(5)
}

func term(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.hold(e.tracked())
	src.publishAll(a, 2)
	for i := range 2 {
		if d := box.delivery(i); d.Message.Info.Sequence == 1 {
			d.Term("bad")
		} else {
			e.ack(d)
		}
	}
	box.stays(2)
	b = e.reopen(b)
	box = b.hold(e.tracked())
	src.publishAll(a, 1)
	e.wantAttempt(box.delivery(0), 3, 1)
	box.stays(1)
}

func firstSettlementCounts(e *env) {
	a, b := e.open(), e.open()
	src := newSource()
	box := b.hold(e.tracked())
	src.publishAll(a, 2)
	first, second := box.delivery(0), box.delivery(1)
	e.ack(first)
	e.ack(first)
	first.Nack(0, "too late")
	first.Term("too late")
	second.Nack(0, "again")
	second.Nack(0, "twice")
	e.ack(second)
	d := box.delivery(2)
	e.wantAttempt(d, second.Message.Info.Sequence, 2)
	e.ack(d)
	box.stays(3)
}

// settledInDeliver settles where a reader does that has been closed, or can't read what it gets.
func settledInDeliver(e *env) {
	a, b := e.open(), e.open()
	var mu sync.Mutex
	attempts := make(map[uint64][]int)
	done := make(chan struct{})
	finish := sync.OnceFunc(func() { close(done) })
	box := sinkFunc(func(d transport.Delivery) {
		mu.Lock()
		defer mu.Unlock()
		seq := d.Message.Info.Sequence
		attempts[seq] = append(attempts[seq], d.Attempt)
		switch {
		case seq == 1:
			d.Term("bad")
		case d.Attempt == 1:
			d.Nack(0, "again")
		default:
			finish()
			d.Term("bad after all")
		}
	})
	if _, err := b.node.Receive(e.tracked(), box); err != nil {
		e.Fatalf("receive: %v", err)
	}
	src := newSource()
	src.publishAll(a, 2)
	e.await("the second delivery", done)
	time.Sleep(quietTime)
	mu.Lock()
	defer mu.Unlock()
	if len(attempts[1]) != 1 || len(attempts[2]) != 2 {
		e.Errorf("the attempts were %v, want one for message 1 and two for message 2", attempts)
	}
}

// concurrentAcks settles from many goroutines.
func concurrentAcks(e *env) {
	a, b := e.open(), e.open()
	in := e.tracked()
	in.InFlight = 16
	src := newSource()
	box := b.hold(in)
	const n = 100
	var wg sync.WaitGroup
	wg.Go(func() { src.publishAll(a, n) })
	for i := range n {
		d := box.delivery(i)
		wg.Go(func() { e.ack(d) })
	}
	wg.Wait()
	seen := make(map[uint64]bool)
	for _, d := range box.deliveries(n) {
		seen[d.Message.Info.Sequence] = true
	}
	if len(seen) != n {
		e.Errorf("%d messages came, want %d", len(seen), n)
	}
	box.stays(n)
	b = e.reopen(b)
	box = b.hold(in)
	box.stays(0)
}
