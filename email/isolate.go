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
func (r *reader) fetchEach(ctx context.Context) (more bool, err error) {
	var uids []imap.UID
	all := r.cursor.begin()
	err = r.session.fetch(ctx, span(all.from, all.to, 0), func(f fetched) {
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
		switch result, err := r.fetchOne(ctx, uid); {
		case err != nil:
			return false, err
		case result == refused:
			r.cursor.passKnown(uids)
			return false, nil
		}
	}
	if missing := r.cursor.passKnown(uids); missing {
		return false, nil
	}
	if r.cursor.last != 0 {
		r.cursor.pass(all.to)
	}
	*alone = isolation{}
	return len(uids) > 0 || r.cursor.last != 0, nil // some servers say NO when there is nothing
}

// fetchOne delivers a mail, or notes that it could not be fetched. The result is settled even
// then, unless there is no room for it. An error means that the connection is lost.
func (r *reader) fetchOne(ctx context.Context, uid imap.UID) (result verdict, err error) {
	missing, done := false, false
	// What has come counts, whatever the server says after it.
	finish := func() {
		if result == settled {
			done = true
			r.cursor.delivered(uid)
		}
	}
	request := span(uid, uid, headBytes)
	request.dates = r.dates
	err = r.session.fetch(ctx, request, func(f fetched) {
		if missing = !f.hasBody; done || missing {
			return
		}
		result = r.examine(f)
		finish()
	})
	if result == large && err == nil {
		request.limit = r.maxBatch()
		err = r.session.fetch(ctx, request, func(f fetched) {
			if missing = !f.hasBody; !done && !missing {
				result = r.process(f)
				finish()
			}
		})
	}
	if tooMuch, ok := errors.AsType[oversized](err); ok && !done {
		r.audience.skip(uid, UnfetchableMail, tooMuch)
		result = settled
		finish()
	}
	if err == nil && !missing {
		if result != refused {
			r.cursor.delivered(uid) // or it has been deleted
			result = settled
		}
		return result, nil
	}
	if err == nil {
		err = errNoBody
	}
	if !done && result != refused {
		result = settled
		r.failedAlone(uid, err)
	}
	if err == errNoBody || isNo(err) {
		return result, nil
	}
	return result, err
}

// failedAlone counts a mail that could not be fetched, and skips it when that was often
// enough.
func (r *reader) failedAlone(uid imap.UID, err error) {
	if r.isolation.tries == nil {
		r.isolation.tries = make(map[imap.UID]int)
	}
	r.isolation.tries[uid]++
	if tries := r.isolation.tries[uid]; tries >= patientTries {
		r.audience.skip(uid, UnfetchableMail, fmt.Errorf("asked for %d times: %w", tries, err))
		r.cursor.delivered(uid)
	}
}
