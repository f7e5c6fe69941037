package email

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

const (
	// recallSize is how many UIDs are looked at at a time for the last messages of a name.
	recallSize = 200
	// recallMost is how many are looked at in all. What is before them is not found.
	recallMost = 20_000
)

// historian is a consumer that wants the last messages from before it, too.
type historian interface {
	consumer
	// last returns how many. It is asked after begin.
	last() int
	// recall is called with the newest messages that match, at most so many, the oldest
	// first: what their headers say. They are offered when again returns them.
	recall(found []recalled)
}

// recalled is a message from before an interest.
type recalled struct {
	uid     imap.UID
	part    int                // of the mail, if it is a batch
	message *transport.Message // without its body
}

// compare orders by the place in the inbox.
func (r recalled) compare(other recalled) int {
	return cmp.Or(cmp.Compare(r.uid, other.uid), cmp.Compare(r.part, other.part))
}

// recall is a search backwards through the inbox.
type recall struct {
	count int // how many messages are wanted
	from  imap.UID
	to    imap.UID // not looked at yet are the UIDs below
	found []recalled
}

// done reports whether enough has been looked at.
func (s *recall) done() bool {
	return len(s.found) >= s.count || s.to <= 1 || s.from-s.to >= recallMost
}

// add adds what is before all that has been found so far. Of a message that was sent twice the
// first mail counts: the other one may have come much later.
func (s *recall) add(found []recalled) {
	slices.SortFunc(found, recalled.compare)
	all := append(found, s.found...)
	known := make(map[order.Key]bool)
	s.found = slices.DeleteFunc(all, func(r recalled) bool {
		k := order.KeyOf(r.message)
		twice := known[k]
		known[k] = !k.IsZero()
		return twice
	})
}

// last returns the messages that are wanted: those that have arrived last. But those of one publisher
// are its newest: mail servers may have shuffled them.
func (s *recall) last() []recalled {
	last := s.found[max(0, len(s.found)-s.count):]
	share := make(map[transport.GID]int)
	for _, r := range last {
		share[order.KeyOf(r.message).Publisher]++
	}
	byNumber := slices.Clone(s.found)
	slices.SortStableFunc(byNumber, func(a, b recalled) int {
		return cmp.Compare(order.KeyOf(b.message).Sequence, order.KeyOf(a.message).Sequence)
	})
	chosen := slices.DeleteFunc(last, func(r recalled) bool { return order.KeyOf(r.message).Sequence != 0 })
	for _, r := range byNumber {
		if k := order.KeyOf(r.message); k.Sequence != 0 && share[k.Publisher] > 0 {
			share[k.Publisher]--
			chosen = append(chosen, r)
		}
	}
	slices.SortFunc(chosen, recalled.compare)
	return chosen
}

// recallSome looks at some more of the inbox for the last messages, and tells the consumer of them
// when that is enough.
func (f *feed) recallSome(ctx context.Context) error {
	s := f.recall
	if !s.done() {
		first := imap.UID(1)
		if s.to > recallSize {
			first = s.to - recallSize
		}
		found, err := f.recallSpan(ctx, first, s.to-1)
		if err != nil {
			return err
		}
		s.add(found)
		s.to = first
	}
	if s.done() {
		f.recall = nil
		f.consumer.(historian).recall(s.last())
	}
	return nil
}

// recallSpan returns the messages in a span of the inbox that the consumer wants.
func (f *feed) recallSpan(ctx context.Context, first, last imap.UID) (found []recalled, err error) {
	var batches []imap.UID // of which the beginning does not say what is in them
	add := func(uid imap.UID, part int, m *transport.Message) {
		if m != nil && f.wants(m) {
			m.Body = nil
			found = append(found, recalled{uid, part, m})
		}
	}
	// Of a mail no more can be among the last ones than are wanted; so 200 mails of many messages are not kept whole.
	addBatch := func(mail fetched) {
		before := found
		found = nil
		unpack(mail, add)
		those := recall{count: f.recall.count}
		those.add(found)
		found = append(before, those.last()...)
	}
	err = f.receiver.session.fetch(ctx, span(first, last, headBytes), func(mail fetched) {
		if !mail.hasBody || mail.uid < first || mail.uid > last {
			return
		}
		m, err := wire.DecodeHeader(mail.body)
		switch {
		case err == wire.ErrBatch && mail.whole():
			addBatch(mail)
		case err == wire.ErrBatch && mail.size <= f.receiver.maxBatch():
			batches = append(batches, mail.uid)
		case err != nil:
			add(mail.uid, 0, f.letter(mail))
		default:
			add(mail.uid, 0, m)
		}
	})
	for _, uid := range batches {
		if err == nil || isNo(err) {
			err = f.receiver.session.fetch(ctx, span(uid, uid, f.receiver.maxBatch()), func(mail fetched) {
				if mail.uid == uid && mail.hasBody {
					addBatch(mail)
				}
			})
		}
	}
	if isNo(err) {
		err = nil // what could not be read is not found
	}
	return found, err
}

