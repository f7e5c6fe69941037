package email

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/transport"
)

// stage is how far a message has got.
type stage uint8

const (
	stageCandidate stage = iota // offered, to be claimed if the others do not
	stageClaiming               // in a record that is being written
	stageHeld                   // this member has it; the message may have to be read again
	stageDelivered              // a seat has it
)

// outcome is what became of a message.
type outcome uint8

const (
	outcomeDone     outcome = iota + 1
	outcomeDead             // not to be handled
	outcomeReleased         // to be handled later
	outcomeUntried          // to be handled by somebody else
	outcomeGone             // not in the inbox any more
)

// item is a message that the member deals with. It is the Settler of its delivery. group.mu guards it.
type item struct {
	group   *group
	key     claim.Key
	uid     uint32
	number  uint64             // of the offer, so that the messages of one mail stay in order
	message *transport.Message // nil if it has to be read again
	stage   stage
	since   time.Time // when it was offered, or when to try again
	seat    *seat
	attempt int
	taken   atomic.Bool // another member has got it; written with group.mu held

	outcome outcome
	delay   time.Duration
	until   time.Time // the end of the delay
	reason  string
	settled chan struct{} // closed when the outcome is on record, or can't be
	err     error
}

var _ transport.LeasedSettler = (*item)(nil)

var errTaken = errors.New("email: another member of the group has taken the message over, because the lease had ended")

// Ack implements transport.Settler.
func (it *item) Ack() error {
	if !it.settle(outcomeDone, 0, "") && it.outcome != outcomeDone {
		return nil // an earlier call has decided otherwise
	}
	<-it.settled
	return it.err
}

// Nack implements transport.Settler.
func (it *item) Nack(delay time.Duration, reason string) {
	switch {
	case delay < 0:
		it.settle(outcomeUntried, 0, reason)
	case it.attempt >= it.seat.most:
		it.settle(outcomeDead, 0, reason)
	default:
		it.settle(outcomeReleased, delay, reason)
	}
}

// Term implements transport.Settler.
func (it *item) Term(reason string) { it.settle(outcomeDead, 0, reason) }

// Lost implements transport.LeasedSettler.
func (it *item) Lost() bool { return it.taken.Load() || !it.group.holds() }

// settle notes what became of a message that was delivered. It returns false if that has been said before.
func (it *item) settle(v outcome, delay time.Duration, reason string) bool {
	g := it.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if it.outcome != 0 {
		return false
	}
	it.decide(v, delay, reason)
	signal(g.wake)
	return true
}

// decide queues the outcome for the next record. g.mu is held.
func (it *item) decide(v outcome, delay time.Duration, reason string) {
	g := it.group
	it.outcome, it.delay, it.until, it.reason = v, delay, time.Now().Add(delay), reason
	if it.seat != nil {
		it.seat.busy--
	}
	switch {
	case it.taken.Load():
		g.finish(it, errTaken)
	case g.over:
		g.finish(it, errGroupClosed)
	default:
		g.queue = append(g.queue, it)
	}
}

var errGroupClosed = fmt.Errorf("email carrier is %w: it is not on record that the message has been handled", transport.ErrClosed)

// finish is the end of an item. g.mu is held.
func (g *group) finish(it *item, err error) {
	if g.items[it.key] == it {
		delete(g.items, it.key)
	}
	it.err = err
	it.message = nil
	close(it.settled)
}

// deliver gives what the member has to its seats, as long as the lease lasts for certain.
func (g *group) deliver() {
	type delivery struct {
		seat *seat
		transport.Delivery
	}
	var deliveries []delivery
	g.mu.Lock()
	if g.holds() {
		for _, it := range g.sorted(stageHeld) {
			if it.message == nil || it.outcome != 0 {
				continue
			}
			s := g.freeSeat(g.avoid[it.key])
			if s == nil {
				break
			}
			delete(g.avoid, it.key)
			s.busy++
			it.seat, it.stage = s, stageDelivered
			deliveries = append(deliveries, delivery{s, transport.Delivery{Message: it.message, Settler: it, Attempt: it.attempt}})
			it.message = nil
		}
	}
	g.mu.Unlock()
	for _, d := range deliveries {
		d.seat.deliver(d.Delivery)
	}
}

// holds reports whether the lease lasts, so that nobody else can have got what the member
// has. It takes no lock.
func (g *group) holds() bool {
	renewed := g.renewed.Load()
	return renewed != nil && time.Since(*renewed) < g.lease
}

// freeSeat returns the seat with the most room, but not the one to be avoided if there is
// another. g.mu is held.
func (g *group) freeSeat(avoid *seat) (best *seat) {
	for _, s := range g.seats {
		switch {
		case s.busy >= s.inFlight:
		case best == nil, best == avoid, s != avoid && s.inFlight-s.busy > best.inFlight-best.busy:
			best = s
		}
	}
	return best
}
