package email

import (
	"testing"
	"time"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/transport"
)

// A member that was cut off reads its own claim together with what others have done about the
// message since the lease ended.
func TestClaimThatIsOverWhenItIsRead(t *testing.T) {
	const key claim.Key = "publisher/1"
	other := func(number uint64, r claim.Record) *claim.Record {
		r.Member, r.Number, r.Lease = "other", number, 2
		return &r
	}
	claims := []claim.Claim{{Key: key, UID: 5}}
	for name, test := range map[string]struct {
		after []claim.Entry
		held  bool
	}{
		"in time":    {nil, true},
		"taken over": {[]claim.Entry{{UID: 3, At: time.Unix(1010, 0), Record: other(10, claim.Record{Claims: claims, Validity: 1})}}, false},
		"handled": {[]claim.Entry{{UID: 3, At: time.Unix(1010, 0), Record: other(10, claim.Record{Claims: claims, Validity: 1})},
			{UID: 4, At: time.Unix(1011, 0), Record: other(11, claim.Record{Done: []claim.Key{key}})}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &groups{logger: quietLog, receiver: new(receiver)}
			g := newGroup(s, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}, "folder")
			it := &item{group: g, key: key, uid: 5, stage: stageClaiming, settled: make(chan struct{})}
			g.items[key] = it
			g.pending = &sent{record: &claim.Record{Member: g.member, Number: 1, Lease: 2, Claims: claims, Validity: 1}, first: time.Now()}
			g.state.Advance(append([]claim.Entry{
				{UID: 1, At: time.Unix(1000, 0), Record: other(9, claim.Record{State: claim.Fresh(1, 1)})},
				{UID: 2, At: time.Unix(1000, 0), Record: g.pending.record},
			}, test.after...))
			g.settlePending()
			g.sift()
			if held := g.items[key] == it && it.stage == stageHeld; held != test.held {
				t.Errorf("held: %v, items %+v", held, g.items)
			}
			if g.pending != nil {
				t.Error("the record is still pending")
			}
		})
	}
}

// What a member has may be somebody else's when its lease has ended, or when the log says so.
func TestItemsAreLost(t *testing.T) {
	g := newGroup(&groups{receiver: new(receiver)}, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g", Lease: time.Minute}, "folder")
	d := transport.Delivery{Settler: &item{group: g}}
	if !d.Lost() {
		t.Error("not lost before there was any record")
	}
	for ago, lost := range map[time.Duration]bool{0: false, 59 * time.Second: false, 60 * time.Second: true} {
		at := time.Now().Add(-ago)
		if g.renewed.Store(&at); d.Lost() != lost {
			t.Errorf("%v after the last record: lost is %v", ago, d.Lost())
		}
	}
	now := time.Now()
	g.renewed.Store(&now)
	d.Settler.(*item).taken.Store(true)
	if !d.Lost() {
		t.Error("not lost though another member has it")
	}
}
