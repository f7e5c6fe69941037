package email

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// TestRhythms: the rhythm of each publisher is told from that of others, and only so many are kept.
func TestRhythms(t *testing.T) {
	var rs rhythms
	begin := time.Now()
	heard := func(publisher transport.GID, now time.Time) { rs.heard(publisher, now, now) }
	at := func(s float64) time.Time { return begin.Add(time.Duration(s * float64(time.Second))) }
	for n := range 30 {
		s := float64(n)
		heard(transport.GID{1}, at(s))
		heard(transport.GID{1}, at(s).Add(time.Millisecond)) // what comes together counts once
		heard(transport.GID{2}, at(s+0.3))
	}
	for _, test := range []struct{ now, in float64 }{{29.35, 0.65}, {29.999, 0}} {
		b := rs.next(at(test.now))
		if early := test.in - b.in.Seconds(); b.step == 0 || early < 0 || early > 0.01 {
			t.Errorf("at %v: %+v, want %v", test.now, b, test.in)
		}
	}
	// Number 30 of the first publisher does not come, which hides nothing.
	if b := rs.next(at(30.29)); b.in != 0 || b.step > 10*time.Millisecond {
		t.Errorf("shortly before a message that is due, and after one that was: %+v", b)
	}
	if b := rs.next(at(60)); b.step != 0 {
		t.Errorf("long after the last message: %+v", b)
	}
	for n := range 1000 {
		heard(transport.GID{3, byte(n), byte(n >> 8)}, at(60+float64(n)/1000))
	}
	if len(rs.of) > mostRhythms {
		t.Errorf("%d rhythms", len(rs.of))
	}
	// Others are let in, but not with a search for each of them that is not.
	swept := rs.swept
	for n := range 100 {
		heard(transport.GID{4, byte(n)}, swept.Add(sweepPause/2))
	}
	if !rs.swept.Equal(swept) {
		t.Error("those that have stopped were looked for again at once")
	}
	heard(transport.GID{5}, swept.Add(time.Minute))
	if rs.of[transport.GID{5}] == nil {
		t.Error("those that have stopped are kept")
	}
}

// TestRhythmChanges: another rhythm is known after a dozen messages, and one that was missing changes nothing.
func TestRhythmChanges(t *testing.T) {
	var r rhythm
	begin := time.Now()
	at := time.Duration(0)
	hear := func(gap time.Duration) beat {
		at += gap
		now := begin.Add(at + 7*time.Millisecond) // it is on its way for so long
		r.heard(begin.Add(at), now)
		return r.next(now)
	}
	const short, long = 12 * time.Millisecond, 100 * time.Millisecond
	for range 30 {
		hear(short)
	}
	for range 11 {
		hear(long)
	}
	want := func(when string, b beat) {
		if b.step == 0 || b.in < 80*time.Millisecond || b.in > long {
			t.Errorf("%s: %+v, want one that is due in %v", when, b, long)
		}
	}
	want("a dozen messages after a change", hear(long))
	for range 30 {
		hear(long)
	}
	known := r
	want("one is missing", hear(2*long))
	if r.gap != known.gap || r.deviation != known.deviation {
		t.Errorf("one that is missing makes %v ± %v of %v ± %v", r.gap, r.deviation, known.gap, known.deviation)
	}
}

