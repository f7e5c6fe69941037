package email

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/transport"
)

// consumer is an interest that has a place of its own in the inbox. From there on it is
// offered every mail that matches: with everybody else's while it takes what comes, and
// by itself, in portions, while it has not been able to or was not there. So it
// delays nobody.
//
// Its methods are called by the goroutine that runs the receiver's loop, and do not block.
type consumer interface {
	// begin is called first, and whenever the server has renumbered the inbox. The inbox
	// has this UIDVALIDITY, and mail with the UID next or above has come after the interest was stated,
	// or after everything that was there when the inbox was opened anew. begin returns the
	// first UID that it wants to be offered, at most next. If since is set, UIDs do not
	// mean what they meant: then all mail that arrived since, by days of the server's clock,
	// is offered, and all that does is offered with the time when it did.
	begin(validity uint32, next imap.UID) (from imap.UID, since time.Time)
	// offer hands over a message and the UID of its mail. They come in the order of UIDs, or nearly, and
	// may come again. arrived is when the mail did, by the server's clock, after a begin that returned since, and
	// for mails from before it; else it is zero. False means that there is no room; the message
	// is offered again after feed.poke.
	offer(uid imap.UID, m *transport.Message, arrived time.Time) bool
	// passed says that all mails below uid have been offered and taken, or do not match.
	passed(uid imap.UID)
	// again returns UIDs of mails that are to be read, whatever has been before, because messages of theirs are not there any more: those to be
	// delivered again, or taken over. It is asked after begin and after feed.poke. awaits says which these are: what of the mails
	// is offered then.
	again() []imap.UID
	awaits(uid imap.UID, m *transport.Message) bool
	// gone says that a mail with a UID that again has returned has no messages for the consumer but
	// these: there is none, or it can't be read, or not all of it.
	gone(uid imap.UID, found []*transport.Message)
}

// catchUpSize is how many UIDs a consumer that is behind is offered at a time.
const catchUpSize = 128

// feed is what the receiver knows of a consumer.
type feed struct {
	consumer consumer
	matches  transport.Dispatcher // has its interest
	receiver *receiver
	poked    atomic.Bool
	stopped  atomic.Bool

	// validity and next are what was known of the inbox when the interest was stated, or
	// when the server had renumbered it.
	validity uint32
	next     imap.UID

	// The rest belongs to the receiver's loop.
	begun  bool
	from   imap.UID // where it has begun
	reader reader   // its cursor is the consumer's place while it is behind
	leap   imap.UID // how many UIDs to look for the next mail in; 0 to read on as usual
	behind bool
	full   bool // it has said no; wait until it is poked
	ask    bool // it has to be asked for mails to be read again
	retry  reader
	recall *recall // until the last messages have been found; nothing else is offered before
	// old is the first UID that is not from before the renumbering.
	old     imap.UID
	offered imap.UID // passed was last called with it
}

// feeds are the consumers of a receiver.
type feeds struct {
	mu       sync.Mutex
	added    []*feed // not adopted by the loop yet
	validity uint32
	next     imap.UID
	first    position // where the receiver began

	adopted []*feed // belongs to the receiver's loop
}

// set notes where the receiver is, in an inbox that is new to it.
func (s *feeds) set(validity uint32, next imap.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.validity, s.next = validity, next
	if s.first.validity == 0 {
		s.first = s.position()
	}
}

// moved notes that there is no news below a UID any more: what has a lower one arrived before
// something that has been delivered.
func (s *feeds) moved(next imap.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, next)
}

// at returns where the receiver is.
func (s *feeds) at() position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position()
}

// position is at with s.mu held.
func (s *feeds) position() position { return position{s.validity, s.next} }

// began returns where the receiver began, which is nowhere before it has reached the inbox.
func (s *feeds) began() position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// waiting reports whether there are consumers that the loop has not adopted yet.
func (s *feeds) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.added) > 0
}

// none reports whether there are no consumers.
func (s *feeds) none() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.added) == 0 && len(s.adopted) == 0
}

// newFeed returns what a consumer with this interest is fed by, once it is started.
func (r *receiver) newFeed(interest transport.Interest) *feed {
	f := &feed{receiver: r}
	f.matches.Add(interest, func(transport.Delivery) {})
	return f
}

// start states the interest of the consumer. It gets what comes from now on, and before that
// what it asks for.
func (f *feed) start(c consumer) {
	f.consumer = c
	s := &f.receiver.feeds
	s.mu.Lock()
	f.validity, f.next = s.validity, s.next
	s.added = append(s.added, f)
	s.mu.Unlock()
	f.receiver.expect()
}

// poke says that the consumer has room again, or wants mails again.
func (f *feed) poke() {
	f.poked.Store(true)
	signal(f.receiver.wake)
}

// stop ends the offers. One that is under way may still come.
func (f *feed) stop() {
	f.stopped.Store(true)
	f.poke()
}

// adoptFeeds begins with the consumers that are new, and lets go of those that have stopped.
func (r *receiver) adoptFeeds(ctx context.Context) error {
	r.feeds.mu.Lock()
	added := r.feeds.added
	r.feeds.added = nil
	kept := r.feeds.adopted[:0:0]
	for _, f := range append(r.feeds.adopted, added...) {
		if !f.stopped.Load() {
			kept = append(kept, f)
		}
	}
	r.feeds.adopted = kept
	r.feeds.mu.Unlock()
	for _, f := range kept {
		if f.begun {
			continue
		}
		if err := r.startFeed(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// restartFeeds makes all consumers begin anew: the inbox has been renumbered.
func (r *receiver) restartFeeds() {
	r.feeds.mu.Lock()
	defer r.feeds.mu.Unlock()
	for _, f := range slices.Concat(r.feeds.adopted, r.feeds.added) {
		f.begun, f.validity, f.next = false, r.live.cursor.validity, r.end()
	}
}

// startFeed finds out where a consumer begins.
func (r *receiver) startFeed(ctx context.Context, f *feed) error {
	live := r.live.cursor
	next := f.next
	if f.validity != live.validity {
		next = r.end()
	}
	from, since := f.consumer.begin(live.validity, next)
	f.old = 0
	if !since.IsZero() {
		f.old = next
		var err error
		if from, err = r.firstSince(ctx, since, next); err != nil {
			return err
		}
	}
	f.from = from
	f.reader = reader{receiver: r, audience: f, quiet: true, dates: f.old != 0, cursor: cursor{validity: live.validity, next: from}}
	f.retry = reader{receiver: r, audience: f, quiet: true, dates: f.old != 0}
	f.begun, f.behind, f.ask, f.full, f.offered, f.leap = true, true, true, false, 0, 0
	f.recall = nil
	if h, ok := f.consumer.(historian); ok {
		if n := h.last(); n > 0 {
			f.recall = &recall{count: n, from: from, to: from}
		}
	}
	return nil
}

// firstSince returns the first UID of a mail that arrived since a time, or next if there is
// none. If the server does not tell, all are taken to have.
func (r *receiver) firstSince(ctx context.Context, since time.Time, next imap.UID) (imap.UID, error) {
	first, err := r.session.firstSince(ctx, since)
	switch {
	case err != nil && !isRefusal(err):
		return 0, err
	case err != nil:
		r.logger.Warn("email: the server can't tell when mails have arrived; reading all of them", "mailbox", r.address, "error", err)
		return 1, nil
	case first == 0:
		return next, nil
	}
	return min(first, next), nil
}
