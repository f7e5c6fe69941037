package bridge

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/postbus/postbus/transport"
)

// maxHeld is how many repetitions of one request wait for its answer.
const maxHeld = 16

// caller says whose call a request is, and which.
type caller struct {
	client transport.GID
	number uint64
}

// calls are the requests that have been sent by a node and wait for their answers.
type calls struct {
	node *transport.Node

	// stating is held while an interest in the answers to a client is stated or ended. It is not wanted by whoever
	// delivers.
	stating sync.Mutex

	mu      sync.Mutex
	clients map[transport.GID]*client
}

// client is one whose calls wait for answers: the sink of the interest in them.
type client struct {
	calls *calls
	gid   transport.GID
	stop  func()
	open  map[uint64]*call
	over  bool // its node is being closed
}

// call waits for the answer to one request.
type call struct {
	caller
	client *client
	from   string // the sender of the request
	// decided is called when there is an answer, or will be none.
	decided func()
	answer  *transport.Message
	// held are repetitions of the request, which wait for the same answer.
	held []transport.Delivery
}

func newCalls(node *transport.Node) *calls {
	return &calls{node: node, clients: make(map[transport.GID]*client)}
}

// repetition says what has become of a request that is under way already.
type repetition uint8

const (
	isNone repetition = iota // it is not
	isHeld
	isTooMany
)

// begin makes a call of the service name wait for its answer. If it is under way already, the delivery d of its request is held
// until that has ended. For decided see call.
func (c *calls) begin(key caller, name string, d transport.Delivery, decided func()) (*call, repetition, error) {
	c.stating.Lock()
	defer c.stating.Unlock()
	of, again := c.find(key, d)
	if again != isNone {
		return nil, again, nil
	}
	if of == nil {
		of = &client{calls: c, gid: key.client, open: make(map[uint64]*call)}
		interest := transport.Interest{Kind: transport.Response, Name: name, Client: key.client}
		var err error
		if of.stop, err = c.node.Receive(interest, of); err != nil {
			return nil, isNone, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if of.over {
		return nil, isNone, fmt.Errorf("node is %w", transport.ErrClosed)
	}
	c.clients[key.client] = of
	begun := &call{caller: key, client: of, from: d.Message.From, decided: decided}
	of.open[key.number] = begun
	return begun, isNone, nil
}

// find returns the client, if it has calls under way, and holds the delivery if this is one of them.
func (c *calls) find(key caller, d transport.Delivery) (*client, repetition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.clients[key.client]
	if of == nil {
		return nil, isNone
	}
	begun := of.open[key.number]
	switch {
	case begun == nil:
		return of, isNone
	case d.Settler == nil && begun.answers(d.Message.From):
		return of, isHeld
	case len(begun.held) == maxHeld:
		return of, isTooMany
	}
	begun.held = append(begun.held, d)
	return of, isHeld
}

// answers reports whether a sender gets the answer already: that of the request, or of one that is held. mu is held.
func (c *call) answers(from string) bool {
	return c.from == from || slices.ContainsFunc(c.held, func(d transport.Delivery) bool { return d.Message.From == from })
}

// end makes a call wait no longer. It returns the answer, if one has come, and the repetitions.
func (c *calls) end(ended *call) (answer *transport.Message, held []transport.Delivery) {
	c.stating.Lock()
	defer c.stating.Unlock()
	of := ended.client
	c.mu.Lock()
	delete(of.open, ended.number)
	last := len(of.open) == 0
	if last {
		delete(c.clients, of.gid)
	}
	answer, held = ended.answer, ended.held
	c.mu.Unlock()
	if last {
		of.stop()
	}
	return answer, held
}

// Deliver implements transport.Sink.
func (of *client) Deliver(d transport.Delivery) {
	_, number, _ := d.Message.Caller()
	of.calls.mu.Lock()
	waiting := of.open[number]
	ok := waiting != nil && waiting.answer == nil
	if ok {
		waiting.answer = d.Message
		waiting.decided()
	}
	of.calls.mu.Unlock()
	if ok {
		d.Ack()
	} else {
		d.Term("no call waits for this answer")
	}
}

// Drain implements transport.Sink. When the node is being closed no answer comes any more.
func (of *client) Drain(context.Context) error {
	of.calls.mu.Lock()
	defer of.calls.mu.Unlock()
	of.over = true
	for _, waiting := range of.open {
		waiting.decided()
	}
	return nil
}
