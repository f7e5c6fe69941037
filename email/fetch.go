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
	// batchRoom is the least limit for the size of a mail that holds several messages: however small the largest
	// message is, others may send many of it in one mail. It is twice what a sender makes.
	batchRoom = 2 << 20
)

// reader reads mail for an audience, from its place in the inbox on. All of it belongs to the
// goroutine that runs the receiver's loop.
type reader struct {
	*receiver
	audience  audience
	cursor    cursor
	isolation isolation
	stuck     imap.UID // mail that the server does not send
	tries     int      // how often it has been asked for
	dates     bool     // the audience wants to know when mails arrived
	quiet     bool     // the audience does not hear of bounces
	found     bool     // the last FETCH has found something
	partly    partly   // a batch that was too much for one time
}

// audience is for whom mail is read.
type audience interface {
	// wants reports whether somebody wants a message with this metadata; its body is not
	// looked at.
	wants(m *transport.Message) bool
	// take gets a message, wanted or not, and the mail that it was in. n is how many wanted
	// it; ok is false if there is no room for it now, and it is to be read again.
	take(f fetched, m *transport.Message) (n int, ok bool)
	// skip hears of a mail that is not received.
	skip(uid imap.UID, reason SkipReason, err error)
}

// verdict says what is to become of a mail.
type verdict uint8

const (
	settled verdict = iota // it needs no more attention
	large                  // the rest of it is wanted
	refused                // there is no room for it now
	unread                 // it has not come yet
)

// fetch delivers what one FETCH finds. more says that there may be more.
func (r *reader) fetch(ctx context.Context) (more bool, err error) {
	if r.isolation.on {
		return r.fetchEach(ctx)
	}
	batch := r.cursor.begin()
	request := span(batch.from, batch.to, headBytes)
	request.dates = r.dates
	err = r.session.fetch(ctx, request, func(f fetched) {
		if !r.cursor.accept(&batch, f.uid, f.hasBody) {
			return
		}
		switch r.examine(f) {
		case large:
			batch.block(f.uid)
			batch.large = f.uid
		case refused:
			batch.block(f.uid)
			batch.refused = f.uid
		default:
			r.cursor.delivered(f.uid)
		}
	})
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
	r.found = batch.found
	switch {
	case batch.blocked == 0:
		return batch.to != lastUID || batch.found && r.session.behind(), nil
	case batch.refused == batch.blocked:
		if r.partly.uid == batch.refused {
			r.cursor.window = 1 // there is room for few mails of so many messages
		}
		return false, nil
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
func (r *reader) fetchWhole(ctx context.Context, uid imap.UID) (more bool, err error) {
	missing, full := false, false
	request := span(uid, uid, r.maxBatch())
	request.dates = r.dates
	err = r.session.fetch(ctx, request, func(f fetched) {
		if missing = !f.hasBody; missing {
			return
		}
		if full = r.process(f) == refused; !full {
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
	case err == nil && full:
		r.cursor.window = 1 // what is behind it would be fetched again as well
		return false, nil
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
func (r *reader) outOfPatience(uid imap.UID, err error) bool {
	if r.stuck != uid {
		r.stuck, r.tries = uid, 0
	}
	if r.tries++; r.tries < patientTries {
		return false
	}
	r.audience.skip(r.stuck, UnfetchableMail, fmt.Errorf("asked for %d times: %w", r.tries, err))
	r.stuck = 0
	return true
}

// refuse goes past a mail that the server sends in excess of what was asked for, or
// sees to it that one before it is asked for alone.
func (r *reader) refuse(b *batch, tooMuch oversized) {
	if b.blocked != 0 {
		r.cursor.window = 1
		return
	}
	r.audience.skip(tooMuch.uid, UnfetchableMail, tooMuch)
	r.cursor.pass(tooMuch.uid)
}

// examine processes a mail, unless only its beginning is there and the rest is wanted.
func (r *reader) examine(f fetched) verdict {
	if f.whole() {
		return r.process(f)
	}
	m, err := wire.DecodeHeader(f.body)
	switch {
	case err == wire.ErrBatch && f.size <= r.maxBatch():
		return large // the header does not say what is in it
	case err == wire.ErrBatch:
		r.audience.skip(f.uid, LargeMail, fmt.Errorf("%w: a batch of messages has %d bytes, the limit for them is %d; raise limits.max-body", transport.ErrTooLarge, f.size, r.maxBatch()))
		return settled
	case err != nil:
		return r.reject(f, err)
	case !r.audience.wants(m):
	case f.size > r.maxMail:
		r.audience.skip(f.uid, LargeMail, fmt.Errorf("%w: message %s has %d bytes, the limit for mails is %d; raise limits.max-body", transport.ErrTooLarge, m.Name, f.size, r.maxMail))
	default:
		return large
	}
	return settled
}

// process decodes a mail and delivers the message.
func (r *reader) process(f fetched) verdict {
	m, err := wire.Decode(f.body)
	switch {
	case err == wire.ErrBatch:
		return r.processBatch(f)
	case err != nil:
		return r.reject(f, err)
	}
	if err := r.tooLarge(m); err != nil {
		r.audience.skip(f.uid, LargeMail, err)
		return settled
	}
	return r.deliver(f, m)
}

// maxBatch is the size of the largest mail that is read, if it holds several messages.
func (r *receiver) maxBatch() int64 { return max(r.maxMail, batchRoom) }

// tooLarge returns an error if a message is above the limit, and somebody wants it.
func (r *reader) tooLarge(m *transport.Message) error {
	if len(m.Body) <= r.maxBody || !r.audience.wants(m) {
		return nil
	}
	return fmt.Errorf("%w: the body of message %s has %d bytes, the limit is %d; raise limits.max-body", transport.ErrTooLarge, m.Name, len(m.Body), r.maxBody)
}

// reject deals with a mail that package wire can't decode as a message.
func (r *reader) reject(f fetched, err error) verdict {
	if errors.Is(err, wire.ErrForeign) {
		return r.foreign(f, err)
	}
	r.audience.skip(f.uid, MalformedMail, err)
	return settled
}

// deliver delivers a message.
func (r *reader) deliver(f fetched, m *transport.Message) verdict {
	if m.Info.ReceivedTime = f.received; f.received.IsZero() {
		m.Info.ReceivedTime = time.Now()
	}
	if _, ok := r.audience.take(f, m); !ok {
		return refused
	}
	return settled
}

// isNo reports whether err is the answer NO, after which the connection is as good as
// before.
func isNo(err error) bool {
	reply, ok := errors.AsType[*imap.Error](err)
	return ok && reply.Type == imap.StatusResponseTypeNo
}
