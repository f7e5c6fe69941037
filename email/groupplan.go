package email

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/postbus/postbus/email/internal/claim"
)

const (
	// claimDelay is how long a member leaves a message to each that comes before it, at most
	// claimRanks times; and how long after a lease or delay has ended it takes over.
	claimDelay = 150 * time.Millisecond
	claimRanks = 4
	// givenBack is how long a member leaves a message to others that it has given back untried.
	givenBack = time.Second
	// claimsAtOnce is how many messages are claimed with one record.
	claimsAtOnce = 256
	// readBehind is by how much the log may lag behind in what has been read of the inbox, in UIDs.
	readBehind = 1000
	// checkpointAfter is after how many records the first member writes a checkpoint; each one after it waits for
	// checkpointSpread more.
	checkpointAfter, checkpointSpread = 100, 40
	// checkHolding is how often a member that waits for the others' word sees whether the log is still there. If it was
	// deleted once more they speak in another one, and this member has nothing to write by which it would notice.
	checkHolding = time.Second
	// recentDone is how many messages are told again when the log has been lost.
	recentDone = claim.MaxKeys
)

// plan is what to do next.
type plan struct {
	look  bool          // into the log
	check bool          // that the log is still there
	end   bool          // leave the group
	wait  time.Duration // if there is nothing to do
	poke  bool          // the receiver has room again
}

// within shortens the wait.
func (p *plan) within(d time.Duration) { p.wait = min(p.wait, max(d, time.Millisecond)) }

// plan decides what to do next, and leaves in g.pending what is to be written.
func (g *group) plan(now time.Time) (p plan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p = plan{wait: g.checkEvery(now) - now.Sub(g.checked), look: g.stale}
	p.check = p.wait <= 0
	if g.pending != nil {
		return p
	}
	closing := g.isClosing()
	r := &claim.Record{Member: g.member, Number: g.number + 1, Lease: int64(math.Ceil(g.lease.Seconds())), Log: g.state.Log, Validity: g.inbox.validity}
	s := &sent{record: r, first: now}
	switch {
	case g.reclaim:
		g.planReclaim(r)
	case g.inbox.resync != nil && !closing:
		r.Resync, r.Read, r.Limit = true, g.inbox.resync.Read, g.inbox.resync.Limit
	default:
		if !closing {
			g.planLapsed(now, &p)
			g.planClaims(r, now, &p)
		}
		g.planSettled(s)
	}
	write := !r.Empty() || g.planRenewal(now, &p)
	if write || g.readable() >= g.state.Read+readBehind {
		r.Read = max(r.Read, g.readable())
	}
	g.planCheckpoint(s)
	switch {
	case write || !r.Empty():
		g.pending = s
	case closing || len(g.seats) == 0 && len(g.items) == 0:
		p.end = true
	}
	if g.inbox.refused && g.current() && len(g.seats) > 0 && g.inbox.candidates <= g.window()/2 {
		g.inbox.refused = false
		p.poke = true
	}
	p.poke = p.poke || g.inbox.fetch
	g.inbox.fetch = false
	return p
}

func (g *group) isClosing() bool {
	select {
	case <-g.closing:
		return true
	default:
		return false
	}
}

// checkEvery returns how often to see whether the log is still there. g.mu is held.
func (g *group) checkEvery(now time.Time) time.Duration {
	if g.state.Holding() && now.Before(g.holdEnd()) {
		return checkHolding
	}
	return claim.CheckEvery
}

// holdEnd returns until when messages are held back at most after a log has been lost. g.mu is held.
func (g *group) holdEnd() time.Time {
	return g.clock.Add(time.Duration(g.state.Hold-g.state.Now) * time.Second)
}

// planReclaim says, after the log has been lost, what this member has and has done.
func (g *group) planReclaim(r *claim.Record) {
	r.Recall = g.recent
	for _, it := range g.items {
		if it.stage > stageClaiming && len(r.Claims) < claim.MaxKeys {
			r.Claims = append(r.Claims, claim.Claim{Key: it.key, UID: it.uid})
		}
	}
}

// planSettled says what has become of messages.
func (g *group) planSettled(s *sent) {
	r := s.record
	n := min(len(g.queue), claim.MaxKeys)
	s.items = slices.Clone(g.queue[:n])
	g.queue = g.queue[n:]
	for _, it := range s.items {
		switch it.outcome {
		case outcomeDone:
			r.Done = append(r.Done, it.key)
		case outcomeDead:
			r.Dead = append(r.Dead, claim.Refusal{Key: it.key, Reason: it.reason})
		case outcomeGone:
			r.Gone = append(r.Gone, it.key)
		case outcomeReleased, outcomeUntried:
			r.Released = append(r.Released, claim.Release{Key: it.key, Delay: int64(it.delay / time.Second), Reason: it.reason, Untried: it.outcome == outcomeUntried})
		}
	}
}

// planLapsed gives back what seats have not settled that have been gone for longer than the lease, and
// what no seat is there for.
func (g *group) planLapsed(now time.Time, p *plan) {
	for _, it := range g.items {
		switch {
		case it.outcome != 0 || it.taken.Load():
		case it.stage == stageHeld && len(g.seats) == 0:
			it.decide(outcomeUntried, 0, "")
		case it.stage == stageDelivered && !it.seat.stopped.IsZero():
			left := it.seat.stopped.Add(g.lease).Sub(now)
			if p.within(left); left <= 0 {
				it.decide(outcomeReleased, 0, "not settled")
			}
		}
	}
}

