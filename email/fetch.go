package email

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

const (
	// mailPerBody limits, with the largest body, the size of a mail: base64 in
	// lines makes 1.37 of a body.
	mailPerBody = 1.5
	// patientTries is how often a mail is asked for that the server announces but
	// does not send, before the mails after it get their turn.
	patientTries = 10
)

// fetch delivers what one FETCH finds. more says that there may be more.
func (r *receiver) fetch(ctx context.Context) (more bool, err error) {
	if r.isolation.on {
		return r.fetchEach(ctx)
	}
	waited := r.waited
	r.waited = false
	// Cleared before, so that what is announced from now on is looked at again.
	select {
	case <-r.session.news:
		waited = false
	default:
	}
	batch := r.cursor.begin()
	err = r.session.fetch(ctx, batch.from, batch.to, headBytes, func(f fetched) {
		if !r.cursor.accept(&batch, f.uid, f.hasBody) {
			return
		}
		if r.needsRest(f) {
			batch.block(f.uid)
			batch.large = f.uid
			return
		}
		r.cursor.delivered(f.uid)
	})
	if waited && batch.found {
		r.late++
	}
	switch {
	case isNo(err):
		// Some could not be read: deleted just now, or damaged.
		r.cursor.finish(&batch, false)
		r.isolation.on = true
		return true, nil
	case err != nil:
		r.cursor.finish(&batch, false)
		if tooMuch, ok := errors.AsType[oversized](err); ok {
			r.refuse(&batch, tooMuch)
		}
		return false, err
	}
	r.cursor.finish(&batch, true)
	switch {
	case batch.blocked == 0:
		return batch.found || batch.to != lastUID, nil
	case batch.large == batch.blocked:
		return r.fetchWhole(ctx, batch.large)
	case r.outOfPatience(batch.blocked, errNoBody):
		r.cursor.pass(batch.blocked)
		return true, nil
	}
	return r.tries == 1, nil // nearly always the second try brings it
}

var errNoBody = errors.New("the server announces a mail, but does not send it")

// fetchWhole delivers a mail of which the beginning shows that it is wanted.
func (r *receiver) fetchWhole(ctx context.Context, uid imap.UID) (more bool, err error) {
	missing := false
	err = r.session.fetch(ctx, uid, uid, r.maxMail, func(f fetched) {
		if missing = !f.hasBody; !missing {
			r.process(f)
			r.cursor.delivered(uid)
		}
	})
	if tooMuch, ok := errors.AsType[oversized](err); ok {
		r.refuse(&batch{}, tooMuch)
	}
	if missing && err == nil {
		err = errNoBody
	}
	switch {
	case err == nil: // or it has been deleted
		r.cursor.pass(uid)
		r.cursor.window = 1
		return true, nil
	case err == errNoBody || isNo(err):
		r.isolation.on = true
		return true, nil
	}
	return false, err
}

// outOfPatience counts how often a mail, or those from it on, have been asked for in
// vain, and reports whether that was often enough to go on without.
func (r *receiver) outOfPatience(uid imap.UID, err error) bool {
	if r.stuck != uid {
		r.stuck, r.tries = uid, 0
	}
	if r.tries++; r.tries < patientTries {
		return false
	}
	r.skip(r.stuck, UnfetchableMail, fmt.Errorf("asked for %d times: %w", r.tries, err))
	r.stuck = 0
	return true
}

// refuse goes past a mail that the server sends in excess of what was asked for, or
// sees to it that one before it is asked for alone.
func (r *receiver) refuse(b *batch, tooMuch oversized) {
	if b.blocked != 0 {
		r.cursor.window = 1
		return
	}
	r.skip(tooMuch.uid, UnfetchableMail, tooMuch)
	r.cursor.pass(tooMuch.uid)
}

// needsRest processes a mail, unless only its beginning is there and the rest is wanted.
func (r *receiver) needsRest(f fetched) bool {
	if len(f.body) < headBytes || f.size == int64(len(f.body)) {
		r.process(f)
		return false
	}
	m, err := wire.DecodeHeader(f.body)
	switch {
	case err != nil:
		r.reject(f, err)
	case !r.dispatcher.Wants(m):
	case f.size > r.maxMail:
		r.skip(f.uid, LargeMail, fmt.Errorf("%w: message %s has %d bytes, the limit for mails is %d; raise limits.max-body", transport.ErrTooLarge, m.Name, f.size, r.maxMail))
	default:
		return true
	}
	return false
}

// process decodes a mail and delivers the message.
func (r *receiver) process(f fetched) {
	m, err := wire.Decode(f.body)
	if err != nil {
		r.reject(f, err)
		return
	}
	if len(m.Body) > r.maxBody && r.dispatcher.Wants(m) {
		r.skip(f.uid, LargeMail, fmt.Errorf("%w: the body of message %s has %d bytes, the limit is %d; raise limits.max-body", transport.ErrTooLarge, m.Name, len(m.Body), r.maxBody))
		return
	}
	r.deliver(f.body, m)
}

// reject deals with a mail that package wire can't decode as a message.
func (r *receiver) reject(f fetched, err error) {
	if errors.Is(err, wire.ErrForeign) {
		r.foreign(f, err)
	} else {
		r.skip(f.uid, MalformedMail, err)
	}
}

// deliver delivers a message, and returns how many wanted it.
func (r *receiver) deliver(raw []byte, m *transport.Message) int {
	m.Info.ReceivedTime = time.Now()
	if r.onMail != nil {
		r.onMail(raw, m)
	}
	n := r.dispatcher.Dispatch(transport.Delivery{Message: m})
	if n > 0 {
		r.touch()
	}
	return n
}

// isNo reports whether err is the answer NO, after which the connection is as good as
// before.
func isNo(err error) bool {
	reply, ok := errors.AsType[*imap.Error](err)
	return ok && reply.Type == imap.StatusResponseTypeNo
}
