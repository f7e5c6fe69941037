package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/postbus/postbus/transport"
)

// Side is one side of a bridge.
type Side struct {
	// Name is that of the network that the node is in, such as "mail" or "factory": 1 to MaxSideName of A-Z a-z
	// 0-9 _ - and dots. All bridges to a network call it by the same name, also after a restart: by it
	// a message is known that has been there.
	Name string
	// Node is the bridge's own on that side. It goes on to belong to the caller.
	Node *transport.Node
}

// Bridge joins two sides. Make one with New and Close it when done, before its nodes.
type Bridge struct {
	crossings []crossing
}

// crossing is a rule in one direction, at work.
type crossing interface {
	// stop ends the interest.
	stop()
	// Drain is that of a transport.Sink: it has what has arrived worked off.
	Drain(context.Context) error
	stats() Stats
}

// Stats counts what has become of a rule in one direction, since New.
type Stats struct {
	// Rule is the rule, with Forth or Back.
	Rule Rule
	// Forwarded are the messages and requests that the other side has taken.
	Forwarded uint64
	// Answered are the requests that were answered, by the other side or with an error by the bridge.
	Answered uint64
	// Looped are those that did not cross because they have been on the other side, or their way is too long.
	Looped uint64
	// Repeated are those that did not cross because they have crossed.
	Repeated uint64
	// Expired are those whose deadline had passed when their turn came.
	Expired uint64
	// Failed are those that the other side has refused for good, and requests that it did not answer.
	Failed uint64
	// Dropped are those that were lost for want of room, or given up by Close.
	Dropped uint64
	// Waiting is how many have arrived, and are not forwarded, or not answered, yet.
	Waiting int
}

// counters are the numbers of Stats.
type counters struct {
	forwarded, answered, looped, repeated, expired, failed, dropped atomic.Uint64
}

// New joins two sides by rules, and begins to forward. Errors: those of Rule.Validate and transport.Node.Receive; one that wraps
// transport.ErrNotSupported if a carrier can't do what a rule asks for; and that a side has no valid name
// or node, or that both have the same. What is stated before an error is ended again.
func New(from, to Side, rules ...Rule) (*Bridge, error) {
	if err := checkSides(from, to); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	if len(rules) == 0 {
		return nil, errors.New("bridge: there is no rule, so nothing would cross")
	}
	for _, rule := range rules {
		if err := rule.Validate(); err != nil {
			return nil, fmt.Errorf("bridge: %w", err)
		}
	}
	b := new(Bridge)
	forth, back := newPassage(from, to), newPassage(to, from)
	for _, rule := range rules {
		for _, way := range []struct {
			direction Direction
			passage   *passage
		}{{Forth, forth}, {Back, back}} {
			if rule.Direction&way.direction == 0 {
				continue
			}
			one := rule
			one.Direction = way.direction
			crossing, err := way.passage.open(one)
			if err != nil {
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				_ = b.Close(ended) // the first error counts
				return nil, fmt.Errorf("bridge: rule %q from %s: %w", rule, way.passage.from.Name, err)
			}
			b.crossings = append(b.crossings, crossing)
		}
	}
	return b, nil
}

func checkSides(from, to Side) error {
	for _, s := range []Side{from, to} {
		if !ValidSideName(s.Name) {
			return fmt.Errorf("%.80q is no name of a side: 1 to %d of A-Z a-z 0-9 _ - . are allowed", s.Name, MaxSideName)
		}
		if s.Node == nil {
			return fmt.Errorf("side %s has no node", s.Name)
		}
	}
	if from.Name == to.Name || from.Node == to.Node {
		return fmt.Errorf("both sides are %s: a bridge joins two networks, with a node and a name for each", from.Name)
	}
	return nil
}

// Stats returns what has become of each rule, in the order of New; one in both directions is there twice.
func (b *Bridge) Stats() []Stats {
	all := make([]Stats, len(b.crossings))
	for i, c := range b.crossings {
		all[i] = c.stats()
	}
	return all
}

// Close ends the bridge: nothing more arrives, and what has arrived is forwarded, and answered, until ctx ends. What
// is left then comes again if its rule has a durable name or a group, and is lost and counted if not. It returns when
// nothing is under way any more, with an error that wraps ctx.Err() if something was given up.
// A second Close waits for the same. The nodes stay open; their own Close ends a bridge, too.
func (b *Bridge) Close(ctx context.Context) error {
	for _, c := range b.crossings {
		c.stop()
	}
	errs := make(chan error, len(b.crossings))
	for _, c := range b.crossings {
		go func() {
			err := c.Drain(ctx)
			if err != nil {
				_ = c.Drain(context.Background()) // what was given up has ended soon
			}
			errs <- err
		}()
	}
	var err error
	for range b.crossings {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return fmt.Errorf("close bridge: %w", err)
	}
	return nil
}