// TestRhythmsKept: messages that come when they are due are relied on, until one comes that is not.
func TestRhythmsKept(t *testing.T) {
	const ms = time.Millisecond
	one, two := transport.GID{1}, transport.GID{2}
	for _, test := range []struct {
		name string
		next func(rs *rhythms, now time.Time) // what comes between two messages, 50 ms after the one before
		sure bool
	}{
		{"nothing", func(*rhythms, time.Time) {}, true},
		{"one that was found with the one before", func(rs *rhythms, now time.Time) {
			rs.heard(one, now.Add(-49*ms), now.Add(-50*ms+shortestWait/2))
		}, true},
		{"one that came soon after the one before", func(rs *rhythms, now time.Time) {
			rs.heard(one, now.Add(-49*ms), now.Add(-45*ms))
		}, false},
		{"one of the same publisher", func(rs *rhythms, now time.Time) { rs.heard(one, now, now) }, false},
		{"one that was sent too early and found when the next one was due", func(rs *rhythms, now time.Time) {
			rs.heard(one, now, now.Add(50*ms))
		}, false},
		{"one of another publisher", func(rs *rhythms, now time.Time) { rs.heard(two, now, now) }, false},
		{"an answer", func(rs *rhythms, now time.Time) { rs.surprise() }, false},
	} {
		var rs rhythms
		at := time.Now()
		hear := func(times int) {
			for range times {
				at = at.Add(100 * ms)
				rs.heard(one, at, at)
			}
		}
		hear(surely)
		if rs.next(at).sure {
			t.Errorf("%s: relied on after %d messages, of which not all were due", test.name, surely)
		}
		hear(surely)
		if !rs.next(at).sure {
			t.Errorf("%s: not relied on after %d messages", test.name, 2*surely)
		}
		test.next(&rs, at.Add(50*ms))
		if sure := rs.next(at.Add(50 * ms)).sure; sure != test.sure {
			t.Errorf("%s: relied on: %v, want %v", test.name, sure, test.sure)
		}
		hear(2 * surely)
		if !rs.next(at).sure {
			t.Errorf("%s: not relied on again", test.name)
		}
	}
}

// TestRhythmOfBadClocks: whatever a mail says of when it was sent, it is harmless.
func TestRhythmOfBadClocks(t *testing.T) {
	var rs rhythms
	begin := time.Now()
	for n := range 100 {
		now := begin.Add(time.Duration(n) * 100 * time.Millisecond)
		sent := []time.Time{{}, time.Unix(1<<40, 0), time.Unix(-1<<40, 0), now.Add(-time.Duration(n) * time.Hour), now.Add(time.Hour)}[n%5]
		rs.heard(transport.GID{1}, sent, now)
		if b := rs.next(now); b.in < 0 || b.step < 0 || b.in > longestBeat+aDay {
			t.Fatalf("message %d: %+v", n, b)
		}
	}
}

// TestAwaited: answers are awaited until they come, or until the deadline.
func TestAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a awaited
		request := func(n uint64, deadline time.Time) *transport.Message {
			return &transport.Message{Kind: transport.Request, ID: transport.NewID(transport.GID{1}, n, "test"), Deadline: deadline}
		}
		one, two := request(1, time.Now().Add(10*time.Second)), request(2, time.Time{})
		a.add(one)
		a.add(two)
		a.settle(one.ID)
		a.settle(one.ID)
		time.Sleep(patience - time.Nanosecond)
		if !a.any(time.Now()) {
			t.Error("no answer is awaited")
		}
		time.Sleep(time.Nanosecond)
		if a.any(time.Now()) {
			t.Error("an answer is awaited after the deadline")
		}
		for n := range 2 * uint64(mostAwaited) {
			a.add(request(n, time.Now().Add(time.Second)))
		}
		if n := len(a.open); n != mostAwaited {
			t.Errorf("%d are kept", n)
		}
		time.Sleep(time.Second)
		a.add(two)
		if n := len(a.open); n != 1 {
			t.Errorf("%d are kept of which one is awaited", n)
		}
	})
}

// TestAwaitedDropped: what was certainly not sent is not awaited.
func TestAwaitedDropped(t *testing.T) {
	for _, test := range []struct {
		failed transport.SendError
		left   int
	}{
		{transport.SendError{Outcome: transport.Temporary}, 0},
		{transport.SendError{Outcome: transport.Permanent, Taken: 2}, 2},
		{transport.SendError{Outcome: transport.Unknown, Taken: 2}, 3},
		{transport.SendError{Outcome: transport.Unknown, Taken: 2, With: 1}, 4},
		{transport.SendError{Outcome: transport.Unknown, Taken: 4}, 5},
	} {
		var a awaited
		var msgs []*transport.Message
		for n := range uint64(5) {
			msgs = append(msgs, &transport.Message{Kind: transport.Request, ID: transport.NewID(transport.GID{1}, n, "test")})
			a.add(msgs[n])
		}
		a.drop(msgs, &test.failed)
		if len(a.open) != test.left {
			t.Errorf("%v, %d taken, %d with it: %d are awaited, want %d", test.failed.Outcome, test.failed.Taken, test.failed.With, len(a.open), test.left)
		}
		for n := range test.left {
			if _, there := a.open[msgs[n].ID]; !there {
				t.Errorf("request %d is not awaited", n)
			}
		}
	}
}
