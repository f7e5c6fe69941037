package email

import (
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/transport"
)

// slip goes with a message through the sequencer, so that its letter is found again.
type slip struct {
	transport.Settler // never used
	letter            *letter
}

// ticket is the right to settle a delivery of a durable name.
type ticket struct {
	durable *durable
	letter  *letter
	used    bool
}

var _ transport.Settler = (*ticket)(nil)

var errPassedOn = errors.New("email: not settled in time: the message is delivered again, because the durable name was used again")

// settle uses the ticket, unless that has been done. f is called with d.mu held.
func (t *ticket) settle(f func(d *durable, l *letter)) error {
	d, l := t.durable, t.letter
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case t.used:
		return nil
	case l.ticket != t:
		return errPassedOn
	}
	t.used = true
	l.ticket = nil
	d.inFlight--
	f(d, l)
	return nil
}

// Ack implements transport.Settler. It fails when the state file can't be written to, and when the message is
// delivered again because the durable name was used again before.
func (t *ticket) Ack() error {
	first := false
	err := t.settle(func(d *durable, l *letter) {
		first = true
		d.memory.Add(l.key, sourceTime(l))
		d.remove(l)
		d.save(lazily)
	})
	if !first || err != nil {
		return err
	}
	d, l := t.durable, t.letter
	d.pump()
	return d.journal.Update(func(tx *bbolt.Tx) error {
		b, err := d.bucket(tx)
		if err != nil {
			return err
		}
		if l.dead != 0 {
			if err := b.Bucket(againBucket).Delete(letterKey(l.dead)); err != nil {
				return err
			}
		}
		d.mu.Lock()
		name, value := d.memory.Entry(l.key)
		d.mu.Unlock()
		return put(b.Bucket(memoryBucket), name, value)
	})
}

// Nack implements transport.Settler.
func (t *ticket) Nack(delay time.Duration, reason string) {
	err := t.settle(func(d *durable, l *letter) {
		most := d.interest.MaxDeliver
		if most == 0 {
			most = transport.DefaultMaxDeliver
		}
		switch {
		case delay < 0:
			l.attempt--
			if d.pumping || d.deliver == nil {
				d.delay(l, givenBackDelay)
				break
			}
			d.requeue(l)
		case l.attempt >= most:
			d.bury(l, reason)
		default:
			l.nacked = true
			d.save(soon)
			d.delay(l, delay)
		}
	})
	if err == nil {
		t.durable.pump()
	}
}

// Term implements transport.Settler.
func (t *ticket) Term(reason string) {
	err := t.settle(func(d *durable, l *letter) { d.bury(l, reason) })
	if err == nil {
		t.durable.pump()
	}
}

// requeue makes a letter ready before all others. d.mu is held, here and below.
func (d *durable) requeue(l *letter) {
	l.state = ready
	d.ready = append([]*letter{l}, d.ready...)
	d.bytes += len(l.message.Body)
}

// delay makes a letter wait before it is ready again.
func (d *durable) delay(l *letter, delay time.Duration) {
	if delay == 0 {
		d.enqueue(l)
		return
	}
	l.state = delayed
	d.delayed++
	d.kept += len(l.message.Body)
	if d.kept > delayedBytes && l.uid != 0 {
		d.kept -= len(l.message.Body)
		l.message = nil
	}
	time.AfterFunc(delay, func() { d.delayOver(l) })
}

// delayOver makes a letter ready after its delay. It is called without d.mu.
func (d *durable) delayOver(l *letter) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.delayed--
	switch {
	case l.message != nil:
		d.kept -= len(l.message.Body)
		d.enqueue(l)
	case l.uid == 0 && d.until == 0:
		d.lose(l)
	default:
		l.state = absent
		d.absent = append(d.absent, l)
		d.wantAgain()
	}
	d.mu.Unlock()
	d.pump()
}

// wantAgain makes the receiver ask for mails to be read again.
func (d *durable) wantAgain() {
	if d.feed != nil {
		d.feed.poke()
	}
}
