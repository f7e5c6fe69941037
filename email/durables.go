package email

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// durables are the durable names of a carrier that have been used since it was opened.
type durables struct {
	receiver *receiver
	logger   *slog.Logger
	journal  *journal.Journal // nil without a state file

	mu     sync.Mutex
	names  map[string]*durable
	closed bool
}

// receive states a durable interest.
func (s *durables) receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	if s.journal == nil {
		return nil, fmt.Errorf("email: durable name %q: %w without a state file: give the configuration the key state", interest.Durable, transport.ErrNotSupported)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("email carrier is %w", transport.ErrClosed)
	}
	d := s.names[interest.Durable]
	if d == nil {
		if d, err = s.load(interest); err != nil {
			return nil, fmt.Errorf("email: durable name %q: %w", interest.Durable, err)
		}
		if s.names == nil {
			s.names = make(map[string]*durable)
		}
		s.names[interest.Durable] = d
	}
	if err := d.attach(interest, deliver); err != nil {
		return nil, fmt.Errorf("email: durable name %q: %w", interest.Durable, err)
	}
	return sync.OnceFunc(d.detach), nil
}

// load reads what is on record of a durable name, and begins with it if that is nothing.
func (s *durables) load(interest transport.Interest) (*durable, error) {
	d := &durable{name: interest.Durable, receiver: s.receiver, logger: s.logger, journal: s.journal}
	d.quiet.L = &d.mu
	known := false
	err := s.journal.View(func(tx *bbolt.Tx) (err error) {
		b := tx.Bucket(durablesBucket).Bucket([]byte(d.name))
		if known = b != nil; known {
			err = d.read(b)
		}
		return err
	})
	if err != nil || known {
		return d, err
	}
	at := s.receiver.feeds.at()
	d.memory, _ = order.Load(func(func(_, _ []byte) bool) {}) // nothing can't be damaged
	d.place = place{kind: interest.Kind, name: interest.Name, last: interest.Last, from: time.Now(), validity: at.validity, read: at.next}
	d.place.current = d.place.from
	return d, s.journal.Update(func(tx *bbolt.Tx) error {
		b, err := tx.Bucket(durablesBucket).CreateBucketIfNotExists([]byte(d.name))
		if err != nil {
			return err
		}
		for _, name := range [][]byte{memoryBucket, deadBucket, againBucket} {
			if _, err := b.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return b.Put(placeKey, d.place.encode())
	})
}

// read reads what is on record.
func (d *durable) read(b *bbolt.Bucket) (err error) {
	if d.place, err = decodePlace(b.Get(placeKey)); err != nil {
		return err
	}
	memory, dead, again := b.Bucket(memoryBucket), b.Bucket(deadBucket), b.Bucket(againBucket)
	if memory == nil || dead == nil || again == nil {
		return errPlace
	}
	d.memory, err = order.Load(func(yield func(name, value []byte) bool) {
		c := memory.Cursor()
		for name, value := c.First(); name != nil && yield(name, value); name, value = c.Next() {
		}
	})
	if err != nil {
		return err
	}
	d.letters = make(map[order.Key]*letter)
	for _, o := range d.place.open {
		if d.memory.Has(o.key) || d.letters[o.key] != nil {
			continue
		}
		l := &letter{uid: o.uid, key: o.key, attempt: o.attempt, saved: o.attempt, nacked: o.nacked, arrived: o.arrived}
		d.letters[o.key] = l
		d.absent = append(d.absent, l)
	}
	d.place.open = nil
	return again.ForEach(func(key, value []byte) error {
		letter, err := decodeDeadLetter(value)
		if err != nil {
			d.logger.Warn("email: a dead letter that is to be delivered once more is damaged", "durable", d.name, "error", err)
			return nil
		}
		d.revive(numberOf(key), letter.Message)
		return nil
	})
}

// revive makes a dead letter ready to be delivered once more.
func (d *durable) revive(number uint64, m *transport.Message) {
	for _, l := range d.letters {
		if l.dead == number {
			return
		}
	}
	l := &letter{key: keyOf(m, 0, 0), message: m, dead: number, nacked: true, arrived: m.Info.ReceivedTime}
	if order.KeyOf(m).IsZero() || d.letters[l.key] != nil {
		l.key = order.Key{ID: transport.ParseID(fmt.Sprintf("dead.%d", number))}
	}
	d.letters[l.key] = l
	d.enqueue(l)
}

// attach begins an interest with the name. What others have left unsettled is delivered again.
func (d *durable) attach(interest transport.Interest, deliver func(transport.Delivery)) error {
	d.mu.Lock()
	switch {
	case d.deliver != nil:
		d.mu.Unlock()
		return transport.ErrInUse
	case d.place.kind != interest.Kind || d.place.name != interest.Name:
		d.mu.Unlock()
		return fmt.Errorf("%w for %ss named %s, and can't be used for %ss named %s", transport.ErrInUse, d.place.kind, d.place.name, interest.Kind, interest.Name)
	}
	if d.letters == nil {
		d.letters = make(map[order.Key]*letter)
	}
	d.interest, d.deliver = interest, deliver
	d.takeBack()
	before := d.sequencer
	var again []*letter
	if interest.Kind == transport.TopicMessage {
		again = d.newSequencer(interest)
	}
	after := d.sequencer
	d.feed = d.receiver.newFeed(interest)
	feed := d.feed
	d.mu.Unlock()

	if before != nil {
		before.Stop()
	}
	for _, l := range again {
		if !after.Offer(transport.Delivery{Message: l.message, Settler: slip{letter: l}}) {
			d.release(l)
		}
	}
	feed.start(d)
	go d.pump() // deliver is not called before Receive has returned
	return nil
}

// takeBack makes ready what has been delivered and not settled. d.mu is held, here and below.
func (d *durable) takeBack() {
	var back []*letter
	for _, l := range d.letters {
		if l.state == handed {
			l.ticket, l.state = nil, ready
			back = append(back, l)
			d.bytes += len(l.message.Body)
		}
	}
	slices.SortFunc(back, func(a, b *letter) int { return cmp.Compare(a.number, b.number) })
	d.ready = append(back, d.ready...)
	d.inFlight = 0
}

// newSequencer makes the sequencer of an interest, and returns the letters that an earlier one has held back.
func (d *durable) newSequencer(interest transport.Interest) (again []*letter) {
	passed := d.memory.Clone()
	first := make(map[transport.GID]uint64) // of each publisher what was passed on, and is going to be offered again
	for _, l := range d.letters {
		switch {
		case l.state == held:
			again = append(again, l)
		case l.state == absent && !l.nacked:
			if l.attempt > 0 {
				lower(first, l.key)
			}
		default:
			passed.Add(l.key, sourceTime(l))
		}
	}
	d.sequencer = order.NewSequencer(order.Options{
		Wait:    interest.GapWait,
		Handled: passed,
		Deliver: func(delivery transport.Delivery) { d.release(delivery.Settler.(slip).letter) },
		Gap:     interest.Gap,
	})
	d.sequencer.Expect(first)
	return again
}

// detach ends the interest with the name. What has been delivered can still be settled.
func (d *durable) detach() {
	d.mu.Lock()
	feed := d.feed
	d.feed, d.deliver = nil, nil
	d.mu.Unlock()
	feed.stop()
}

// last implements historian.
func (d *durable) last() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.place.last
}

