package email

import (
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

const (
	// clockSkew is by how much the clocks of mail servers and of this machine may differ, where
	// their times are compared.
	clockSkew = 2 * time.Minute
	// farBack is how much older than an interest a message of an unknown publisher may say that
	// it is, in an inbox that has been renumbered, before it counts as older than the
	// interest. Clocks of publishers are worse than those of servers, but a server that restores a mailbox may
	// take all mails for new.
	farBack = time.Hour
)

// live is an interest that remembers nothing beyond its life. What it gets passes a
// Sequencer if it is one in topic messages.
type live struct {
	receiver  *receiver
	deliver   func(transport.Delivery)
	began     time.Time
	stopped   atomic.Bool
	sequencer *order.Sequencer // or nil

	// handled is what has been delivered. It belongs to the sequencer or, without one, to the receiver's loop.
	handled order.Memory
}

// newLive makes an interest that remembers nothing; nothing is offered to it yet.
func (r *receiver) newLive(interest transport.Interest, deliver func(transport.Delivery)) *live {
	l := &live{receiver: r, deliver: deliver, began: time.Now()}
	r.lives.Store(l, nil)
	if interest.Kind == transport.TopicMessage {
		l.sequencer = order.NewSequencer(order.Options{Wait: interest.GapWait, Deliver: deliver, Gap: interest.Gap, Handled: &l.handled})
	}
	return l
}

// receive states an interest that has no place of its own in the inbox, unless it begins with
// the last messages.
func (r *receiver) receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func()) {
	l := r.newLive(interest, deliver)
	if interest.Last > 0 {
		return r.receiveLast(interest, l)
	}
	remove := r.dispatcher.Add(interest, func(d transport.Delivery) { l.take(d.Message, r.rescan.arrived) })
	r.expect()
	return func() {
		remove()
		l.stop()
	}
}

// stop ends the interest. It may be called more than once.
func (l *live) stop() {
	l.stopped.Store(true)
	l.receiver.lives.Delete(l)
	if l.sequencer != nil {
		l.sequencer.Stop()
	}
}

// take delivers a message, as far as it is for this interest. arrived is set if it was in the inbox before that was
// renumbered, or may have been.
func (l *live) take(m *transport.Message, arrived time.Time) {
	if !arrived.IsZero() && !l.missed(m, arrived) {
		return
	}
	d := transport.Delivery{Message: m}
	if l.sequencer != nil {
		l.sequencer.Offer(d)
		return
	}
	l.handled.Add(order.KeyOf(m), order.SourceTime(m))
	l.deliver(d)
}

// missed reports whether a message that is found in an inbox that has been renumbered is one that the
// interest has not had, and is for it.
func (l *live) missed(m *transport.Message, arrived time.Time) bool {
	var verdict order.Verdict
	if l.sequencer != nil {
		verdict = l.sequencer.Judge(m)
	} else {
		verdict = l.handled.Judge(m)
	}
	switch {
	case verdict == order.Handled || verdict == order.Forgotten || arrived.Before(l.began.Add(-clockSkew)):
		return false
	case verdict == order.Missing:
		return true
	}
	return !m.Info.SourceTime.Before(l.began.Add(-farBack))
}

// rescan is how the receiver gets to the mail that has arrived while it was not connected
// to an inbox that has been renumbered since: it reads all that has arrived since it was last connected, and some
// more, and passes on what has not been.
type rescan struct {
	// until is the first UID that was not there when the inbox was opened again.
	until imap.UID
	// looked is when the receiver last knew all that there was.
	looked time.Time
	// arrived is when the mail that is being delivered did, if it was there.
	arrived time.Time
}

// over reports whether all has been read.
func (s *rescan) over(next imap.UID) bool { return next >= s.until }
