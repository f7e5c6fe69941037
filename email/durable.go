package email

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// The bounds of what a durable name keeps in memory besides the messages that are being
// handled and those that a Sequencer holds back. What is beyond stays in the mailbox.
const (
	readyMessages = 256
	readyBytes    = 16 << 20
	// delayedMessages is how many wait to be delivered again after a delay, before nothing
	// new is taken. delayedBytes is how much of them is kept; the others are read again.
	delayedMessages = transport.MaxInFlight
	delayedBytes    = 16 << 20
)

// givenBackDelay is how long a message waits that its reader has given back at once.
const givenBackDelay = 100 * time.Millisecond

// durable is what a durable name stands for: a place in the inbox, kept in the state file. It outlives
// the interests that are stated with the name, which come one after the other.
//
// It is a consumer while there is one. A message that is offered becomes a letter; a letter
// is open until it is settled: held back by the sequencer, ready to be delivered, delivered, or
// delayed before it is delivered again. After a restart open letters are read again from the mailbox.
//
// What has been settled is in the memory, and on record when Ack returns. The place is written
// down from time to time: all that is below it is settled or open, so that only what is behind the last
// place on record is read again in vain.
type durable struct {
	name     string
	receiver *receiver
	logger   *slog.Logger
	journal  *journal.Journal

	mu      sync.Mutex
	place   place // without open
	memory  *order.Memory
	letters map[order.Key]*letter // those that are open
	// absent are the letters whose messages are to be read again, in the order of delivery.
	absent []*letter
	ready  []*letter
	bytes  int // of the messages that are ready
	// inFlight, delayed and kept are how many are delivered, how many delayed, and the bytes of those that are kept.
	inFlight, delayed, kept int

	interest  transport.Interest
	sequencer *order.Sequencer // nil if nobody has stated the interest yet, or for requests
	deliver   func(transport.Delivery)
	feed      *feed // nil while nobody has the interest
	refused   bool  // an offer was refused
	pumping   bool  // a goroutine is delivering, and will see what has changed
	quiet     sync.Cond
	delivered uint64
	// until is set while the inbox is read again because it has been renumbered: the first UID that
	// was not there. looked is what place.current was.
	until  imap.UID
	looked time.Time
	closed bool
	saving saving
}

// letter is a message that has not been settled.
type letter struct {
	uid     imap.UID // zero if it is not known where it is
	key     order.Key
	message *transport.Message // nil if it is to be read again
	state   letterState
	attempt int
	nacked  bool
	arrived time.Time
	number  uint64    // of the delivery, so that they come in the same order again
	since   time.Time // when it was delivered
	saved   int       // attempt on record
	ticket  *ticket   // that can settle it, while it is delivered
	dead    uint64    // its number, if it is a dead letter that is delivered once more
	// repeated says that it is a request that has been handled. Then it is not open.
	repeated bool
}

type letterState uint8

const (
	absent  letterState = iota // its message is to be read again
	held                       // by the sequencer
	ready                      // to be delivered
	handed                     // delivered
	delayed                    // to be delivered again later
)

// keyOf is order.KeyOf, with a key for every message.
func keyOf(m *transport.Message, validity uint32, uid imap.UID) order.Key {
	if k := order.KeyOf(m); !k.IsZero() {
		return k
	}
	return order.Key{ID: transport.ParseID(fmt.Sprintf("uid.%d.%d", validity, uid))}
}

// begin implements consumer.
func (d *durable) begin(validity uint32, next imap.UID) (from imap.UID, since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.place.validity == validity && d.place.read <= next && d.until == 0 { // else it has not been read again to the end
		return d.place.read, time.Time{}
	}
	if d.place.validity != 0 { // else it begins now, with what has come since the name was first used
		d.logger.Warn("email: the server has renumbered the inbox; a durable name looks for what it has not handled", "mailbox", d.receiver.address, "durable", d.name)
	}
	// Nobody knows where the letters are now. Those that are read again are found by their keys.
	since = d.place.current
	d.looked = since
	for _, l := range d.letters {
		l.uid = 0
		if l.arrived.Before(since) {
			since = l.arrived
		}
	}
	d.place.validity, d.place.read, d.until = validity, 1, next
	d.save(lazily)
	return 1, since.Add(-aDay)
}

// offer implements consumer.
func (d *durable) offer(uid imap.UID, m *transport.Message, arrived time.Time) bool {
	d.mu.Lock()
	l, taken := d.accept(uid, m, arrived)
	if l == nil {
		d.refused = d.refused || !taken
		d.mu.Unlock()
		return taken
	}
	s := d.sequencer
	if s == nil || l.nacked || l.repeated {
		d.enqueue(l)
		d.mu.Unlock()
		d.pump()
		return true
	}
	l.state = held
	d.mu.Unlock()
	if !s.Offer(transport.Delivery{Message: m, Settler: slip{letter: l}}) {
		d.release(l) // it is not to be handled twice, nor to be lost
	}
	return true
}

// accept decides about a message that is offered. It returns the letter to go on with, or nil and
// whether there is nothing more to do about the message. d.mu is held, here and below where nothing
// else is said.
func (d *durable) accept(uid imap.UID, m *transport.Message, arrived time.Time) (l *letter, taken bool) {
	key := keyOf(m, d.place.validity, uid)
	if l = d.letters[key]; l != nil && l.uid == 0 && l.dead == 0 {
		l.uid = uid // found again
	}
	switch {
	case l != nil && l.state != absent:
		return nil, true // it has been offered before, or has come twice
	case l == nil && (uid < d.until || !arrived.IsZero()) && d.old(m, key, arrived):
		return nil, true
	case l == nil && d.memory.Has(key):
		if m.Kind != transport.Request || uid < d.until {
			return nil, true
		}
		if d.full() {
			return nil, false
		}
		return &letter{key: key, message: m, repeated: true}, true
	case d.full():
		return nil, false
	case l == nil:
		l = &letter{uid: uid, key: key, arrived: m.Info.ReceivedTime}
		if !arrived.IsZero() {
			l.arrived = arrived
		}
		d.letters[key] = l
	default:
		d.present(l)
	}
	l.message = m
	return l, true
}

