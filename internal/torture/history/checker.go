package history

import (
	"cmp"
	"fmt"
	"time"
)

// Checker reads the events of a system in their order, and knows at any time what is
// still owed. It keeps some fifty bytes for each message and receiving end, and of the
// lines only where they are. It is for one goroutine.
type Checker struct {
	report     Report
	first      int64 // time of the first and last event
	last       int64
	publishers map[string]*publisher
	receivers  map[string]*receiver
	processes  map[string]*process
	clients    map[string]*client
	outages    []Event // Back events after which nothing new has been handled yet
	disorders  []disorder
	quiet      bool
	violations []found
}

// publisher is what is known of a publisher.
type publisher struct {
	gid, topic string
	process    *process
	messages   []message // by number, from 1
}

// message is what its publisher says of a message.
type message struct {
	published, outcome Position
	time               int64
	hash               string
	sequence           uint64
	result             Kind // "" while Publish has not returned, or never will
	known, expunged    bool
}

// process is one process, from its start to its r.
type process struct {
	name      string
	ended     bool
	killed    bool
	unsettled map[*handling]struct{} // begun in it
	begun     uint64                 // messages or calls
	opened    bool
	receivers []*receiver // that it has opened in Plain
}

// found is a violation whose lines have not been looked up yet.
type found struct {
	what  Violation
	text  string
	lines []Position
}

// NewChecker returns a checker that has read nothing yet.
func NewChecker() *Checker {
	c := &Checker{
		publishers: make(map[string]*publisher),
		receivers:  make(map[string]*receiver),
		processes:  make(map[string]*process),
		clients:    make(map[string]*client),
	}
	c.report.Faults = make(map[string]int)
	c.report.Recoveries = make(map[string]Recovery)
	c.report.Violations = make(map[Violation]int)
	return c
}

// Add reads the next event.
func (c *Checker) Add(e Event, at Position) {
	if c.first == 0 {
		c.first = e.Time
	}
	c.last = max(c.last, e.Time)
	switch e.Kind {
	case Start:
		c.report.Processes++
		c.process(e.Process)
	case Exit:
		c.ended(e)
	case Fault:
		c.report.Faults[e.Text]++
	case Out:
		c.report.Faults[e.Text]++
		c.interrupted(e.Time)
	case Back:
		c.outages = append(c.outages, e)
	case Quiet:
		c.settle()
	case Interrupted:
		c.quiet, c.report.Unawaited = true, c.Pending()
	case Publish:
		c.publish(e, at)
	case Acked, Failed, Unknown:
		c.published(e, at)
	case Expunged:
		c.expunged(e)
	case Open:
		c.open(e)
	case Take, Ack, Done, Unacked, Nack:
		c.handling(e, at)
	case Gap:
		c.gap(e)
	case Dropped:
		c.report.Dropped += int(e.Number)
	case Call, Outcome:
		c.call(e, at)
	case Run, Answer, Ran, Unran:
		c.run(e, at)
	}
}

func (c *Checker) process(name string) *process {
	p := c.processes[name]
	if p == nil {
		p = &process{name: name, unsettled: make(map[*handling]struct{})}
		c.processes[name] = p
	}
	return p
}

// ended notes that a process is gone: what it had begun may be begun again, and a plain
// subscription owes nothing any more.
func (c *Checker) ended(e Event) {
	p := c.process(e.Process)
	p.ended = true
	if e.Text == Killed {
		p.killed = true
		c.report.Kills++
	}
	for h := range p.unsettled {
		if h.state == acking {
			// Nobody can know whether Ack had got it on record.
			h.state = uncertain
			c.report.Uncertain++
		}
	}
	p.unsettled = nil
	for _, r := range p.receivers {
		r.dead = true
	}
}

func (c *Checker) publish(e Event, at Position) {
	p := c.publishers[e.Publisher]
	if p == nil {
		p = &publisher{gid: e.Publisher, topic: e.Topic, process: c.process(e.Process)}
		c.publishers[e.Publisher] = p
	}
	for uint64(len(p.messages)) < e.Number {
		p.messages = append(p.messages, message{})
	}
	m := &p.messages[e.Number-1]
	if m.known {
		c.violate(Strange, fmt.Sprintf("message %d of %s was published twice", e.Number, e.Publisher), m.published, at)
		return
	}
	*m = message{published: at, time: e.Time, hash: e.Hash, sequence: cmp.Or(e.Sequence, e.Number), known: true}
	p.process.begun++
	c.report.Published++
}

// message returns the message that an event is about, or nil.
func (c *Checker) message(e Event) (*publisher, *message) {
	p := c.publishers[e.Publisher]
	if p == nil || e.Number == 0 || e.Number > uint64(len(p.messages)) || !p.messages[e.Number-1].known {
		return p, nil
	}
	return p, &p.messages[e.Number-1]
}

func (c *Checker) published(e Event, at Position) {
	_, m := c.message(e)
	if m == nil || m.result != "" {
		c.violate(Strange, fmt.Sprintf("an outcome of message %d of %s that was not to come", e.Number, e.Publisher), at)
		return
	}
	m.result, m.outcome = e.Kind, at
	switch e.Kind {
	case Acked:
		c.report.Acked++
	case Failed:
		c.report.Failed++
	case Unknown:
		c.report.Unknown++
	}
}

func (c *Checker) expunged(e Event) {
	if _, m := c.message(e); m != nil {
		m.expunged = true
		c.report.Expunged++
	}
}

// Begun returns how many messages or calls the process of that name has begun.
func (c *Checker) Begun(process string) uint64 { return c.process(process).begun }

// Opened reports whether the process of that name has opened its receiving end.
func (c *Checker) Opened(process string) bool { return c.process(process).opened }

// recovered looks whether a handling is the first of a message published after an outage.
func (c *Checker) recovered(published, handled int64) {
	rest := c.outages[:0]
	for _, outage := range c.outages {
		if published <= outage.Time {
			rest = append(rest, outage)
			continue
		}
		r := c.report.Recoveries[outage.Text]
		took := time.Duration(handled - outage.Time)
		r.Count++
		r.Sum += took
		r.Longest = max(r.Longest, took)
		c.report.Recoveries[outage.Text] = r
	}
	c.outages = rest
}

// interrupted notes that the next outage has come before the system had recovered from the last.
func (c *Checker) interrupted(now int64) {
	for _, outage := range c.outages {
		r := c.report.Recoveries[outage.Text]
		r.Interrupted++
		r.AtLeast = max(r.AtLeast, time.Duration(now-outage.Time))
		c.report.Recoveries[outage.Text] = r
	}
	c.outages = nil
}

func (c *Checker) violate(what Violation, text string, lines ...Position) {
	c.report.Violations[what]++
	if len(c.violations) < shown {
		c.violations = append(c.violations, found{what, text, lines})
	}
}
