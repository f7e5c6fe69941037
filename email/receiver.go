package email

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// receiver is the polling manager: it owns the IMAP connection, decides when to look
// into the inbox, and dispatches what it finds there.
type receiver struct {
	address    string // for the log
	folder     string // that is watched
	logger     *slog.Logger
	onMail     func([]byte, *transport.Message) // may be nil
	period     time.Duration
	maxBody    int
	maxMail    int64
	people     people // who may publish and call by mail
	sent       *sentBatches
	dispatcher transport.Dispatcher
	feeds      feeds
	lives      sync.Map // of *live, as keys: those that have not been stopped
	connect    func(context.Context) (*session, error)
	forgive    func(error) bool // says whether the first connection can wait; nil: no
	// remembered says what those need who are not here but are on record (see keeper). It may be nil.
	remembered func(validity uint32) (from imap.UID, open []imap.UID)

	awaited awaited
	wake    chan struct{} // capacity one: look now
	work    chan struct{} // capacity one: somebody waits for the connection
	start   time.Time
	active  atomic.Int64 // time of the last sign of life, since start
	cancel  context.CancelFunc
	done    chan struct{}

	// The rest belongs to the goroutine that runs the loop.
	session *session
	failed  int // connections that did not live long
	cost    time.Duration
	// trust is how far IDLE can be relied on; waited says that the server was in IDLE and had not announced
	// anything before the look that comes next.
	trust     trust
	waited    bool
	rhythms   rhythms
	noted     imap.UID // the last mail that was a sign of life
	live      reader   // for all interests that have no place of their own
	rescan    rescan
	skips     skips
	retention retention
}

// open connects and starts the loop.
func (r *receiver) open(ctx context.Context) error {
	r.wake, r.work = make(chan struct{}, 1), make(chan struct{}, 1)
	r.done = make(chan struct{})
	r.start = time.Now()
	r.skips.chore = chore{apply: r.skips.sort, mails: "skipped mails", done: "marked or moved"}
	r.retention.chore = chore{apply: r.retention.dispose, mails: "finished messages", done: "marked, moved or deleted"}
	r.active.Store(math.MinInt64 / 2)
	s, err := r.connect(ctx)
	switch {
	case err == nil:
		r.meet(s)
	case r.forgive == nil || !r.forgive(err):
		return err
	}
	ctx, r.cancel = context.WithCancel(context.Background())
	go r.run(ctx)
	return nil
}

// meet begins with the inbox: what is in it is old.
func (r *receiver) meet(s *session) {
	r.session = s
	s.checked = true
	r.live = reader{receiver: r, audience: liveAudience{r}, cursor: cursor{validity: s.validity, next: s.next}}
	r.feeds.set(s.validity, s.next)
	r.rescan.looked = time.Now()
}

// close ends the loop and waits for it.
func (r *receiver) close(ctx context.Context) error {
	r.cancel()
	select {
	case <-r.done:
		r.stopLives(true)
		return nil
	case <-ctx.Done():
		r.stopLives(false)
		return ctx.Err()
	}
}

// stopLives ends the interests that remember nothing. If the loop has not ended, one may be in a
// delivery that does not return, which is not waited for then.
func (r *receiver) stopLives(ended bool) {
	stop := func() {
		r.lives.Range(func(l, _ any) bool {
			l.(*live).stop()
			return true
		})
	}
	if ended {
		stop()
	} else {
		go stop()
	}
}

// touch notes a sign of life.
func (r *receiver) touch() { r.active.Store(int64(time.Since(r.start))) }

// expect makes the loop look for a message that is likely to come.
func (r *receiver) expect() {
	r.touch()
	signal(r.work)
	signal(r.wake)
}

