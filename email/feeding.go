package email

import (
	"context"
	"log/slog"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/transport"
)

// feedsWant reports whether a consumer that is up to date wants the message.
func (r *receiver) feedsWant(m *transport.Message) bool {
	for _, f := range r.feeds.adopted {
		if !f.behind && f.wants(m) {
			return true
		}
	}
	return false
}

// offerFeeds offers a message that everybody gets to the consumers that are up to date, and returns how many
// wanted it.
func (r *receiver) offerFeeds(mail fetched, m *transport.Message) int {
	n := 0
	for _, f := range r.feeds.adopted {
		switch {
		case f.behind:
			// Mails can come in any order: this one may be before its place.
			f.reader.cursor.next = max(min(f.reader.cursor.next, mail.uid), f.from)
		case !f.wants(m):
		case f.offer(mail, m):
			n++
		default:
			f.behind, f.full = true, true
			f.reader.cursor = cursor{validity: r.live.cursor.validity, next: mail.uid}
			f.reader.partly = partly{mail.uid, mail.part}
		}
	}
	return n
}

// passFeeds tells the consumers that are up to date how far everybody is.
func (r *receiver) passFeeds() {
	for _, f := range r.feeds.adopted {
		if !f.behind {
			f.pass(r.live.cursor.next)
		}
	}
}