// planRenewal reports whether something has to be written lest the lease ends.
func (g *group) planRenewal(now time.Time, p *plan) bool {
	if g.hello {
		return true
	}
	for _, it := range g.items {
		if it.stage > stageClaiming && !it.taken.Load() {
			renewed := g.renewed.Load()
			if renewed == nil {
				return true
			}
			left := renewed.Add(g.lease / 3).Sub(now)
			p.within(left)
			return left <= 0
		}
	}
	return false
}

// planClaims claims candidates, and what others have left.
func (g *group) planClaims(r *claim.Record, now time.Time, p *plan) {
	if !g.current() || len(g.seats) == 0 {
		return
	}
	r.Claims = append(r.Claims, g.inbox.found[:min(len(g.inbox.found), claimsAtOnce)]...)
	g.inbox.found = g.inbox.found[len(r.Claims):]
	room := min(g.capacity()-g.busy(), claimsAtOnce)
	for _, it := range g.dueCandidates(now, p) {
		if room--; room < 0 {
			return
		}
		g.promote(it, stageClaiming)
		r.Claims = append(r.Claims, claim.Claim{Key: it.key, UID: it.uid})
	}
	for _, f := range g.state.Free(g.member) {
		if room <= 0 {
			return
		}
		switch at := g.dueFree(f); {
		case now.Before(at):
			p.within(at.Sub(now))
		case g.read.Before(at):
			p.look = true
		case g.items[f.Key] == nil:
			room--
			g.items[f.Key] = &item{group: g, key: f.Key, uid: f.UID, stage: stageClaiming, since: now, settled: make(chan struct{})}
			r.Claims = append(r.Claims, claim.Claim{Key: f.Key, UID: f.UID})
		}
	}
}

// busy is how many deliveries the seats have, or will have.
func (g *group) busy() (n int) {
	for _, s := range g.seats {
		n += s.busy
	}
	for _, it := range g.items {
		if it.stage == stageClaiming || it.stage == stageHeld {
			n++
		}
	}
	return n
}

// dueCandidates returns the candidates to be claimed now: first those for which this member comes
// first. The others are left to others for a while.
func (g *group) dueCandidates(now time.Time, p *plan) []*item {
	type ranked struct {
		*item
		ahead int
	}
	var ready []ranked
	for _, it := range g.items {
		if it.stage != stageCandidate {
			continue
		}
		ahead := min(len(g.ahead(it.key)), claimRanks)
		at := it.since.Add(time.Duration(ahead) * claimDelay)
		if g.state.OnHold(it.uid) {
			at = later(at, g.holdEnd())
		}
		switch {
		case now.Before(at):
			p.within(at.Sub(now))
		case ahead > 0 && g.read.Before(at):
			p.look = true
		default:
			ready = append(ready, ranked{it, ahead})
		}
	}
	slices.SortFunc(ready, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.ahead, b.ahead), a.item.compare(b.item)) })
	items := make([]*item, len(ready))
	for i, d := range ready {
		items[i] = d.item
	}
	return items
}

// ahead returns the members that come before this one for a message, and are there.
func (g *group) ahead(key claim.Key) []string {
	return slices.DeleteFunc(g.state.Ahead(key, g.member), func(other string) bool {
		seen, absent := g.absent[other]
		return absent && seen == g.state.Members[other].Seen
	})
}

// dueFree returns when to take what others have left, or given back.
func (g *group) dueFree(f claim.Free) time.Time {
	at := g.clock.Add(time.Duration(f.At-g.state.Now) * time.Second)
	if own, ok := g.due[f.Key]; ok {
		if own.back && g.avoid[f.Key] == nil {
			wait := givenBack
			if len(g.state.Members) == 1 {
				wait = claimDelay // others may be about to join
			}
			own.at = own.at.Add(wait)
		}
		return later(at, own.at)
	}
	ranks := 1 + min(len(g.ahead(f.Key)), claimRanks)
	if f.At > g.state.Now {
		at = at.Add(time.Duration(ranks) * claimDelay)
	} else {
		at = g.clock.Add(time.Duration(ranks-1) * claimDelay) // it is free now
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// readable returns the UID below which all messages of the inbox are in the log, as far as this
// member has seen them.
func (g *group) readable() uint32 {
	if !g.current() {
		return 0
	}
	mails := make(map[claim.Key]uint32)
	for _, f := range g.inbox.found {
		mails[f.Key] = f.UID
	}
	for _, it := range g.items {
		if it.stage <= stageClaiming {
			mails[it.key] = it.uid
		}
	}
	return min(uint32(g.inbox.passed), g.state.Unread(mails))
}

// planCheckpoint adds a checkpoint to a record when it is time. What the one before it covers can go then.
func (g *group) planCheckpoint(s *sent) {
	if g.state.Start == 0 || g.reclaim {
		return
	}
	rank := min(len(g.state.Ahead("checkpoint", g.member)), claimRanks)
	if g.wanted || g.state.Records >= checkpointAfter+rank*checkpointSpread {
		s.record.State = g.state
		s.checkpoint, s.prune = true, g.state.Checkpoint
	}
}
