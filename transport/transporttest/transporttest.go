// Package transporttest is the conformance suite of carriers. It checks what package
// transport demands of a [transport.Carrier] and what a [transport.Node] promises over
// it, the way net/http's httptest or testing/fstest serve their interfaces.
//
// A carrier's own test calls it once:
//
//	func TestConformance(t *testing.T) {
//		transporttest.Run(t, transporttest.Harness{
//			Open:     func(t testing.TB) transport.Carrier { ... },
//			Features: transporttest.Features{Ordered: true},
//		})
//	}
//
// The suite waits for events, never for time to pass, save where it has to see that
// something does not happen. Nothing in it depends on how fast a carrier is.
package transporttest

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/transport"
)

// DefaultTimeout is how long the suite waits for one event before it gives up, unless
// the harness says otherwise.
const DefaultTimeout = 30 * time.Second

// MaxParticipants is the most participants that one test of the suite opens.
const MaxParticipants = 3

// Harness tells the suite how to get at the carrier under test.
type Harness struct {
	// Open returns a further participant, which the suite closes. All participants
	// opened with the same t see each other's topic messages and requests, and their
	// own; those of different t share nothing. There are at most MaxParticipants for
	// one t. What Open starts besides, it ends in t.Cleanup: after that no goroutine
	// may be left that was not there before. It fails the test if it can't open one.
	Open func(t testing.TB) transport.Carrier
	// Reopen returns a participant that takes the place of one that Open, or Reopen, has returned for the same
	// t and that has been closed: what the carrier keeps for the participant (a mailbox, a file) is given to it
	// again. Nil means Open. It is needed with Features.Durable, and does not count for MaxParticipants.
	Reopen func(t testing.TB, closed transport.Carrier) transport.Carrier
	// Features says which parts of the suite apply.
	Features Features
	// Leftover names functions of libraries, at the top of goroutines that the carrier can't keep from being left
	// behind. It is better empty.
	Leftover []string
	// Timeout is how long the suite waits for one event; zero means DefaultTimeout.
	// It is spent in full only when a test fails.
	Timeout time.Duration
}

// Features are what only some carriers can do. The zero value is a carrier that does
// what every carrier must.
type Features struct {
	// NoResponder: when no participant serves a service, Send of a request fails with transport.ErrNoResponder, or
	// its client soon gets an Undeliverable that says so.
	NoResponder bool
	// ListenersRespond: for NoResponder, who has an interest in the topic messages of a name counts as one who
	// serves it.
	ListenersRespond bool
	// Ordered: each interest gets the messages of one publisher in the order in
	// which they were sent.
	Ordered bool
	// Durable: interests can be durable.
	Durable bool
	// Group: interests of all participants opened with the same t can share a group.
	Group bool
	// Shares: they can, but without Group's guarantees: each message goes to one of them and is not tracked,
	// so nothing is delivered again.
	Shares bool
	// OwnGroups: interests of one participant can share a group, those of several can't.
	OwnGroups bool
	// Last: the newest messages from before an interest can be asked for.
	Last bool
	// Deduplicates: an interest in topic messages that is neither durable nor in a group, too, gets a message
	// once that is sent twice. Durable interests and groups always do.
	Deduplicates bool
	// MaxBody is the carrier's own limit for bodies, in bytes: larger ones fail with
	// transport.ErrTooLarge. Zero means that it has none below transport.DefaultMaxBody.
	MaxBody int
}

// testCase is one test of the suite. Tests are functions of a testing.TB so that the
// suite's own tests can watch them fail.
type testCase struct {
	name  string
	needs func(Features) bool // nil if every carrier must pass
	run   func(*env)
}

func allCases() []testCase {
	var all []testCase
	for _, group := range [][]testCase{topicCases, serviceCases, lifecycleCases, loadCases, durableCases, settleCases, groupCases, lastCases} {
		all = append(all, group...)
	}
	return all
}

// Run runs the suite, each test as a subtest of t. It must not run at the same time as
// other tests, whose goroutines it would take for leaks: t must not be parallel.
func Run(t *testing.T, h Harness) {
	for _, c := range allCases() {
		t.Run(c.name, func(t *testing.T) { c.runWith(t, h) })
	}
}

// runWith runs the test, and when all that it opened is closed looks for leaks.
func (c testCase) runWith(t testing.TB, h Harness) {
	if c.needs != nil && !c.needs(h.Features) {
		t.Skip("not a feature of this carrier")
	}
	if h.Timeout == 0 {
		h.Timeout = DefaultTimeout
	}
	allowed := []goleak.Option{goleak.IgnoreCurrent()}
	for _, function := range h.Leftover {
		allowed = append(allowed, goleak.IgnoreAnyFunction(function))
	}
	t.Cleanup(func() {
		if t.Failed() {
			return // a test that gave up may well leave something behind
		}
		if err := goleak.Find(allowed...); err != nil {
			t.Errorf("after Close: %v", err)
		}
	})
	c.run(&env{TB: t, Harness: h})
}

// env is what a test of the suite works with.
type env struct {
	testing.TB
	Harness
}

// context returns a context for one step of the test.
func (e *env) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), e.Timeout)
	e.Cleanup(cancel)
	return ctx
}

// openCarrier opens a participant without a node. It is closed with the test.
func (e *env) openCarrier() transport.Carrier {
	e.Helper()
	c := e.Open(e.TB)
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.Timeout)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			e.Errorf("close carrier: %v", err)
		}
	})
	return c
}

// open opens a participant. It is closed with the test.
func (e *env) open() *participant {
	e.Helper()
	return e.participant(e.Open(e.TB))
}

// reopen closes a participant and opens another in its place.
func (e *env) reopen(p *participant) *participant {
	e.Helper()
	p.close()
	if e.Reopen == nil {
		return e.open()
	}
	return e.participant(e.Reopen(e.TB, p.node.Carrier()))
}

func (e *env) participant(c transport.Carrier) *participant {
	e.Helper()
	node, err := transport.NewNode(c, nil)
	if err != nil {
		e.Fatalf("new node: %v", err)
	}
	p := &participant{e, node}
	e.Cleanup(func() { p.close() })
	return p
}

// participant is a node of the carrier under test.
type participant struct {
	*env
	node *transport.Node
}

func (p *participant) close() {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), p.Timeout)
	defer cancel()
	if err := p.node.Close(ctx); err != nil {
		p.Errorf("close: %v", err)
	}
}

// receive states an interest, whose messages go to the inbox returned.
func (p *participant) receive(interest transport.Interest) *inbox {
	p.Helper()
	box := newInbox(p.env)
	stop, err := p.node.Receive(interest, box)
	if err != nil {
		p.Fatalf("receive %+v: %v", interest, err)
	}
	box.stop = stop
	return box
}

func (p *participant) topic(pattern string) *inbox {
	p.Helper()
	return p.receive(transport.Interest{Kind: transport.TopicMessage, Name: pattern})
}

func (p *participant) service(pattern string) *inbox {
	p.Helper()
	return p.receive(transport.Interest{Kind: transport.Request, Name: pattern})
}
