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
	message *transport.Message // without its body
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
	slices.SortFunc(found, func(a, b recalled) int { return cmp.Compare(a.uid, b.uid) })
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
	slices.SortFunc(chosen, func(a, b recalled) int { return cmp.Compare(a.uid, b.uid) })
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
		var found []recalled
		err := f.receiver.session.fetch(ctx, span(first, s.to-1, headBytes), func(mail fetched) {
			if !mail.hasBody || mail.uid < first || mail.uid >= s.to {
				return
			}
			m, err := wire.DecodeHeader(mail.body)
			if err != nil {
				m = f.letter(mail)
			}
			if m != nil && f.wants(m) {
				m.Body = nil
				found = append(found, recalled{mail.uid, m})
			}
		})
		if err != nil && !isNo(err) {
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
	missing []imap.UID // recalled, and not offered yet
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
	for _, f := range found {
		l.missing = append(l.missing, f.uid)
	}
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
	l.gone(uid)
	if !l.stopped.Load() {
		l.take(m, arrived)
	}
	return true
}

func (l *latecomer) passed(imap.UID) {}

func (l *latecomer) again() []imap.UID { return slices.Clone(l.missing) }

func (l *latecomer) gone(uid imap.UID) {
	if i := slices.Index(l.missing, uid); i >= 0 {
		l.missing = slices.Delete(l.missing, i, i+1)
	}
}

// keeps implements keeper.
func (l *latecomer) keeps() (from imap.UID, open []imap.UID) { return lastUID, l.missing }