// run looks and rests in turns until ctx ends.
func (r *receiver) run(ctx context.Context) {
	defer close(r.done)
	defer r.disconnect()
	for ctx.Err() == nil && r.reconnect(ctx) {
		err := r.resync(ctx)
		if err == nil {
			err = r.look(ctx)
		}
		if err == nil {
			err = r.rest(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.logger.Warn("email: connection for receiving lost; reconnecting", "mailbox", r.address, "error", err)
			r.disconnect()
		}
	}
}

// reconnect makes sure that there is a connection. It returns false when ctx ends.
func (r *receiver) reconnect(ctx context.Context) bool {
	if r.session != nil {
		return true
	}
	since := time.Now()
	last := since // the last attempt
	refused := false
	for {
		wait := func() bool { return r.pause(ctx, backoff.Delay(r.failed+1), last) }
		if refused {
			wait = func() bool { return backoff.Sleep(ctx, refusedDelay) } // more tries get the account locked
		}
		if !wait() {
			return false
		}
		r.failed++
		last = time.Now()
		s, err := r.connect(ctx)
		if err == nil {
			if r.session = s; r.live.receiver == nil {
				r.meet(s)
			}
			break
		}
		if errors.Is(err, transport.ErrRefused) && !refused {
			r.logger.Warn("email: the server refuses the account; trying on", "mailbox", r.address, "every", refusedDelay, "error", err)
			refused = true
		}
		r.logger.Debug("email: reconnecting failed", "mailbox", r.address, "attempts", r.failed, "error", err)
	}
	select {
	case <-r.work: // what was waiting need not
	default:
	}
	r.logger.Info("email: connection for receiving is back", "mailbox", r.address, "after", time.Since(since).Round(time.Millisecond))
	return true
}

// pause waits between two attempts to connect. When there is work it waits no longer than
// backoff.Least after the last attempt. It returns false when ctx ends.
func (r *receiver) pause(ctx context.Context, delay time.Duration, last time.Time) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.work:
		return backoff.Sleep(ctx, min(delay, time.Until(last.Add(backoff.Least))))
	case <-ctx.Done():
		return false
	}
}

func (r *receiver) disconnect() {
	if r.session == nil {
		return
	}
	// Only a connection that lasts shows that the trouble is over. So there is no more than one in
	// backoff.Least, however long the trouble is.
	if time.Since(r.session.opened) >= backoff.Least {
		r.failed = 0
	}
	r.session.close()
	r.session = nil
}

// rest waits for the time of the next look.
func (r *receiver) rest(ctx context.Context) error {
	now := time.Now()
	p := pace{
		quiet:   now.Sub(r.start) - time.Duration(r.active.Load()),
		cost:    r.cost,
		canIdle: r.session.canIdle,
		prompt:  r.trust > distrusted,
		proven:  r.trust >= trusted,
		awaited: r.awaited.any(now),
		beat:    r.rhythms.next(now),
		period:  r.period,
	}
	wait, idle := p.next()
	if len(r.session.news) > 0 {
		return nil // announced at the end of the look, which says nothing about IDLE
	}
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
	if len(r.session.news) > 0 {
		return nil // found by the server as IDLE began
	}
	start := time.Now()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		r.waited = idle
	case <-r.session.news:
		if idle && time.Since(start) < idleDelay {
			r.trust.prompt()
		}
	case <-r.wake:
	case <-r.session.client.Closed():
	case <-ctx.Done():
	}
	return nil
}

// resync deals with an inbox that is not the one it was before the connection was lost: the server
// has renumbered it, or restored an older state of it.
func (r *receiver) resync(ctx context.Context) error {
	was := r.live.cursor
	if was.next = r.end(); r.session.checked || !was.renumbered(r.session.validity, r.session.next) {
		r.session.checked = true
		return nil
	}
	first, err := r.firstSince(ctx, r.rescan.looked.Add(-aDay), r.session.next)
	if err != nil {
		return err
	}
	r.logger.Warn("email: the server has renumbered the inbox; reading again what has arrived lately",
		"mailbox", r.address, "uidvalidity", r.session.validity, "was", was.validity, "next", r.session.next, "expected", was.next, "from", first)
	r.live.cursor = cursor{validity: r.session.validity, next: first}
	r.live.isolation = isolation{}
	r.live.dates = true
	r.rescan.until = r.session.next
	r.skips.drop(len(r.skips.waiting))
	r.retention.drop(len(r.retention.waiting))
	r.retention.began = false
	r.feeds.set(r.session.validity, r.session.next)
	r.restartFeeds()
	r.session.checked = true
	return nil
}

// end returns the first UID that was not there when the receiver last looked.
func (r *receiver) end() imap.UID { return max(r.live.cursor.next, r.rescan.until) }