// present takes a letter out of those to be read again.
func (d *durable) present(l *letter) {
	if i := slices.Index(d.absent, l); i == 0 { // nearly always: they are read in their order
		d.absent = d.absent[1:]
	} else if i > 0 {
		d.absent = slices.Delete(d.absent, i, i+1)
	}
}

// old reports whether a message in an inbox that has been renumbered is not for this name, or has been
// handled.
func (d *durable) old(m *transport.Message, key order.Key, arrived time.Time) bool {
	if arrived.Before(d.place.from.Add(-clockSkew)) {
		return true
	}
	if order.KeyOf(m).IsZero() {
		return arrived.Before(d.looked.Add(-clockSkew))
	}
	v := d.memory.Judge(m)
	return v == order.Handled || v == order.Forgotten
}

// full reports whether there is room for nothing more.
func (d *durable) full() bool {
	return len(d.ready) >= readyMessages || d.bytes >= readyBytes || d.delayed >= delayedMessages
}

// passed implements consumer.
func (d *durable) passed(uid imap.UID) {
	at := d.receiver.feeds.at()
	d.mu.Lock()
	defer d.mu.Unlock()
	if at.validity == d.place.validity && uid >= at.next {
		d.place.current = time.Now()
	}
	if d.place.read = uid; d.until != 0 && uid >= d.until {
		d.until = 0
		for _, l := range d.letters {
			if l.uid == 0 && l.state == absent {
				d.lose(l)
			}
		}
	}
	d.save(lazily)
}

// again implements consumer.
func (d *durable) again() []imap.UID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var uids []imap.UID
	known := make(map[imap.UID]bool)
	for _, l := range d.absent {
		if len(uids) == catchUpSize || d.full() {
			break
		}
		if l.uid != 0 && !known[l.uid] {
			known[l.uid] = true
			uids = append(uids, l.uid)
		}
	}
	return uids
}

// awaits implements consumer.
func (d *durable) awaits(uid imap.UID, m *transport.Message) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.letters[keyOf(m, d.place.validity, uid)]
	return l != nil && l.state == absent
}

// gone implements consumer.
func (d *durable) gone(uid imap.UID, found []*transport.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	there := make(map[order.Key]bool)
	for _, m := range found {
		there[keyOf(m, d.place.validity, uid)] = true
	}
	var lost []*letter
	for _, l := range d.absent {
		if l.uid == uid && !there[l.key] {
			lost = append(lost, l)
		}
	}
	for _, l := range lost {
		d.lose(l)
	}
}

// lose gives up a message that is not in the mailbox any more.
func (d *durable) lose(l *letter) {
	d.logger.Warn("email: a message was deleted from the mailbox before it was handled", "mailbox", d.receiver.address, "durable", d.name,
		"uid", l.uid, "publisher", l.key.Publisher.String(), "sequence", l.key.Sequence, "message_id", l.key.ID.String(), "attempts", l.attempt)
	d.remove(l)
	d.save(lazily)
}

// remove takes a letter out of the books.
func (d *durable) remove(l *letter) {
	d.present(l)
	delete(d.letters, l.key)
}

// release makes a letter ready that the sequencer has held back. It is called without d.mu.
func (d *durable) release(l *letter) {
	d.mu.Lock()
	if l.state == held {
		d.enqueue(l)
	}
	d.mu.Unlock()
	d.pump()
}

// enqueue makes a letter ready.
func (d *durable) enqueue(l *letter) {
	l.state = ready
	d.ready = append(d.ready, l)
	d.bytes += len(l.message.Body)
}

// pump delivers what is ready, as far as there is room. It is called without d.mu.
func (d *durable) pump() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pumping {
		return
	}
	d.pumping = true
	for {
		l := d.next()
		if l == nil {
			break
		}
		delivery := transport.Delivery{Message: l.message, Attempt: l.attempt, Repeated: l.repeated}
		if l.ticket != nil {
			delivery.Settler = l.ticket
		}
		deliver := d.deliver
		d.mu.Unlock()
		deliver(delivery)
		d.mu.Lock()
	}
	d.pumping = false
	d.quiet.Broadcast()
	if d.refused && !d.full() && len(d.ready) <= readyMessages/2 && d.feed != nil {
		d.refused = false
		d.feed.poke()
	}
}

// next takes the next letter to be delivered, or returns nil.
func (d *durable) next() *letter {
	limit := d.interest.InFlight
	if limit == 0 {
		limit = transport.DefaultInFlight
	}
	if d.deliver == nil || len(d.ready) == 0 || d.inFlight >= limit && !d.ready[0].repeated {
		return nil
	}
	l := d.ready[0]
	d.ready[0] = nil
	d.ready = d.ready[1:]
	d.bytes -= len(l.message.Body)
	if l.repeated {
		return l
	}
	l.state = handed
	l.attempt++
	l.since = time.Now()
	d.delivered++
	l.number = d.delivered
	l.ticket = &ticket{durable: d, letter: l}
	d.inFlight++
	d.save(soon)
	return l
}
