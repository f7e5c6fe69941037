package history

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// story writes a history line by line, in a short form:
//
//	open SUB MODE | pub N | acked N | take SUB N | done SUB N | ... | kill PROCESS
//
// SUB is also the process of the subscription up to a "/": "d/2" is the process d#2 with the
// subscription d.
type story struct {
	*testing.T
	path string
	log  *Log
}

func newStory(t *testing.T) *story {
	path := filepath.Join(t.TempDir(), "history")
	log, err := OpenLog(path, "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return &story{t, path, log}
}

func (s *story) add(events ...Event) {
	s.Helper()
	for _, e := range events {
		if err := s.log.Add(e); err != nil {
			s.Fatal(err)
		}
	}
}

func (s *story) check() *Report {
	s.Helper()
	r, err := CheckFiles(s.path)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

const topic = "/t"

func open(sub, process, mode string) Event {
	return Event{Kind: Open, Receiver: sub, Process: process, Mode: mode, Topic: topic, Lease: int64(time.Hour)}
}

func publish(n uint64) Event {
	return Event{Kind: Publish, Publisher: "g", Number: n, Topic: topic, Hash: hash(n)}
}

func acked(n uint64) []Event {
	return []Event{publish(n), {Kind: Acked, Publisher: "g", Number: n}}
}

func publish2(n, sequence uint64) Event {
	e := publish(n)
	e.Sequence = sequence
	return e
}

func acked2(n, sequence uint64) []Event {
	return []Event{publish2(n, sequence), {Kind: Acked, Publisher: "g", Number: n}}
}

func hash(n uint64) string { return Hash([]byte{byte(n)}) }

func at(kind Kind, sub, process string, n uint64) Event {
	return Event{Kind: kind, Receiver: sub, Process: process, Publisher: "g", Number: n, Hash: hash(n)}
}

func handled(sub, process string, numbers ...uint64) []Event {
	var events []Event
	for _, n := range numbers {
		events = append(events, at(Take, sub, process, n), at(Ack, sub, process, n), at(Done, sub, process, n))
	}
	return events
}

func killed(process string) Event { return Event{Kind: Exit, Process: process, Text: Killed} }

func called(n uint64) Event {
	return Event{Kind: Call, Publisher: "c", Number: n, Topic: "/s", Hash: hash(n)}
}

func outcome(n uint64, text string) Event {
	return Event{Kind: Outcome, Publisher: "c", Number: n, Text: text}
}

func ran(kind Kind, process string, n uint64) Event {
	return Event{Kind: kind, Receiver: "server", Process: process, Publisher: "c", Number: n, Hash: hash(n)}
}

// join makes one list of events and lists of events.
func join(parts ...any) []Event {
	var events []Event
	for _, part := range parts {
		switch part := part.(type) {
		case Event:
			events = append(events, part)
		case []Event:
			events = append(events, part...)
		}
	}
	return events
}

func TestChecker(t *testing.T) {
	served := open("server", "s#1", Durable)
	failed := Event{Kind: Failed, Publisher: "g", Number: 2}
	gap := Event{Kind: Gap, Receiver: "d", Process: "d#1", Publisher: "g", Number: 1, Last: 1}
	published := join(acked(1), acked(2), acked(3))
	durable := open("d", "d#1", Durable)
	for _, test := range []struct {
		name   string
		events []Event
		want   map[Violation]int
		also   func(*Report) bool
	}{
		{name: "all is well", events: join(durable, open("p", "p#1", Plain), published, handled("d", "d#1", 1, 2, 3), handled("p", "p#1", 1, 2, 3)),
			also: func(r *Report) bool { return r.Published == 3 && r.Acked == 3 && r.Handled == 6 }},
		{name: "dropped", events: join(durable, published, handled("d", "d#1", 1, 3)), want: map[Violation]int{Lost: 1}},
		{name: "nothing came", events: join(durable, published), want: map[Violation]int{Lost: 3}},
		{name: "begun only", events: join(durable, published, handled("d", "d#1", 1, 2), at(Take, "d", "d#1", 3)), want: map[Violation]int{Lost: 1}},
		{name: "another topic", events: join(Event{Kind: Open, Receiver: "d", Mode: Durable, Topic: "/other"}, published)},
		{name: "published before", events: join(published, durable, handled("d", "d#1", 2, 3))},
		{name: "plain is dead", events: join(open("p", "p#1", Plain), published, killed("p#1"))},
		{name: "durable lives on", events: join(durable, published, killed("d#1")), want: map[Violation]int{Lost: 3}},
		{name: "expunged", events: join(durable, published, Event{Kind: Expunged, Publisher: "g", Number: 2}, handled("d", "d#1", 1, 3))},
		{name: "unknown need not come", events: join(durable, publish(1), Event{Kind: Unknown, Publisher: "g", Number: 1})},
		{name: "unknown may come", events: join(durable, publish(1), Event{Kind: Unknown, Publisher: "g", Number: 1}, handled("d", "d#1", 1))},
		{name: "failed may not come", events: join(durable, acked(1), publish(2), failed, handled("d", "d#1", 1, 2)), want: map[Violation]int{Unsaid: 1}},
		{name: "never published", events: join(durable, acked(1), handled("d", "d#1", 1, 2)), want: map[Violation]int{Strange: 3}},
		{name: "published elsewhere", events: join(Event{Kind: Open, Receiver: "d", Mode: Durable, Topic: "/other"}, acked(1), at(Take, "d", "d#1", 1)), want: map[Violation]int{Strange: 1}},
		{name: "corrupted", events: join(durable, acked(1), Event{Kind: Take, Receiver: "d", Process: "d#1", Publisher: "g", Number: 1, Hash: hash(9)}, at(Done, "d", "d#1", 1)), want: map[Violation]int{Corrupted: 1}},

		{name: "twice", events: join(durable, published, handled("d", "d#1", 1, 2, 2, 3)), want: map[Violation]int{Duplicated: 1}},
		{name: "twice at once", events: join(durable, acked(1), at(Take, "d", "d#1", 1), handled("d", "d#1", 1)), want: map[Violation]int{Duplicated: 1}},
		{name: "again after a kill", events: join(durable, acked(1), at(Take, "d", "d#1", 1), killed("d#1"), durable, handled("d", "d#2", 1)),
			also: func(r *Report) bool { return r.Again == 1 && r.Kills == 1 }},
		{name: "again after a kill, handled", events: join(durable, published, handled("d", "d#1", 1, 2), killed("d#1"), durable, handled("d", "d#2", 2, 3)), want: map[Violation]int{Duplicated: 1}},
		{name: "killed on record or not", events: join(durable, acked(1), at(Take, "d", "d#1", 1), at(Ack, "d", "d#1", 1), killed("d#1")),
			also: func(r *Report) bool { return r.Uncertain == 1 }},
		{name: "returned", events: join(durable, acked(1), acked(2), at(Take, "d", "d#1", 1), at(Nack, "d", "d#1", 1), handled("d", "d#1", 2, 1))},
		{name: "interrupted", events: join(durable, acked(1), acked(2), called(1), handled("d", "d#1", 1), Event{Kind: Interrupted}),
			also: func(r *Report) bool { return r.Unawaited == 2 && r.Owed == 0 }},
		{name: "not confirmed", events: join(durable, acked(1), at(Take, "d", "d#1", 1), at(Ack, "d", "d#1", 1), at(Unacked, "d", "d#1", 1)),
			also: func(r *Report) bool { return r.Uncertain == 1 }},
		{name: "not confirmed, again", events: join(durable, acked(1), acked(2), at(Take, "d", "d#1", 1), at(Ack, "d", "d#1", 1), at(Unacked, "d", "d#1", 1), handled("d", "d#1", 2, 1))},
		{name: "plain anew", events: join(open("p1", "p#1", Plain), acked(1), handled("p1", "p#1", 1), open("p2", "p#2", Plain), handled("p2", "p#2", 1))},

		{name: "swapped", events: join(durable, published, handled("d", "d#1", 1, 3, 2)), want: map[Violation]int{OutOfOrder: 1}},
		{name: "late after a failure", events: join(durable, acked(1), publish(2), failed, publish2(3, 2), acked2(4, 3),
			Event{Kind: Gap, Receiver: "d", Process: "d#1", Publisher: "g", Number: 2, Last: 2}, handled("d", "d#1", 1, 4, 3))},
		{name: "another number", events: join(durable, publish2(1, 7), Event{Kind: Take, Receiver: "d", Process: "d#1", Publisher: "g", Number: 1, Sequence: 8, Hash: hash(1)}), want: map[Violation]int{Corrupted: 1}},
		{name: "swapped over a kill", events: join(durable, published, handled("d", "d#1", 1, 3), killed("d#1"), durable, handled("d", "d#2", 2)), want: map[Violation]int{OutOfOrder: 1}},
		{name: "late", events: join(durable, published, gap, handled("d", "d#1", 2, 3, 1)), also: func(r *Report) bool { return r.Gaps == 1 && r.Late == 1 }},
		{name: "gap for good", events: join(durable, published, gap, handled("d", "d#1", 2, 3)), want: map[Violation]int{Lost: 1}},

		{name: "group", events: join(open("g", "g#1", Group), open("g", "h#1", Group), published, handled("g", "g#1", 3, 1), handled("g", "h#1", 2))},
		{name: "group, both", events: join(open("g", "g#1", Group), open("g", "h#1", Group), acked(1), handled("g", "g#1", 1), handled("g", "h#1", 1)), want: map[Violation]int{Duplicated: 1}},
		{name: "group, at once", events: join(open("g", "g#1", Group), acked(1), at(Take, "g", "g#1", 1), handled("g", "h#1", 1)), want: map[Violation]int{Duplicated: 1}},
		{name: "group, taken over", events: join(open("g", "g#1", Group), acked(1), at(Take, "g", "g#1", 1), killed("g#1"), handled("g", "h#1", 1))},
		{name: "group, nobody", events: join(open("g", "g#1", Group), acked(1), at(Take, "g", "g#1", 1), killed("g#1")), want: map[Violation]int{Lost: 1}},

		{name: "call", events: join(served, called(1), ran(Run, "s#1", 1), ran(Ran, "s#1", 1), outcome(1, Answered)), also: func(r *Report) bool { return r.Answered == 1 && r.Runs == 1 }},
		{name: "no outcome", events: join(served, called(1)), want: map[Violation]int{Outcomes: 1}},
		{name: "no outcome, killed", events: join(served, called(1), killed("p"))},
		{name: "two outcomes", events: join(served, called(1), ran(Run, "s#1", 1), outcome(1, Answered), outcome(1, Timeout)), want: map[Violation]int{Outcomes: 1}},
		{name: "wrong answer", events: join(served, called(1), ran(Run, "s#1", 1), outcome(1, Wrong)), want: map[Violation]int{Outcomes: 1}},
		{name: "answer by nobody", events: join(served, called(1), outcome(1, Answered)), want: map[Violation]int{Outcomes: 1}},
		{name: "run twice", events: join(served, called(1), ran(Run, "s#1", 1), ran(Ran, "s#1", 1), ran(Run, "s#1", 1), outcome(1, Answered)), want: map[Violation]int{Duplicated: 1}},
		{name: "run again after a kill", events: join(served, called(1), ran(Run, "s#1", 1), killed("s#1"), ran(Run, "s#2", 1), ran(Ran, "s#2", 1), outcome(1, Answered))},
		{name: "another request", events: join(served, called(1), Event{Kind: Run, Receiver: "server", Process: "s#1", Publisher: "c", Number: 1, Hash: hash(2)}, outcome(1, Answered)), want: map[Violation]int{Corrupted: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStory(t)
			s.add(test.events...)
			r := s.check()
			for _, v := range violations {
				if r.Violations[v] != test.want[v] {
					t.Errorf("%d times %q, want %d", r.Violations[v], v, test.want[v])
				}
			}
			if r.OK() != (len(test.want) == 0) || len(r.Shown) == 0 != r.OK() {
				t.Errorf("OK is %v, and %d violations are shown", r.OK(), len(r.Shown))
			}
			if test.also != nil && !test.also(r) {
				t.Error("the counts are wrong")
			}
			if t.Failed() {
				t.Log(r)
			}
		})
	}
}

// The lease of a group's member is over: another may begin, but only one can end.
func TestLease(t *testing.T) {
	c := NewChecker()
	var when int64
	add := func(after time.Duration, events ...Event) {
		when += int64(after)
		for _, e := range events {
			e.Time = when
			c.Add(e, Position{})
		}
	}
	add(1, open("g", "g#1", Group))
	add(1, acked(1)...)
	add(1, at(Take, "g", "g#1", 1))
	add(2*time.Hour, handled("g", "h#1", 1)...)
	add(1, at(Unacked, "g", "g#1", 1))
	line := func(Position) string { return "" }
	if r := c.Report(line); !r.OK() || r.Again != 1 {
		t.Errorf("after the end of a lease:\n%v", r)
	}
	add(1, at(Done, "g", "g#1", 1))
	if r := c.Report(line); r.Violations[Duplicated] != 1 {
		t.Errorf("after two have ended:\n%v", r)
	}
}

func TestPendingAndRecovery(t *testing.T) {
	c := NewChecker()
	when := int64(1)
	add := func(events ...Event) {
		for _, e := range events {
			when += int64(time.Second)
			e.Time = when
			c.Add(e, Position{})
		}
	}
	add(open("d", "d#1", Durable))
	add(acked(1)...)
	add(Event{Kind: Out, Text: "smtp stopped"}, Event{Kind: Back, Text: "smtp stopped"})
	add(acked(2)...)
	if n := c.Pending(); n != 2 {
		t.Errorf("%d are owed, want 2", n)
	}
	add(handled("d", "d#1", 1, 2)...)
	if n := c.Pending(); n != 0 {
		t.Errorf("%d are owed, want 0", n)
	}
	r := c.Report(func(Position) string { return "" })
	if got, want := r.Recoveries["smtp stopped"], (Recovery{Count: 1, Sum: 8 * time.Second, Longest: 8 * time.Second}); got != want {
		t.Errorf("recovery %v, want %v", got, want)
	}
	if c.Begun("p") != 0 || c.Begun("") != 2 || !c.Opened("d#1") || c.Opened("d#2") {
		t.Error("messages are counted for the wrong process")
	}
}

// What a killed process was writing is skipped, and harms nothing else. The report shows
// the lines of both sides.
func TestTornLines(t *testing.T) {
	s := newStory(t)
	s.add(open("d", "d#1", Durable))
	s.add(acked(1)...)
	file, err := os.OpenFile(s.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("\n{\"t\":12,\"k\":\"do"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s.add(handled("d", "d#1", 1, 1)...)
	r := s.check()
	if r.Torn != 1 || r.Handled != 1 || r.Violations[Duplicated] != 1 {
		t.Errorf("report:\n%v", r)
	}
	if text := r.String(); !strings.Contains(text, `"k":"take"`) || !strings.Contains(text, `"k":"done"`) {
		t.Errorf("the lines are not shown:\n%s", text)
	}
}

// Several files are read in the order of their times.
func TestSeveralFiles(t *testing.T) {
	one, two := newStory(t), newStory(t)
	one.add(open("d", "d#1", Durable))
	two.add(acked(1)...)
	one.add(handled("d", "d#1", 1)...)
	two.add(acked(2)...)
	one.add(handled("d", "d#1", 2)...)
	for _, paths := range [][]string{{one.path, two.path}, {two.path, one.path}} {
		if r, err := CheckFiles(paths...); err != nil || !r.OK() || r.Handled != 2 {
			t.Errorf("%v, %v", r, err)
		}
	}
	if _, err := CheckFiles(one.path, one.path+"x"); err == nil {
		t.Error("a file that does not exist was read")
	}
}