// letter returns what a mail of a person is as a message that the consumer wants, or nil.
func (f *feed) letter(mail fetched) *transport.Message {
	letter, err := wire.DecodeLetter(mail.body)
	if err != nil || letter.Automatic {
		return nil
	}
	return f.reader.personal(letter)
}

// latecomer is an interest that begins with the last messages, and remembers nothing beyond its
// life.
type latecomer struct {
	*live
	count   int
	missing []recalled // and not offered yet
}

var (
	_ historian = (*latecomer)(nil)
	_ keeper    = (*latecomer)(nil)
)

// receiveLast states an interest that begins with the last messages.
func (r *receiver) receiveLast(interest transport.Interest, l *live) (stop func()) {
	feed := r.newFeed(interest)
	feed.start(&latecomer{live: l, count: interest.Last})
	return sync.OnceFunc(func() {
		feed.stop()
		l.stop()
	})
}

func (l *latecomer) begin(_ uint32, next imap.UID) (from imap.UID, since time.Time) {
	if l.missing = nil; l.count > 0 {
		return next, time.Time{} // it has not begun yet
	}
	return next, l.receiver.rescan.looked.Add(-aDay)
}

func (l *latecomer) last() int { return l.count }

func (l *latecomer) recall(found []recalled) {
	l.count = 0
	l.missing = append(l.missing, found...)
	expectFirst(l.sequencer, found)
}

// expectFirst tells the sequencer which messages of each publisher come first, so that it does not wait for
// others before them.
func expectFirst(s *order.Sequencer, found []recalled) {
	first := make(map[transport.GID]uint64)
	for _, f := range found {
		lower(first, order.KeyOf(f.message))
	}
	s.Expect(first)
}

// lower notes a number if it is the lowest of its publisher.
func lower(first map[transport.GID]uint64, k order.Key) {
	if n := first[k.Publisher]; k.Sequence != 0 && (n == 0 || k.Sequence < n) {
		first[k.Publisher] = k.Sequence
	}
}

func (l *latecomer) offer(uid imap.UID, m *transport.Message, arrived time.Time) bool {
	if i := l.find(uid, m); i >= 0 {
		l.missing = slices.Delete(l.missing, i, i+1)
	}
	if !l.stopped.Load() {
		l.take(m, arrived)
	}
	return true
}

// find returns the index of a message among the missing ones, or -1.
func (l *latecomer) find(uid imap.UID, m *transport.Message) int {
	if len(l.missing) == 0 {
		return -1
	}
	key := order.KeyOf(m)
	return slices.IndexFunc(l.missing, func(r recalled) bool { return r.uid == uid && order.KeyOf(r.message) == key })
}

func (l *latecomer) passed(imap.UID) {}

func (l *latecomer) again() (uids []imap.UID) {
	for _, r := range l.missing { // in the order of UIDs
		if len(uids) == 0 || uids[len(uids)-1] != r.uid {
			uids = append(uids, r.uid)
		}
	}
	return uids
}

func (l *latecomer) awaits(uid imap.UID, m *transport.Message) bool { return l.find(uid, m) >= 0 }

func (l *latecomer) gone(uid imap.UID, _ []*transport.Message) {
	l.missing = slices.DeleteFunc(l.missing, func(r recalled) bool { return r.uid == uid })
}

// keeps implements keeper.
func (l *latecomer) keeps() (from imap.UID, open []imap.UID) { return lastUID, l.again() }
