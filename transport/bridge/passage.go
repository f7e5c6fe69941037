package bridge

import (
	"context"
	"errors"
	"sync"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// passage is one direction of a bridge.
type passage struct {
	from, to Side
	calls    *calls
	rules    []Rule // those that have been opened, in order
}

func newPassage(from, to Side) *passage {
	return &passage{from: from, to: to, calls: newCalls(to.Node)}
}

// open sets a rule to work.
func (p *passage) open(rule Rule) (crossing, error) {
	r := &route{passage: p, rule: rule, open: make(chan struct{})}
	for _, earlier := range p.rules {
		if earlier.Kind == rule.Kind {
			r.earlier = append(r.earlier, earlier.Pattern)
		}
	}
	p.rules = append(p.rules, rule)
	if rule.Kind == transport.Request {
		return openService(r)
	}
	return openTopic(r)
}

// route is a rule in its direction, with what topics and services have in common.
type route struct {
	*passage
	rule    Rule
	earlier []string // the patterns of rules that come before
	counters
	abandon, loop, untracked sync.Once
	open                     chan struct{} // closed when the interest has been stated, and detach is set
	detach                   func()
}

// stated notes how the interest is ended.
func (r *route) stated(detach func()) {
	r.detach = detach
	close(r.open)
}

// stop ends the interest.
func (r *route) stop() {
	<-r.open
	r.detach()
}

// another reports whether a message is that of an earlier rule.
func (r *route) another(m *transport.Message) bool {
	for _, pattern := range r.earlier {
		if transport.MatchName(pattern, m.Name) {
			return true
		}
	}
	return false
}

// noteLooped counts a message that has been on the other side, and logs the first that does not come from this bridge itself.
func (r *route) noteLooped(m *transport.Message) {
	r.looped.Add(1)
	if m.From == r.from.Node.Address() {
		return
	}
	r.loop.Do(func() {
		r.from.Node.Logger().Warn("bridge: what has been on the other side does not cross; if that was another network, the two need different names",
			"rule", r.rule.String(), "other_side", r.to.Name, "way", m.Header.Get(HeaderWay), "name", m.Name, "message_id", m.ID.String())
	})
}

// noteUntracked logs that the carrier does no more for a group than to share out what comes.
func (r *route) noteUntracked(d *transport.Delivery) {
	if d.Settler != nil || r.rule.Group == "" {
		return
	}
	r.untracked.Do(func() {
		r.from.Node.Logger().Warn("bridge: the group shares its messages, and no more: those that a bridge has when it dies are lost (on NATS a stream keeps them)",
			"rule", r.rule.String(), "side", r.from.Name)
	})
}

// across returns a message as it is sent on the other side. Received messages are shared: nothing of m is changed.
func across(m *transport.Message, way []string) *transport.Message {
	return &transport.Message{
		Kind:        m.Kind,
		Name:        m.Name,
		Body:        m.Body,
		ContentType: m.ContentType,
		Filename:    m.Filename,
		Header:      withWay(m.Header, way),
		ID:          m.ID,
		Deadline:    m.Deadline,
		Info: transport.Info{
			SourceTime:   m.Info.SourceTime,
			PublisherGID: m.Info.PublisherGID,
			Sequence:     m.Info.Sequence,
		},
	}
}

// send sends a message made by next, which is called for each attempt, and waits while the next hop can't take it or an outbox
// is full.
func send(ctx context.Context, node *transport.Node, next func() *transport.Message) error {
	for failed := 1; ; failed++ {
		err := node.Send(ctx, next())
		if !errors.Is(err, transport.ErrFull) {
			return err
		}
		if !backoff.Sleep(ctx, backoff.Delay(failed)) {
			return err
		}
	}
}

// ack settles a delivery that is done with.
func (r *route) ack(d transport.Delivery) {
	if err := d.Ack(); err != nil {
		r.from.Node.Logger().Warn("bridge: a message can't be put on record as forwarded, it may come again",
			"side", r.from.Name, "name", d.Message.Name, "message_id", d.Message.ID.String(), "error", err)
	}
}

// giveBack has a delivery come again to whoever goes on, or loses it if it is not tracked.
func (r *route) giveBack(d transport.Delivery) {
	if d.Settler == nil {
		r.dropped.Add(1)
		return
	}
	d.Nack(-1, "the bridge was closed before the message had crossed")
}

// otherSideClosed ends the rule, because nothing can cross any more: the node of the other side has been closed.
func (r *route) otherSideClosed() {
	r.abandon.Do(func() {
		r.from.Node.Logger().Error("bridge: a rule has ended: the node of the other side is closed",
			"rule", r.rule.String(), "side", r.to.Name)
		r.stop()
	})
}

func (r *route) stats() Stats {
	return Stats{
		Rule:      r.rule,
		Forwarded: r.forwarded.Load(),
		Answered:  r.answered.Load(),
		Looped:    r.looped.Load(),
		Repeated:  r.repeated.Load(),
		Expired:   r.expired.Load(),
		Failed:    r.failed.Load(),
		Dropped:   r.dropped.Load(),
	}
}
