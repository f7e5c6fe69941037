package email

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// How long what has changed may wait before it is written down. What must not be lost does not
// depend on it.
const (
	// lazily is for the place in the inbox: it decides how much is read again in vain after a crash.
	lazily = 2 * time.Second
	// soon is for the attempts: a handler that kills its process is to be noticed. Most
	// deliveries are settled before.
	soon = 20 * time.Millisecond
	// atOnce is for dead letters.
	atOnce = time.Duration(0)
	// unsavedAcks is how many letters are settled before the place is written down in any case.
	unsavedAcks = 4096
)

// saving is how a durable name gets onto the disk, besides Ack.
type saving struct {
	writing sync.Mutex // held while the place is written; before durable.mu

	// The rest is guarded by durable.mu.
	timer   *time.Timer
	at      time.Time // when the timer fires; zero if it is not set
	moved   time.Time // since when the place has not been written down; zero if it has
	acks    int       // since the last save
	burials []burial
	failing bool
}

// burial is a dead letter that is not on record yet.
type burial struct {
	letter *letter
	value  []byte
}

// save sees to it that the state is written down after a while. d.mu is held.
func (d *durable) save(within time.Duration) {
	s := &d.saving
	now := time.Now()
	if within == lazily {
		if s.moved.IsZero() {
			s.moved = now
		}
		if s.acks++; s.acks >= unsavedAcks {
			s.moved, within = now.Add(-lazily), atOnce
		}
	}
	d.wake(now.Add(within))
}

// wake sets the timer, unless it fires earlier. d.mu is held.
func (d *durable) wake(at time.Time) {
	s := &d.saving
	if d.closed || !s.at.IsZero() && !at.Before(s.at) {
		return
	}
	s.at = at
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(at), d.saveDue)
	} else {
		s.timer.Reset(time.Until(at))
	}
}

// saveDue writes the state down if there is reason to.
func (d *durable) saveDue() {
	d.mu.Lock()
	d.saving.at = time.Time{}
	due := !d.closed && d.due(time.Now())
	d.mu.Unlock()
	if !due {
		return
	}
	err := d.write()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.saving
	if err != nil && !s.failing && !d.closed {
		d.logger.Warn("email: the state of a durable name can't be written down; trying on", "durable", d.name, "error", err)
	}
	if s.failing = err != nil; s.failing {
		d.save(lazily)
	}
}

// due reports whether there is reason to write the state down now: a dead letter, a place that
// moved some time ago, or a delivery that takes its time. If there is not, it sets the timer. d.mu is held.
func (d *durable) due(now time.Time) bool {
	s := &d.saving
	var next time.Time
	if !s.moved.IsZero() {
		next = s.moved.Add(lazily)
	}
	for _, l := range d.letters {
		if at := l.since.Add(soon); l.attempt > l.saved && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if len(s.burials) > 0 || !next.IsZero() && !next.After(now) {
		return true
	}
	if !next.IsZero() {
		d.wake(next)
	}
	return false
}

// write writes the state down. It is called without d.mu.
func (d *durable) write() error {
	s := &d.saving
	s.writing.Lock()
	defer s.writing.Unlock()
	d.mu.Lock()
	s.moved, s.acks = time.Time{}, 0
	d.mu.Unlock()
	buried := 0
	var attempts map[*letter]int
	err := d.journal.Update(func(tx *bbolt.Tx) error {
		b, err := d.bucket(tx)
		if err != nil {
			return err
		}
		// What is written is what is true now; it may be called more than once.
		d.mu.Lock()
		p := d.snapshot()
		buried = len(s.burials)
		burials := s.burials[:buried:buried]
		attempts = make(map[*letter]int)
		for _, l := range d.letters {
			if l.attempt != l.saved {
				attempts[l] = l.attempt
			}
		}
		forgotten, name, value := d.memory.Forget()
		type entry struct{ name, value []byte }
		entries := []entry{{name, value}}
		for _, name := range forgotten {
			entries = append(entries, entry{name, nil})
		}
		for _, dead := range burials {
			name, value := d.memory.Entry(dead.letter.key)
			entries = append(entries, entry{name, value})
		}
		d.mu.Unlock()
		for _, e := range entries {
			if err := put(b.Bucket(memoryBucket), e.name, e.value); err != nil {
				return err
			}
		}
		for _, dead := range burials {
			if err := bury(b, dead); err != nil {
				return err
			}
		}
		return b.Put(placeKey, p.encode())
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		if s.moved.IsZero() {
			s.moved = time.Now()
		}
		return err
	}
	s.burials = slices.Delete(s.burials, 0, buried)
	for l, attempt := range attempts {
		l.saved = attempt
	}
	return nil
}

// snapshot returns the place with the letters that are open. d.mu is held.
func (d *durable) snapshot() place {
	p := d.place
	if d.until != 0 {
		p.validity = 0 // the inbox has not been read again to the end: to be begun anew
		p.current = d.looked
	}
	letters := make([]*letter, 0, len(d.letters))
	for _, l := range d.letters {
		if l.dead == 0 {
			letters = append(letters, l)
		}
	}
	// Those that have been delivered come first, in that order.
	slices.SortFunc(letters, func(a, b *letter) int {
		if (a.number == 0) != (b.number == 0) {
			return cmp.Compare(b.number, a.number)
		}
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.uid, b.uid))
	})
	for _, l := range letters {
		p.open = append(p.open, opened{uid: l.uid, key: l.key, attempt: l.attempt, nacked: l.nacked, arrived: l.arrived})
	}
	return p
}

// bury makes a dead letter of a letter. d.mu is held.
func (d *durable) bury(l *letter, reason string) {
	d.memory.Add(l.key, sourceTime(l))
	d.remove(l)
	value := encodeDeadLetter(DeadLetter{Message: l.message, Time: time.Now(), Reason: reason, Attempts: l.attempt})
	d.saving.burials = append(d.saving.burials, burial{l, value})
	d.save(atOnce)
	d.logger.Warn("email: a message could not be handled; it is a dead letter now", "durable", d.name, "name", l.message.Name,
		"message_id", l.message.ID.String(), "attempts", l.attempt, "reason", reason)
}

// bury writes down a dead letter.
func bury(b *bbolt.Bucket, dead burial) error {
	if n := dead.letter.dead; n != 0 { // once more
		if err := b.Bucket(againBucket).Delete(letterKey(n)); err != nil {
			return err
		}
		return b.Bucket(deadBucket).Put(letterKey(n), dead.value)
	}
	n, err := b.Bucket(deadBucket).NextSequence()
	if err != nil {
		return err
	}
	return b.Bucket(deadBucket).Put(letterKey(n), dead.value)
}

// put puts an entry into a bucket, or deletes it if the value is nil.
func put(b *bbolt.Bucket, name, value []byte) error {
	if value == nil {
		return b.Delete(name)
	}
	return b.Put(name, value)
}

func letterKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// sourceTime is when the message of a letter was published.
func sourceTime(l *letter) time.Time {
	if l.message == nil {
		return time.Time{}
	}
	return order.SourceTime(l.message)
}

// bucket returns the bucket of the name in a transaction.
func (d *durable) bucket(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	if b := tx.Bucket(durablesBucket).Bucket([]byte(d.name)); b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("durable name %q is not in the state file any more: %w", d.name, transport.ErrClosed)
}
