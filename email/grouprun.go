package email

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

const (
	// idleLogAfter is how long the log has to be quiet before IDLE is worth it.
	idleLogAfter = 50 * time.Millisecond
	// newsPause is how long what others write is left unread while nothing is to be done.
	newsPause = 100 * time.Millisecond
	// askPeriod is how long a new member waits for others to write the state down that it can't find, and
	// askPause between two looks.
	askPeriod, askPause = 3 * time.Second, 200 * time.Millisecond
	// leaveTimeout bounds what is written when the group is left.
	leaveTimeout = 5 * time.Second
)

// run keeps the member in the group until it is closed or nobody is interested any more.
func (g *group) run(ctx context.Context) {
	defer g.end()
	for failed := 0; ; {
		start := time.Now()
		g.opened = time.Time{}
		err := g.session(ctx)
		if err == nil || ctx.Err() != nil || g.isClosing() {
			return
		}
		// As in receiver.disconnect, only what lasts shows that the trouble is over.
		if !g.opened.IsZero() && time.Since(g.opened) >= backoff.Least {
			failed = 0
		}
		failed++
		g.complain(err, failed)
		if !g.backOff(ctx, failed, start, errors.Is(err, transport.ErrRefused)) {
			return
		}
	}
}

// backOff waits before the next session, after so many that have failed. When there is something to do it
// waits no longer than backoff.Least from start on, when the last one began. It returns false if the
// group is closed first.
func (g *group) backOff(ctx context.Context, failed int, start time.Time, refused bool) bool {
	delay := backoff.Delay(failed)
	wake := g.wake
	if refused {
		delay, wake = max(delay, refusedDelay), nil // more tries get the account locked
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-wake:
			wake = nil
			timer.Reset(min(delay, time.Until(start.Add(backoff.Least))))
		case <-g.closing:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// complain logs that the log of the group can't be used, once until it can.
func (g *group) complain(err error, failed int) {
	if !g.failing {
		g.failing = true
		g.groups.logger.Warn("email: the log of a group can't be used; trying on", "mailbox", g.groups.address, "group", g.interest.Group, "folder", g.folder, "error", err)
		return
	}
	g.groups.logger.Debug("email: the log of a group can't be used", "folder", g.folder, "attempts", failed, "error", err)
}

// end tells everybody who waits that the member is not there any more.
func (g *group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.detach()
	waiting := g.queue
	if g.pending != nil {
		waiting = append(waiting, g.pending.items...)
	}
	for _, it := range waiting {
		g.finish(it, errGroupClosed)
	}
	g.queue, g.pending = nil, nil
}

// session connects and takes part. It returns nil when the member has left the group.
func (g *group) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := g.groups.connect(ctx, g.folder)
	if err != nil {
		return err
	}
	defer l.close()
	g.log = l
	if g.validity != 0 && g.validity != l.validity {
		g.lose()
	}
	g.validity = l.validity
	if err := g.load(ctx); err != nil {
		return err
	}
	g.opened = time.Now()
	if g.failing {
		g.failing = false
		g.groups.logger.Info("email: the log of a group can be used again", "mailbox", g.groups.address, "group", g.interest.Group)
	}
	return g.serve(ctx)
}

// lose begins anew because the log has been deleted.
func (g *group) lose() {
	g.groups.logger.Warn("email: the log of a group has been lost; what this member remembers is written into a new one",
		"mailbox", g.groups.address, "group", g.interest.Group, "folder", g.folder)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state.Start != 0 {
		g.lost = g.state
	}
	g.state, g.next, g.reclaim = new(claim.State), 1, true
	if g.pending != nil {
		g.queue = append(g.pending.items, g.queue...)
		g.pending = nil
	}
	for _, it := range g.items {
		if it.stage == stageClaiming {
			delete(g.items, it.key) // it is offered again
		}
	}
	g.detach()
}

// load reads the log, or begins it.
func (g *group) load(ctx context.Context) error {
	for before := imap.UID(0); before != g.next; {
		before = g.next
		if err := g.look(ctx); err != nil {
			return err
		}
	}
	if g.state.Start == 0 {
		if err := g.found(ctx); err != nil {
			return err
		}
	}
	g.hello, g.lost, g.checked = true, nil, time.Now()
	return nil
}

// found writes the beginning of the log. If there has been one before, others may know better.
func (g *group) found(ctx context.Context) error {
	name := rand.Text()
	if g.log.next > 1 && g.lost == nil {
		name = "" // others may know the log by another
		g.groups.logger.Warn("email: the log of a group has no beginning; asking other members", "mailbox", g.groups.address, "group", g.interest.Group, "folder", g.folder)
		if err := g.say(ctx, &claim.Record{Ask: true}); err != nil {
			return err
		}
		for end := time.Now().Add(askPeriod); g.state.Start == 0 && time.Now().Before(end); {
			if !backoff.Sleep(ctx, askPause) {
				return ctx.Err()
			}
			if err := g.look(ctx); err != nil {
				return err
			}
		}
	}
	if g.state.Start != 0 {
		return nil
	}
	if g.position.validity == 0 { // the receiver had not reached the inbox when the interest was stated
		g.position = g.groups.receiver.feeds.began()
	}
	if g.position.validity == 0 { // nor has it now
		validity, next, err := g.log.status(ctx, g.log.watched)
		if err != nil {
			return err
		}
		g.position = position{validity, next}
	}
	begin := claim.Fresh(g.position.validity, uint32(g.position.next))
	if g.lost != nil {
		_, below, err := g.log.status(ctx, g.log.watched)
		if err != nil {
			return err
		}
		begin = g.lost.Again(uint32(below))
	}
	if err := g.say(ctx, &claim.Record{Log: name, State: begin}); err != nil {
		return err
	}
	for range patientTries {
		if err := g.look(ctx); err != nil || g.state.Start != 0 {
			return err
		}
	}
	return errNotThere
}

var errNotThere = errors.New("the server has taken a mail for the folder of the group, and does not show it")

// say appends a record whose fate does not matter.
func (g *group) say(ctx context.Context, r *claim.Record) error {
	g.number++
	r.Member, r.Number, r.Lease = g.member, g.number, 1
	mail, err := recordMail(r, g.interest.Group, g.groups.address, time.Now())
	if err != nil {
		return err
	}
	return g.log.append(ctx, mail)
}

// serve does what is to be done, and rests, until the connection breaks or the member leaves.
func (g *group) serve(ctx context.Context) error {
	for {
		g.attach()
		g.deliver()
		p := g.plan(time.Now())
		if p.poke {
			g.poke()
		}
		var err error
		switch {
		case g.pending != nil:
			err = g.write(ctx)
		case p.end && (g.isClosing() || g.groups.retire(g)):
			g.bye(ctx)
			return nil
		case p.look:
			err = g.look(ctx)
		case p.check:
			err = g.check(ctx)
		default:
			err = g.rest(ctx, p.wait)
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// attach makes the receiver offer messages, from where the log says.
func (g *group) attach() {
	g.mu.Lock()
	wanted := g.inbox.feed == nil && len(g.seats) > 0 && !g.reclaim
	g.mu.Unlock()
	if !wanted {
		return
	}
	f := g.groups.receiver.newFeed(transport.Interest{Kind: g.interest.Kind, Name: g.interest.Name})
	g.mu.Lock()
	g.inbox.feed = f
	g.mu.Unlock()
	f.start(groupFeed{g, f})
}

// poke tells the receiver that there is room, or that messages are to be read again.
func (g *group) poke() {
	g.mu.Lock()
	f := g.inbox.feed
	g.mu.Unlock()
	if f != nil {
		f.poke()
	}
}

// write writes the pending record and reads what has become of it. If it is not known whether the record was stored it
// stays pending: it is written again, which changes nothing if it was.
func (g *group) write(ctx context.Context) error {
	s := g.pending
	if s.mail == nil {
		mail, err := recordMail(s.record, g.interest.Group, g.groups.address, s.first)
		if err != nil {
			return err
		}
		if len(mail) > claim.MaxCheckpoint && s.checkpoint {
			// Nobody would read it. The log grows until less is open.
			s.record.State, s.checkpoint, s.prune = nil, false, 0
			if mail, err = recordMail(s.record, g.interest.Group, g.groups.address, s.first); err != nil {
				return err
			}
		}
		s.mail = mail
		g.number = s.record.Number
		s.record.State = nil // it goes on
	}
	if err := g.log.append(ctx, s.mail); err != nil {
		return err
	}
	for range patientTries {
		if err := g.readOn(ctx); err != nil {
			return err
		}
		if g.pending == nil {
			if s.prune > 0 {
				return g.log.prune(ctx, imap.UID(s.prune))
			}
			return nil
		}
		if err := g.log.refresh(ctx); err != nil {
			return err
		}
	}
	return errNotThere
}

// check sees whether the log is still there, and whether there is something new in it.
func (g *group) check(ctx context.Context) error {
	validity, next, err := g.log.status(ctx, g.log.name)
	if err != nil {
		return err
	}
	if validity != g.validity {
		return errReplaced
	}
	g.checked, g.stale = time.Now(), next > g.next
	return nil
}

// bye leaves the group, so that the others need not wait for the lease to end.
func (g *group) bye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	g.mu.Lock()
	g.detach()
	g.mu.Unlock()
	if err := g.say(ctx, &claim.Record{Log: g.state.Log, Leave: true}); err != nil {
		g.groups.logger.Debug("email: leaving a group failed", "folder", g.folder, "error", err)
	}
}

// rest waits until there is something to do.
func (g *group) rest(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(min(wait, idleLogAfter))
	defer timer.Stop()
	for idle := false; ; idle = true {
		select {
		case <-g.wake:
			return nil
		case <-g.log.news:
			g.stale = true
			return g.pause(ctx)
		case <-g.log.client.Closed():
			return fmt.Errorf("connection lost")
		case <-g.closing:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if wait -= idleLogAfter; idle || wait <= 0 {
			return nil
		}
		if g.watching() && g.log.canIdle {
			if !g.enterIdle(ctx) {
				return nil
			}
		}
		timer.Reset(wait)
	}
}

// pause lets others write more before it is read, unless there is something to do here.
func (g *group) pause(ctx context.Context) error {
	timer := time.NewTimer(newsPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.wake:
	case <-g.closing:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// enterIdle rests in IDLE, if the server lets it.
func (g *group) enterIdle(ctx context.Context) bool {
	err := g.log.idle(ctx)
	if err != nil {
		g.log.canIdle = false
	}
	return err == nil
}

// watching reports whether others may write something that matters here.
func (g *group) watching() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.state.Open {
		if o.Member != g.member {
			return true
		}
	}
	return g.inbox.candidates > 0
}