// recall implements historian.
func (d *durable) recall(found []recalled) {
	d.mu.Lock()
	d.place.last = 0
	for _, f := range found {
		key := keyOf(f.message, d.place.validity, f.uid)
		if d.letters[key] == nil && !d.memory.Has(key) {
			l := &letter{uid: f.uid, key: key, arrived: time.Now()}
			d.letters[key] = l
			d.absent = append(d.absent, l)
		}
	}
	d.save(atOnce)
	s := d.sequencer
	d.mu.Unlock()
	if s != nil {
		expectFirst(s, found)
	}
}

// close writes down all that is known and ends everything.
func (s *durables) close() error {
	s.mu.Lock()
	names := s.names
	s.names, s.closed = nil, true
	s.mu.Unlock()
	var err error
	for _, d := range names {
		d.mu.Lock()
		d.closed, d.deliver = true, nil
		if d.saving.timer != nil {
			d.saving.timer.Stop()
		}
		sequencer := d.sequencer
		for d.pumping {
			d.quiet.Wait()
		}
		d.mu.Unlock()
		if sequencer != nil {
			sequencer.Stop()
		}
		err = errors.Join(err, d.write())
	}
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	return err
}

// keeps says what the names in the state file still need of the inbox with this UIDVALIDITY, also those
// that nobody has stated since the carrier was opened (see keeper).
func (s *durables) keeps(validity uint32) (from imap.UID, open []imap.UID) {
	from = lastUID
	if s.journal == nil {
		return from, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.names {
		first, more := d.keepsIn(validity)
		from, open = min(from, first), append(open, more...)
	}
	err := s.journal.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(durablesBucket).ForEachBucket(func(name []byte) error {
			if s.names[string(name)] != nil {
				return nil
			}
			p, err := decodePlace(tx.Bucket(durablesBucket).Bucket(name).Get(placeKey))
			if err != nil || p.validity != validity {
				from = 0
				return nil
			}
			from = min(from, p.read)
			for _, o := range p.open {
				open = append(open, o.uid)
			}
			return nil
		})
	})
	if err != nil {
		return 0, nil
	}
	return from, open
}

var _ keeper = (*durable)(nil)

// keeps implements keeper.
func (d *durable) keeps() (from imap.UID, open []imap.UID) {
	return d.keepsIn(d.receiver.session.validity)
}

func (d *durable) keepsIn(validity uint32) (from imap.UID, open []imap.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until != 0 || d.place.validity != validity {
		return 0, nil
	}
	for _, l := range d.letters {
		if l.uid != 0 {
			open = append(open, l.uid)
		}
	}
	for _, b := range d.saving.burials { // until they are on record
		open = append(open, b.letter.uid)
	}
	return d.place.read, open
}
