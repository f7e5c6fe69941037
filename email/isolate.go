package email

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"
)

// breaksToIsolate is how many connections in a row may break during a FETCH, without
// any progress, before a mail is suspected.
const breaksToIsolate = 2

// isolation is how the receiver gets past mails that can't be fetched: the server says
// NO when it is to send one, or the connection breaks. Asked for many at once it may
// then send none of those behind. So each is asked for alone, and those that have failed
// before come last, until they come or patience runs out.
type isolation struct {
	on bool
	// breaks counts the connections that broke while the cursor was at a UID.
	breaks int
	at     imap.UID
	tries  map[imap.UID]int // of mails that have failed alone
}

// broke notes that the connection broke during a FETCH.
func (i *isolation) broke(next imap.UID) {
	if i.at != next {
		i.at, i.breaks = next, 0
	}
	i.breaks++
	i.on = i.on || i.breaks >= breaksToIsolate
}

// fetchEach delivers new mails one by one. more says that there may be more.
func (r *receiver) fetchEach(ctx context.Context) (more bool, err error) {
	var uids []imap.UID
	err = r.session.fetch(ctx, r.cursor.next, lastUID, 0, func(f fetched) {
		if f.size > 0 && f.uid >= r.cursor.next { // else it is no answer, but news
			uids = append(uids, f.uid)
		}
	})
	if err != nil {
		if isNo(err) {
			err = nil // not even that: try again later
		}
		return false, err
	}
	alone := &r.isolation
	slices.SortFunc(uids, func(a, b imap.UID) int {
		return cmp.Or(cmp.Compare(alone.tries[a], alone.tries[b]), cmp.Compare(a, b))
	})
	for _, uid := range uids {
		if _, done := r.cursor.ahead[uid]; done {
			continue
		}
		if err := r.fetchOne(ctx, uid); err != nil {
			return false, err
		}
	}
	if missing := r.cursor.passKnown(uids); missing {
		return false, nil
	}
	*alone = isolation{}
	return true, nil
}

// fetchOne delivers a mail, or notes that it could not be fetched. An error means that
// the connection is lost.
func (r *receiver) fetchOne(ctx context.Context, uid imap.UID) error {
	missing, large, done := false, false, false
	// What has come counts, whatever the server says after it.
	finish := func() { done = true; r.cursor.delivered(uid) }
	err := r.session.fetch(ctx, uid, uid, headBytes, func(f fetched) {
		if missing = !f.hasBody; done || missing {
			return
		}
		if large = r.needsRest(f); !large {
			finish()
		}
	})
	if large && err == nil {
		err = r.session.fetch(ctx, uid, uid, r.maxMail, func(f fetched) {
			if missing = !f.hasBody; !done && !missing {
				r.process(f)
				finish()
			}
		})
	}
	if tooMuch, ok := errors.AsType[oversized](err); ok && !done {
		r.skip(uid, UnfetchableMail, tooMuch)
		finish()
	}
	if err == nil && !missing {
		r.cursor.delivered(uid) // or it has been deleted
		return nil
	}
	if err == nil {
		err = errNoBody
	}
	if !done {
		r.failedAlone(uid, err)
	}
	if err == errNoBody || isNo(err) {
		return nil
	}
	return err
}

// failedAlone counts a mail that could not be fetched, and skips it when that was often
// enough.
func (r *receiver) failedAlone(uid imap.UID, err error) {
	if r.isolation.tries == nil {
		r.isolation.tries = make(map[imap.UID]int)
	}
	r.isolation.tries[uid]++
	if tries := r.isolation.tries[uid]; tries >= patientTries {
		r.skip(uid, UnfetchableMail, fmt.Errorf("asked for %d times: %w", tries, err))
		r.cursor.delivered(uid)
	}
}
