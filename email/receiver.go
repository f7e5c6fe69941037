package email

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync/atomic"
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

// receiver is the polling manager: it owns the IMAP connection, decides when to look
// into the inbox, and dispatches what it finds there.
type receiver struct {
	address    string // for the log
	logger     *slog.Logger
	onMail     func([]byte, *transport.Message) // may be nil
	period     time.Duration
	maxMail    int64
	dispatcher transport.Dispatcher
	connect    func(context.Context) (*session, error)

	wake   chan struct{} // capacity one: look now
	start  time.Time
	active atomic.Int64 // time of the last sign of life, since start
	cancel context.CancelFunc
	done   chan struct{}

	// The rest belongs to the goroutine that runs the loop.
	session *session
	failed  int // connections that did not live long
	cost    time.Duration
	cursor  cursor
	stuck   imap.UID // mail that the server does not send
	tries   int      // how often it has been asked for
	skipped int
}

// open connects, takes what is in the inbox as old, and starts the loop.
func (r *receiver) open(ctx context.Context) error {
	s, err := r.connect(ctx)
	if err != nil {
		return err
	}
	r.session = s
	r.cursor = cursor{validity: s.validity, next: s.next}
	r.wake = make(chan struct{}, 1)
	r.done = make(chan struct{})
	r.start = time.Now()
	r.active.Store(math.MinInt64 / 2)
	ctx, r.cancel = context.WithCancel(context.Background())
	go r.run(ctx)
	return nil
}

// close ends the loop and waits for it.
func (r *receiver) close(ctx context.Context) error {
	r.cancel()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// touch notes a sign of life.
func (r *receiver) touch() { r.active.Store(int64(time.Since(r.start))) }

// expect makes the loop look for an answer that is due to come.
func (r *receiver) expect() {
	r.touch()
	signal(r.wake)
}

// receive implements transport.Receiver.
func (r *receiver) receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func()) {
	stop = r.dispatcher.Add(interest, deliver)
	if r.dispatcher.Len() == 1 {
		signal(r.wake)
	}
	return stop
}