// catchUp offers something to each consumer that is behind. more says that there is more to
// offer now.
func (r *receiver) catchUp(ctx context.Context) (more bool, err error) {
	for _, f := range r.feeds.adopted {
		if f.poked.Swap(false) {
			f.full, f.ask = false, true
		}
		if f.stopped.Load() {
			continue
		}
		if f.recall != nil {
			if err := f.recallSome(ctx); err != nil {
				return false, err
			}
			more = true
			continue
		}
		if f.ask && !f.full {
			f.ask = false
			if uids := f.consumer.again(); len(uids) > 0 {
				f.ask = true
				progress, err := f.readAgain(ctx, uids)
				if err != nil {
					return false, err
				}
				more = more || progress
				continue
			}
		}
		if !f.behind || f.full {
			continue
		}
		again, err := f.readOn(ctx)
		if err != nil {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

// readOn offers the next portion to a consumer that is behind. When it has caught up it gets
// what everybody gets.
func (f *feed) readOn(ctx context.Context) (more bool, err error) {
	live := &f.receiver.live.cursor
	r := &f.reader
	if r.cursor.covers(live) {
		// What everybody has got already, ahead of what is missing, it has not.
		f.behind = r.cursor.next > live.next || len(live.ahead) > 0
		f.pass(min(r.cursor.next, live.next)) // what is between them may have come without what is before it
		return false, nil
	}
	if f.leap > 0 {
		err := f.leapOn(ctx, live.end())
		f.pass(r.cursor.next)
		return true, err
	}
	r.cursor.last = live.end()
	if r.cursor.last-r.cursor.next >= catchUpSize {
		r.cursor.last = r.cursor.next + catchUpSize - 1
	}
	r.found = true
	if more, err = r.fetch(ctx); err != nil {
		r.isolation.broke(r.cursor.next)
		return false, err
	}
	r.isolation.breaks = 0
	if !r.found {
		f.leap = 2 * catchUpSize
	}
	f.pass(r.cursor.next)
	return more && !f.full, nil
}

// leapOn looks for the next mail, up to a UID, where there has been none: in portions a wide range of
// UIDs that are not in use any more would take for ever. It looks at ever more UIDs, and reads no mail.
func (f *feed) leapOn(ctx context.Context, last imap.UID) error {
	c := &f.reader.cursor
	if last-c.next >= f.leap {
		last = c.next + f.leap - 1
	}
	first := imap.UID(0)
	err := f.receiver.session.fetch(ctx, span(c.next, last, 0), func(mail fetched) {
		if mail.uid >= c.next && (first == 0 || mail.uid < first) {
			first = mail.uid
		}
	})
	switch {
	case isNo(err):
		f.leap = 0
		return nil
	case err != nil:
		return err
	case first == 0:
		c.pass(last)
		if last == lastUID {
			c.delivered(last)
		}
		f.leap = min(f.leap, lastUID/2) * 2
		return nil
	}
	f.leap = 0
	if first > c.next {
		c.pass(first - 1)
	}
	return nil
}

// readAgain offers mails that the consumer wants again, and reports whether anything has come
// of it.
func (f *feed) readAgain(ctx context.Context, uids []imap.UID) (progress bool, err error) {
	uids = uids[:min(len(uids), catchUpSize)]
	come := make(map[imap.UID]verdict)
	request := wanted{uids: imap.UIDSetNum(uids...), limit: headBytes, dates: f.retry.dates}
	err = f.receiver.session.fetch(ctx, request, func(mail fetched) {
		if v, known := come[mail.uid]; known && v != unread || f.full {
			return
		}
		if come[mail.uid] = unread; mail.hasBody {
			again := f.beginAgain()
			if come[mail.uid] = f.retry.examine(mail); come[mail.uid] == settled {
				f.consumer.gone(mail.uid, again.found)
			}
		}
	})
	f.retry.audience = f
	if err != nil && !isNo(err) {
		return false, err
	}
	for _, uid := range uids {
		v, known := come[uid]
		switch {
		case f.full:
			return progress, nil
		case known && v == settled:
			progress = true
		case known || err != nil:
			read, err := f.readOneAgain(ctx, uid)
			if err != nil {
				return false, err
			}
			progress = progress || read
		default:
			f.consumer.gone(uid, nil)
			progress = true
		}
	}
	return progress, nil
}

// readOneAgain offers a mail. If it can't be read it says so after some tries. It returns true if
// there is nothing more to do about the mail.
func (f *feed) readOneAgain(ctx context.Context, uid imap.UID) (done bool, err error) {
	again := f.beginAgain()
	f.retry.cursor = cursor{}
	_, err = f.retry.fetchOne(ctx, uid)
	f.retry.audience = f
	if _, done = f.retry.cursor.ahead[uid]; done {
		f.consumer.gone(uid, again.found)
	}
	return done, err
}

// beginAgain makes the next mail that f.retry reads offer what the consumer wants again.
func (f *feed) beginAgain() *againAudience {
	again := &againAudience{feed: f}
	f.retry.audience, f.retry.partly = again, partly{}
	return again
}

// againAudience is the consumer as far as it wants messages again. It notes which are there that are
// for the consumer.
type againAudience struct {
	*feed
	found []*transport.Message
}

func (a *againAudience) take(mail fetched, m *transport.Message) (n int, ok bool) {
	if a.wants(m) {
		if a.found = append(a.found, m); !a.consumer.awaits(mail.uid, m) {
			return 1, true
		}
	}
	return a.feed.take(mail, m)
}

// pass tells the consumer how far it is, if that is news.
func (f *feed) pass(uid imap.UID) {
	if uid != f.offered {
		f.offered = uid
		f.consumer.passed(uid)
	}
}

// offer offers a message.
func (f *feed) offer(mail fetched, m *transport.Message) bool {
	arrived := mail.arrived
	if mail.uid >= f.old {
		arrived = time.Time{}
	}
	return f.consumer.offer(mail.uid, m, arrived)
}

// wants implements audience.
func (f *feed) wants(m *transport.Message) bool { return f.matches.Wants(m) }

// take implements audience.
func (f *feed) take(mail fetched, m *transport.Message) (n int, ok bool) {
	switch {
	case f.full:
		return 0, false // one before this was refused
	case !f.wants(m):
		return 0, true
	case !f.offer(mail, m):
		f.full = true
		return 1, false
	}
	f.receiver.touch()
	return 1, true
}

// skip implements audience. What everybody gets is where mails are counted that are not received.
func (f *feed) skip(uid imap.UID, reason SkipReason, err error) {
	level := slog.LevelDebug
	if reason == UnfetchableMail {
		level = slog.LevelWarn
	}
	f.receiver.logger.Log(context.Background(), level, "email: mail skipped by one who catches up", "mailbox", f.receiver.address, "uid", uid, "reason", string(reason), "error", err)
}
