package email

import (
	"testing"
	"time"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/transport"
)

// TestGroupRests: a member with nothing to do wants nothing but to see, once a minute, whether the log is still there.
// One that has a message speaks three times in a lease.
func TestGroupRests(t *testing.T) {
	g := newGroup(&groups{receiver: new(receiver), logger: quietLog}, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}, "f")
	now := time.Now()
	g.state.Advance([]claim.Entry{{UID: 1, At: now, Record: &claim.Record{Member: "other", Number: 1, Lease: 30, Validity: 1, State: claim.Fresh(1, 1)}}})
	g.seats = []*seat{{inFlight: 1, most: 1}}
	g.inbox.begun, g.inbox.validity = true, 1
	g.checked, g.read, g.clock = now, now, now
	g.renewed.Store(&now)
	if p := g.plan(now); p.look || p.check || p.end || g.pending != nil || p.wait != claim.CheckEvery {
		t.Errorf("a member with nothing to do: %+v, %v", p, g.pending)
	}
	if p := g.plan(now.Add(claim.CheckEvery)); !p.check || p.look || g.pending != nil {
		t.Errorf("after a minute: %+v", p)
	}
	g.items["k"] = &item{group: g, key: "k", stage: stageDelivered, seat: g.seats[0]}
	if p := g.plan(now); p.wait != g.lease/3 || g.pending != nil {
		t.Errorf("a member with a message: %+v", p)
	}
	if g.plan(now.Add(g.lease / 3)); g.pending == nil || !g.pending.record.Empty() {
		t.Error("the lease is not renewed")
	}
}
