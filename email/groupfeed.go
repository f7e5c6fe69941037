package email

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/transport"
)

const (
	// keptMessages and keptBytes bound the messages that a member keeps before it has them.
	keptMessages = 1 << 10
	keptBytes    = 32 << 20
)

// groupInbox is what a group knows of the inbox.
type groupInbox struct {
	feed     *feed // nil while the receiver offers nothing
	begun    bool
	validity uint32
	passed   imap.UID // where the receiver is
	refused  bool     // an offer was refused for lack of room
	// candidates is how many there are, and bytes their size.
	candidates, bytes int
	fetch             bool   // messages have to be read again
	offers            uint64 // so many so far
	// found are messages that this member has, in a new inbox.
	found []claim.Claim
	// resync is to be written into the log before anything is taken, because the inbox has been renumbered.
	resync *claim.Record
}

// groupFeed is the group as consumer, for as long as the feed is the group's: one that has been
// stopped may still call.
type groupFeed struct {
	*group
	feed *feed
}

var (
	_ consumer = groupFeed{}
	_ keeper   = groupFeed{}
)

// stopped reports whether the feed is not the group's any more. g.mu is held.
func (g groupFeed) stopped() bool { return g.inbox.feed != g.feed }

// begin implements consumer.
func (g groupFeed) begin(validity uint32, next imap.UID) (from imap.UID, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped() {
		return next, time.Time{}
	}
	again := g.inbox.begun
	g.inbox.begun, g.inbox.validity, g.inbox.passed = true, validity, 0
	if !again && g.state.Validity == validity && g.state.Limit == 0 {
		return min(imap.UID(g.state.Read), next), time.Time{}
	}
	for _, it := range g.items {
		if it.stage == stageCandidate {
			g.drop(it)
		}
	}
	g.inbox.resync = &claim.Record{Resync: true, Validity: validity, Read: 1, Limit: uint32(next)}
	signal(g.wake)
	return next, time.Unix(g.state.Start, 0)
}

// drop lets go of a candidate. g.mu is held.
func (g *group) drop(it *item) {
	delete(g.items, it.key)
	g.promote(it, stageCandidate)
}

// promote makes a candidate something else. g.mu is held.
func (g *group) promote(it *item, to stage) {
	it.stage = to
	g.inbox.candidates--
	if it.message != nil {
		g.inbox.bytes -= len(it.message.Body)
	}
}

// current reports whether the log and the receiver speak of the same inbox. g.mu is held.
func (g *group) current() bool {
	return g.inbox.begun && g.inbox.resync == nil && g.state.Start != 0 && g.state.Validity == g.inbox.validity
}

// offer implements consumer.
func (g groupFeed) offer(uid imap.UID, m *transport.Message, arrived time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped() {
		return false
	}
	if !g.current() || len(g.seats) == 0 {
		g.inbox.refused = true
		return false
	}
	key := claim.KeyOf(m, g.inbox.validity, uint32(uid))
	g.inbox.offers++
	if it := g.items[key]; it != nil {
		if it.stage == stageHeld && it.message == nil && it.uid == uint32(uid) {
			it.message, it.number = m, g.inbox.offers
			signal(g.wake)
		} else if o := g.state.Open[key]; o != nil && o.UID == 0 && it.stage != stageCandidate {
			it.uid = uint32(uid)
			g.inbox.found = append(g.inbox.found, claim.Claim{Key: key, UID: uint32(uid)})
			signal(g.wake)
		}
		return true
	}
	if !arrived.IsZero() && arrived.Unix() < g.state.Start {
		return true // from before the group began
	}
	switch g.state.Standing(key, g.member) {
	case claim.Settled:
		return true
	case claim.Others, claim.Mine:
		if o := g.state.Open[key]; o.UID != 0 {
			return true
		}
	}
	if !g.room(len(m.Body)) {
		g.inbox.refused = true
		return false
	}
	g.items[key] = &item{group: g.group, key: key, uid: uint32(uid), number: g.inbox.offers, message: m, since: time.Now(), settled: make(chan struct{})}
	g.inbox.candidates++
	g.inbox.bytes += len(m.Body)
	signal(g.wake)
	return true
}

// room reports whether a further candidate can be kept. g.mu is held.
func (g *group) room(size int) bool {
	return g.inbox.candidates == 0 || g.inbox.candidates < g.window() && g.inbox.bytes+size <= keptBytes
}

// window is how many candidates there may be: enough that others can be busy with as many as this member
// before it has to wait for them. g.mu is held.
func (g *group) window() int { return min(16+2*g.capacity(), keptMessages) }

// capacity is how many deliveries the seats take. g.mu is held.
func (g *group) capacity() (n int) {
	for _, s := range g.seats {
		n += s.inFlight
	}
	return n
}

// passed implements consumer.
func (g groupFeed) passed(uid imap.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.stopped() {
		g.inbox.passed = uid
	}
}

// again implements consumer.
func (g groupFeed) again() []imap.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped() || !g.current() {
		return nil
	}
	uids := make(map[imap.UID]bool)
	for _, it := range g.items {
		if it.absent() {
			uids[imap.UID(it.uid)] = true
		}
	}
	return slices.Collect(maps.Keys(uids))
}

// absent reports whether the message has to be read again. group.mu is held.
func (it *item) absent() bool { return it.stage == stageHeld && it.message == nil && it.outcome == 0 }

// awaits implements consumer.
func (g groupFeed) awaits(uid imap.UID, m *transport.Message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	it := g.items[claim.KeyOf(m, g.inbox.validity, uint32(uid))]
	return it != nil && it.absent()
}

// gone implements consumer.
func (g groupFeed) gone(uid imap.UID, found []*transport.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped() {
		return
	}
	there := make(map[claim.Key]bool)
	for _, m := range found {
		there[claim.KeyOf(m, g.inbox.validity, uint32(uid))] = true
	}
	for _, it := range g.items {
		if it.absent() && it.uid == uint32(uid) && !there[it.key] {
			g.groups.logger.Warn("email: a message of a group is not in the inbox any more", "mailbox", g.groups.address, "group", g.interest.Group, "uid", uid, "message", it.key)
			it.decide(outcomeGone, 0, "")
		}
	}
	signal(g.wake)
}

// sorted returns the items of a stage in the order of the inbox. g.mu is held.
func (g *group) sorted(s stage) (items []*item) {
	for _, it := range g.items {
		if it.stage == s {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, (*item).compare)
	return items
}

// compare orders by the place in the inbox.
func (it *item) compare(other *item) int {
	return cmp.Or(cmp.Compare(it.uid, other.uid), cmp.Compare(it.number, other.number))
}

// keeps implements keeper.
func (g groupFeed) keeps() (from imap.UID, open []imap.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped():
		return lastUID, nil
	case !g.current() || g.state.Limit != 0:
		return 0, nil
	}
	for _, o := range g.state.Open {
		open = append(open, imap.UID(o.UID))
	}
	for _, dead := range g.state.Dead { // which are nowhere else
		if dead.Validity == g.state.Validity {
			open = append(open, imap.UID(dead.UID))
		}
	}
	return imap.UID(g.state.Read), open
}
