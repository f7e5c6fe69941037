package email

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/internal/claim"
)

// look reads what is new in the log.
func (g *group) look(ctx context.Context) error {
	if err := g.log.refresh(ctx); err != nil {
		return err
	}
	return g.readOn(ctx)
}

// readOn reads what the server shows of the log.
func (g *group) readOn(ctx context.Context) error {
	start := time.Now()
	g.stale = false
	mails, missing, err := g.log.read(ctx, g.next)
	if err != nil {
		return err
	}
	var entries []claim.Entry
	next := g.next
	for _, m := range mails {
		if missing != 0 && m.uid > missing {
			break
		}
		r, err := claim.Parse(m.text)
		switch {
		case errors.Is(err, claim.ErrNewer):
			return fmt.Errorf("message %d in the folder %s: %w: this program is too old for the group", m.uid, g.log.name, err)
		case err != nil:
			g.groups.logger.Debug("email: a mail in the folder of a group is no record of it", "folder", g.log.name, "uid", m.uid, "error", err)
		default:
			entries = append(entries, claim.Entry{UID: uint32(m.uid), At: m.arrived, Record: r})
			g.listen(r)
		}
		next = max(next, after(m.uid))
	}
	if missing != 0 {
		next = g.lacking(missing, next)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next, g.read = next, start
	if len(entries) > 0 {
		g.clock = time.Now()
		g.state.Advance(entries)
		g.settlePending()
		g.sift()
	}
	return nil
}

// lacking counts how often the server has announced a mail without sending it, and returns from which one on to
// read next: what it has sent before, or, in the end, behind it.
func (g *group) lacking(uid, next imap.UID) imap.UID {
	u := &g.unreadable
	if u.uid != uid {
		u.uid, u.tries = uid, 0
	}
	g.stale = true
	if u.tries++; u.tries < patientTries {
		return min(next, uid)
	}
	g.groups.logger.Warn("email: a mail in the folder of a group can't be read; going on without it", "folder", g.log.name, "uid", uid, "tries", u.tries)
	return after(uid)
}

// listen hears what others want to know.
func (g *group) listen(r *claim.Record) {
	if r.Member == g.member || g.state.Start == 0 {
		return
	}
	if r.Ask || r.State != nil && r.State.UID == 0 {
		g.groups.logger.Warn("email: a member of a group does not know what has been; telling it", "mailbox", g.groups.address, "group", g.interest.Group, "member", r.Member)
		g.wanted = true
	}
}

// settlePending takes the consequences of the pending record, if it has been applied. g.mu is held.
func (g *group) settlePending() {
	s := g.pending
	if s == nil || g.state.Start == 0 || !g.state.Applied(g.member, s.record.Number) {
		return
	}
	g.pending, g.hello = nil, false
	g.renewed.Store(&s.first)
	if s.checkpoint {
		g.wanted = false
	}
	if s.record.Resync {
		g.inbox.resync = nil
		g.inbox.refused = true // it was until now
	}
	for _, c := range s.record.Claims {
		g.claimed(c)
	}
	for _, it := range s.items {
		g.onRecord(it)
	}
	if g.reclaim {
		g.reclaim = false
		g.adopt()
	}
}

// claimed notes what has become of a claim. Records of others that were read together with it may have changed
// that again. g.mu is held.
func (g *group) claimed(c claim.Claim) {
	it := g.items[c.Key]
	if it == nil || it.stage != stageClaiming {
		return // claimed once more; sift sees to it
	}
	switch g.state.Standing(c.Key, g.member) {
	case claim.Mine:
		it.stage, it.attempt = stageHeld, g.state.Open[c.Key].Attempts
		delete(g.due, c.Key)
		for _, other := range g.ahead(c.Key) {
			g.absent[other] = g.state.Members[other].Seen
		}
		g.inbox.fetch = g.inbox.fetch || it.message == nil
	case claim.Unknown:
		it.stage, it.since = stageCandidate, time.Now().Add(time.Second)
		g.inbox.candidates++
		if it.message != nil {
			g.inbox.bytes += len(it.message.Body)
		}
	default:
		g.due[c.Key] = due{at: time.Now().Add(claimDelay)}
		delete(g.items, c.Key)
	}
}

// onRecord ends an item whose outcome is on record. g.mu is held.
func (g *group) onRecord(it *item) {
	lost := g.state.Lost(g.member, it.key)
	switch {
	case lost:
		g.finish(it, errTaken)
		return
	case it.outcome == outcomeDone:
		g.recent = append(g.recent, it.key)
		if len(g.recent) > recentDone {
			g.recent = g.recent[len(g.recent)-recentDone:]
		}
	case it.outcome == outcomeReleased:
		g.due[it.key] = due{at: it.until}
	case it.outcome == outcomeUntried:
		g.due[it.key] = due{at: g.clock, back: true}
		if other := g.freeSeat(it.seat); it.seat != nil && other != nil && other != it.seat {
			g.avoid[it.key] = it.seat
		}
	}
	g.finish(it, nil)
}

// adopt takes what the log says that this member has, and it does not know of. g.mu is held.
func (g *group) adopt() {
	for key, o := range g.state.Open {
		if o.Member == g.member && g.items[key] == nil {
			g.items[key] = &item{group: g, key: key, uid: o.UID, stage: stageHeld, attempt: o.Attempts, settled: make(chan struct{})}
			g.inbox.fetch = true
		}
	}
}

// sift looks through the items after the state has changed. g.mu is held.
func (g *group) sift() {
	for key, it := range g.items {
		standing := g.state.Standing(key, g.member)
		switch {
		case it.stage == stageCandidate:
			if o := g.state.Open[key]; standing == claim.Settled || o != nil && o.UID != 0 {
				g.drop(it)
			}
		case it.stage == stageClaiming || g.reclaim || standing == claim.Mine || it.outcome != 0 || it.taken.Load():
		case it.stage == stageHeld:
			delete(g.items, key)
		default:
			it.taken.Store(true)
			g.groups.logger.Warn("email: another member of a group has taken a message over that is being handled here", "mailbox", g.groups.address, "group", g.interest.Group, "message", key)
		}
	}
	for key := range g.due {
		if g.state.Open[key] == nil {
			delete(g.due, key)
			delete(g.avoid, key)
		}
	}
	for name, seen := range g.absent {
		if m := g.state.Members[name]; m == nil || m.Seen != seen {
			delete(g.absent, name)
		}
	}
}
