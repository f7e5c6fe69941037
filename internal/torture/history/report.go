package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Violation is a kind of broken promise.
type Violation string

// The promises that can be broken.
const (
	// Lost: a message was acked, and an end that owes it has not handled it.
	Lost Violation = "lost"
	// Duplicated: a message was handled, or a request answered, and begun again.
	Duplicated Violation = "duplicated"
	// OutOfOrder: a message came after a later one of its publisher, and nobody had been told.
	OutOfOrder Violation = "out of order"
	// Corrupted: a body is not what was sent.
	Corrupted Violation = "corrupted"
	// Strange: something was handled that nobody has sent.
	Strange Violation = "never sent"
	// Unsaid: a message came whose publisher was told that it was not sent.
	Unsaid Violation = "failed but handled"
	// Outcomes: a call with no outcome, two, or a wrong one.
	Outcomes Violation = "outcome of a call"
)

var violations = []Violation{Lost, Duplicated, OutOfOrder, Corrupted, Strange, Unsaid, Outcomes}

// shown is how many violations a report shows with their lines.
const shown = 10

// Report is what a history says. Handled, Again and what follows count per receiving end.
type Report struct {
	Processes, Kills int
	Faults           map[string]int // by kind
	Recoveries       map[string]Recovery
	Duration         time.Duration

	Published, Acked, Failed, Unknown int
	Expunged                          int

	Handled   int
	Again     int // begun again, as it may be after a kill, a Nack or the end of a lease
	Uncertain int // being put on record when the process was killed or the server out of reach
	Gaps      int
	Late      int // handled after having been reported missing
	Dropped   int // by queues that were full
	Owed      int // not handled when the history ended; those of Lost
	Unawaited int // messages and calls that were owed when the run was interrupted, and are not judged

	Calls, Answered, Timeouts, FailedCalls int
	Runs                                   int // requests that a handler has run for

	Violations map[Violation]int
	Shown      []string // the first violations, with their lines
	Torn       int      // lines that could not be read
}

// Recovery says how long it took, after an outage, until a message was handled that had
// been published after it.
type Recovery struct {
	Count        int
	Sum, Longest time.Duration
	// Interrupted recoveries had taken up to AtLeast when the next outage came.
	Interrupted int
	AtLeast     time.Duration
}

// OK reports whether no promise was broken.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

// Progress says in a line how far the history is.
func (c *Checker) Progress() string {
	r := &c.report
	total := 0
	for _, n := range r.Faults {
		total += n
	}
	return fmt.Sprintf("%v: %d published, %d acked, %d handled, %d begun again, %d calls, %d faults, %d kills",
		time.Duration(c.last-c.first).Round(time.Second), r.Published, r.Acked, r.Handled, r.Again, r.Calls, total, r.Kills)
}

// Pending returns how many handlings of acked messages and outcomes of calls are owed
// now. It looks at every message.
func (c *Checker) Pending() int {
	n := c.unanswered(func(string, uint64, *call) {})
	c.owed(func(*receiver, *publisher, int) { n++ })
	return n
}

// owed calls tell for every message that a receiving end owes, with its index.
func (c *Checker) owed(tell func(*receiver, *publisher, int)) {
	for _, r := range c.receivers {
		for _, p := range c.publishers {
			if p.topic != r.topic {
				continue
			}
			for i := range p.messages {
				if r.owes(p, &p.messages[i]) && !r.handled(p.gid, i) {
					tell(r, p, i)
				}
			}
		}
	}
}

// settle takes what is owed now for lost.
func (c *Checker) settle() {
	if c.quiet {
		return
	}
	c.quiet = true
	c.owed(func(r *receiver, p *publisher, i int) {
		c.report.Owed++
		lines := []Position{p.messages[i].published, p.messages[i].outcome}
		if s := r.seen[p.gid]; s != nil && i < len(s.handlings) && s.handlings[i] != nil {
			lines = append(lines, s.handlings[i].take)
		}
		c.violate(Lost, fmt.Sprintf("%s has not handled message %d of %s", r.name, i+1, p.gid), lines...)
	})
	c.unanswered(func(gid string, n uint64, called *call) {
		c.violate(Outcomes, fmt.Sprintf("call %d of %s has no outcome", n, gid), called.begun)
	})
}

// Report returns what the events say so far; what is owed counts as lost. The events go
// on to be read afterwards only if Quiet or Interrupted has been among them. line looks up a line.
func (c *Checker) Report(line func(Position) string) *Report {
	c.settle()
	c.judge()
	r := c.report
	r.Duration = time.Duration(c.last - c.first)
	for _, v := range c.violations {
		text := fmt.Sprintf("%s: %s", v.what, v.text)
		for _, at := range v.lines {
			if at == (Position{}) {
				continue // not known; a history begins with an empty line
			}
			text += "\n    " + line(at)
		}
		r.Shown = append(r.Shown, text)
	}
	return &r
}

// String returns the report as text of many lines.
func (r *Report) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-18s "+format+"\n", append([]any{name}, args...)...)
	}
	row("time", "%v, %d processes, %d of them killed", r.Duration.Round(time.Millisecond), r.Processes, r.Kills)
	row("faults", "%s", counts(r.Faults))
	row("messages", "%d published: %d acked, %d failed, %d unknown, %d interrupted; %d expunged",
		r.Published, r.Acked, r.Failed, r.Unknown, r.Published-r.Acked-r.Failed-r.Unknown, r.Expunged)
	row("handled", "%d; %d begun again, %d uncertain, %d gaps reported, %d late, %d dropped", r.Handled, r.Again, r.Uncertain, r.Gaps, r.Late, r.Dropped)
	if r.Calls > 0 {
		row("calls", "%d: %d answered, %d timed out, %d failed; handlers ran for %d", r.Calls, r.Answered, r.Timeouts, r.FailedCalls, r.Runs)
	}
	for _, name := range sorted(r.Recoveries) {
		v := r.Recoveries[name]
		text := fmt.Sprintf("%s: %d times, mean %v, longest %v", name, v.Count, (v.Sum / time.Duration(max(v.Count, 1))).Round(time.Millisecond), v.Longest.Round(time.Millisecond))
		if v.Interrupted > 0 {
			text += fmt.Sprintf("; %d cut short by the next outage, after up to %v", v.Interrupted, v.AtLeast.Round(time.Millisecond))
		}
		row("recovery", "%s", text)
	}
	if r.Unawaited > 0 {
		row("interrupted", "%d messages and calls were not waited for", r.Unawaited)
	}
	if r.Torn > 0 {
		row("torn lines", "%d", r.Torn)
	}
	for _, v := range violations {
		if r.Violations[v] > 0 || v == Lost || v == Duplicated || v == OutOfOrder {
			row(string(v), "%d", r.Violations[v])
		}
	}
	for _, text := range r.Shown {
		fmt.Fprintf(&b, "\n%s\n", text)
	}
	return b.String()
}

func counts(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	total, text := 0, ""
	for _, name := range sorted(m) {
		total += m[name]
		text += fmt.Sprintf(", %d %s", m[name], name)
	}
	return fmt.Sprintf("%d: %s", total, text[2:])
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