// run looks and rests in turns until ctx ends.
func (r *receiver) run(ctx context.Context) {
	defer close(r.done)
	defer r.disconnect()
	for r.awaitInterest(ctx) && r.reconnect(ctx) {
		err := r.look(ctx)
		if err == nil {
			err = r.rest(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.logger.Warn("email: connection for receiving lost; reconnecting", "mailbox", r.address, "error", err)
			r.disconnect()
		}
	}
}

// awaitInterest waits until somebody wants mail. Until then nothing is fetched, and a
// connection that the server ends is not replaced.
func (r *receiver) awaitInterest(ctx context.Context) bool {
	for ctx.Err() == nil {
		if r.dispatcher.Len() > 0 {
			return true
		}
		var ended <-chan struct{}
		if r.session != nil {
			ended = r.session.client.Closed()
		}
		select {
		case <-r.wake:
		case <-ended:
			r.logger.Debug("email: connection for receiving ended while not in use", "mailbox", r.address)
			r.disconnect()
		case <-ctx.Done():
		}
	}
	return false
}

// reconnect makes sure that there is a connection. It returns false when ctx ends.
func (r *receiver) reconnect(ctx context.Context) bool {
	if r.session != nil {
		return true
	}
	since := time.Now()
	for {
		if !sleep(ctx, backOff(r.failed, rand.Float64())) {
			return false
		}
		r.failed++
		s, err := r.connect(ctx)
		if err == nil {
			r.session = s
			break
		}
		r.logger.Debug("email: reconnecting failed", "mailbox", r.address, "attempts", r.failed, "error", err)
	}
	r.logger.Info("email: connection for receiving is back", "mailbox", r.address, "after", time.Since(since).Round(time.Millisecond))
	if was := r.cursor; r.cursor.resume(r.session.validity, r.session.next) {
		r.logger.Warn("email: the server has renumbered the inbox; mail that arrived while it was not connected is not received",
			"mailbox", r.address, "uidvalidity", r.cursor.validity, "was", was.validity, "next", r.cursor.next, "expected", was.next)
	}
	return true
}

func (r *receiver) disconnect() {
	if r.session == nil {
		return
	}
	// Only a connection that lasts shows that the trouble is over.
	if time.Since(r.session.opened) > longestDelay {
		r.failed = 0
	}
	r.session.close()
	r.session = nil
}

// rest waits for the time of the next look.
func (r *receiver) rest(ctx context.Context) error {
	p := pace{
		quiet:   time.Since(r.start) - time.Duration(r.active.Load()),
		cost:    r.cost,
		canIdle: r.session.canIdle,
		period:  r.period,
	}
	wait, idle := p.next()
	if idle {
		if err := r.session.idle(ctx); err != nil {
			if reply, ok := errors.AsType[*imap.Error](err); !ok || reply.Type == imap.StatusResponseTypeBye {
				return err
			}
			r.logger.Warn("email: the server refuses IDLE; polling instead", "mailbox", r.address, "error", err)
			r.session.canIdle = false
			return nil
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.session.news:
	case <-r.wake:
	case <-r.session.client.Closed():
	case <-ctx.Done():
	}
	return nil
}

// look delivers what is new, until there is nothing new.
func (r *receiver) look(ctx context.Context) error {
	for {
		start := time.Now()
		more, err := r.fetch(ctx)
		if err != nil {
			return err
		}
		if !more {
			r.cost = time.Since(start)
			return nil
		}
	}
}

// fetch delivers what one FETCH finds. more says that there may be more.
func (r *receiver) fetch(ctx context.Context) (more bool, err error) {
	// Cleared before, so that what is announced from now on is looked at again.
	select {
	case <-r.session.news:
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
	switch {
	case isNo(err):
		// Some could not be read: deleted just now, which the next look shows, or damaged.
		r.cursor.finish(&batch, r.outOfPatience(r.cursor.next, err))
		return false, nil
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
		return batch.found || batch.to != math.MaxUint32, nil
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
		if r.outOfPatience(uid, err) {
			r.cursor.pass(uid)
			return true, nil
		}
		return false, nil
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
	r.logger.Warn("email: mail skipped: it can't be fetched", "mailbox", r.address, "uid", r.stuck, "tries", r.tries, "error", err)
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
	r.logger.Warn("email: mail skipped", "mailbox", r.address, "uid", tooMuch.uid, "error", tooMuch)
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
		r.skip(f.uid, err)
	case !r.dispatcher.Wants(m):
	case f.size > r.maxMail:
		r.skip(f.uid, fmt.Errorf("%w: message %s has %d bytes, the limit for mails is %d; raise limits.max-body", transport.ErrTooLarge, m.Name, f.size, r.maxMail))
	default:
		return true
	}
	return false
}

// process decodes a mail and delivers the message.
func (r *receiver) process(f fetched) {
	m, err := wire.Decode(f.body)
	if err != nil {
		r.skip(f.uid, err)
		return
	}
	m.Info.ReceivedTime = time.Now()
	if r.onMail != nil {
		r.onMail(f.body, m)
	}
	if r.dispatcher.Dispatch(transport.Delivery{Message: m}) > 0 {
		r.touch()
	}
}

// skip counts and logs a mail that is not delivered. Mail of others is normal.
func (r *receiver) skip(uid imap.UID, err error) {
	r.skipped++
	level := slog.LevelWarn
	if errors.Is(err, wire.ErrForeign) {
		level = slog.LevelDebug
	}
	r.logger.Log(context.Background(), level, "email: mail skipped", "mailbox", r.address, "uid", uid, "skipped so far", r.skipped, "error", err)
}

// isNo reports whether err is the answer NO, after which the connection is as good as
// before.
func isNo(err error) bool {
	reply, ok := errors.AsType[*imap.Error](err)
	return ok && reply.Type == imap.StatusResponseTypeNo
}

// sleep waits, and returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
