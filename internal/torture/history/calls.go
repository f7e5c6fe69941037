package history

import "fmt"

// client is what is known of the calls of a client.
type client struct {
	process *process
	calls   map[uint64]*call
}

type call struct {
	begun, outcome Position
	hash           string
	result         string // "" until there is an outcome
	runs           int
}

// call reads what a client says about a call.
func (c *Checker) call(e Event, at Position) {
	if e.Kind == Call {
		cl := c.clients[e.Publisher]
		if cl == nil {
			cl = &client{process: c.process(e.Process), calls: make(map[uint64]*call)}
			c.clients[e.Publisher] = cl
		}
		cl.calls[e.Number] = &call{begun: at, hash: e.Hash}
		cl.process.begun++
		c.report.Calls++
		return
	}
	called := c.find(e)
	if called == nil {
		c.violate(Strange, fmt.Sprintf("an outcome of call %d of %s, which was never made", e.Number, e.Publisher), at)
		return
	}
	if called.result != "" {
		c.violate(Outcomes, fmt.Sprintf("call %d of %s has a second outcome", e.Number, e.Publisher), called.begun, called.outcome, at)
		return
	}
	called.result, called.outcome = e.Text, at
	switch e.Text {
	case Answered:
		c.report.Answered++
		if called.runs == 0 {
			c.violate(Outcomes, fmt.Sprintf("call %d of %s was answered, and no handler has run", e.Number, e.Publisher), called.begun, at)
		}
	case Wrong:
		c.violate(Outcomes, fmt.Sprintf("call %d of %s got the answer to another", e.Number, e.Publisher), called.begun, at)
	case Timeout:
		c.report.Timeouts++
	default:
		c.report.FailedCalls++
	}
}

func (c *Checker) find(e Event) *call {
	if cl := c.clients[e.Publisher]; cl != nil {
		return cl.calls[e.Number]
	}
	return nil
}

// run reads what a server says about a request. The handler of a request runs once,
// with the same exceptions as for messages.
func (c *Checker) run(e Event, at Position) {
	r, called := c.receivers[e.Receiver], c.find(e)
	if r == nil || called == nil {
		c.violate(Strange, fmt.Sprintf("%s got request %d of %s, which was never made", e.Receiver, e.Number, e.Publisher), at)
		return
	}
	of := r.runs[e.Publisher]
	if of == nil {
		of = make(map[uint64]*handling)
		r.runs[e.Publisher] = of
	}
	h := of[e.Number]
	if e.Kind != Run {
		if h != nil {
			c.step(e, at, h)
		}
		return
	}
	if e.Hash != called.hash {
		c.violate(Corrupted, fmt.Sprintf("%s got request %d of %s with another body", e.Receiver, e.Number, e.Publisher), called.begun, at)
	}
	again := h != nil
	if !again {
		h = new(handling)
		of[e.Number] = h
		c.report.Runs++
	}
	called.runs++
	c.begin(e, at, r, h, fmt.Sprintf("request %d of %s", e.Number, e.Publisher), again)
}

// unanswered returns how many calls of processes that live, or have ended in order, have
// no outcome, and tells about each.
func (c *Checker) unanswered(tell func(gid string, n uint64, called *call)) int {
	n := 0
	for gid, cl := range c.clients {
		if cl.process.killed {
			continue
		}
		for number, called := range cl.calls {
			if called.result == "" {
				n++
				tell(gid, number, called)
			}
		}
	}
	return n
}