// look delivers what is new, until there is nothing new.
func (r *receiver) look(ctx context.Context) error {
	for {
		if err := r.adoptFeeds(ctx); err != nil {
			return err
		}
		if r.dispatcher.Len() == 0 && r.feeds.none() {
			err := r.passOver(ctx)
			for more := err == nil; more && r.dispatcher.Len() == 0 && r.feeds.none(); {
				if more, err = r.retain(ctx); err != nil {
					return err
				}
			}
			return err
		}
		start := time.Now()
		more, err := r.lookLive(ctx)
		if err != nil {
			return err
		}
		if !more && !r.live.found {
			// One that was slow by chance, as when other programs wanted the processor, says little.
			r.cost = min(time.Since(start), 2*r.cost+shortestWait)
		}
		behind, err := r.catchUp(ctx)
		if err != nil {
			return err
		}
		more = more || behind
		if n := len(r.skips.waiting); n >= sweepSize || n > 0 && !more {
			if err := r.sweep(ctx, &r.skips.chore); err != nil {
				return err
			}
			more = more || len(r.skips.waiting) > 0
		}
		if !more {
			if more, err = r.retain(ctx); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// lookLive delivers to everybody who is up to date what one FETCH finds.
func (r *receiver) lookLive(ctx context.Context) (more bool, err error) {
	waited := r.waited
	r.waited = false
	// Cleared before, so that what is announced from now on is looked at again.
	select {
	case <-r.session.news:
		waited = false
	default:
	}
	next := r.live.cursor.next
	r.live.found = false
	more, err = r.live.fetch(ctx)
	// Dovecot tells a FETCH what it knew at the end of the command before, and then what is new.
	if waited && (r.live.found || len(r.session.news) > 0) {
		r.trust.late()
	}
	if err != nil {
		r.live.isolation.broke(r.live.cursor.next)
	} else {
		r.live.isolation.breaks = 0
	}
	if err == nil && !more {
		r.rescan.looked = time.Now()
	}
	if r.live.cursor.next != next {
		r.advance()
	}
	return more, err
}

// advance notes that the receiver has gone on in the inbox.
func (r *receiver) advance() {
	if r.live.dates && r.rescan.over(r.live.cursor.next) {
		r.live.dates = false
	}
	r.feeds.moved(r.end())
	r.passFeeds()
}

// passOver moves the cursor past what has arrived while nobody wants any mail: an
// interest is for what comes after it was stated.
func (r *receiver) passOver(ctx context.Context) error {
	r.waited = false // nobody has waited for what comes
	select {
	case <-r.session.news:
	default:
	}
	var highest imap.UID
	err := r.session.fetch(ctx, span(r.live.cursor.next, lastUID, 0), func(f fetched) { highest = max(highest, f.uid) })
	if isNo(err) {
		err = nil // what can't be read now is looked at again
	}
	if err == nil {
		r.rescan.looked = time.Now()
	}
	// What is known by now was there before any interest that is stated after this.
	if err == nil && highest != 0 && r.dispatcher.Len() == 0 && r.feeds.none() {
		r.live.cursor.pass(highest)
		r.advance()
	}
	return err
}

// liveAudience is everybody who is up to date.
type liveAudience struct{ *receiver }

func (l liveAudience) wants(m *transport.Message) bool {
	return l.dispatcher.Wants(m) || l.feedsWant(m)
}

func (l liveAudience) take(f fetched, m *transport.Message) (n int, ok bool) {
	l.rescan.arrived = time.Time{}
	if f.uid < l.rescan.until {
		l.rescan.arrived = f.arrived
	}
	if a := l.rescan.arrived; l.onMail != nil && (a.IsZero() || !a.Before(l.rescan.looked.Add(-clockSkew))) {
		l.onMail(f.body, m)
	}
	if f.part == 0 {
		l.feeds.moved(after(f.uid))
	}
	n = l.dispatcher.Dispatch(transport.Delivery{Message: m}) + l.offerFeeds(f, m)
	if !m.InReplyTo.IsZero() {
		l.awaited.settle(m.InReplyTo)
	}
	if n > 0 && (f.part == 0 || l.noted != f.uid) { // what comes in one mail is one sign of life
		l.noted = f.uid
		l.touch()
		l.rhythms.heard(m.Info.PublisherGID, m.Info.SourceTime, m.Info.ReceivedTime)
		if !m.InReplyTo.IsZero() {
			l.rhythms.surprise() // it comes because somebody has asked
		}
	}
	return n, true
}

// aDay is more than the error of a day in a zone that is not known.
const aDay = 24 * time.Hour
