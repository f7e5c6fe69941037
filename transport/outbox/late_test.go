package outbox

import (
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// Two calls of Send at once may be filed in another order than they are numbered, the later while it is
// being sent. Then both are where they can be found.
func TestIndexTakesALateItem(t *testing.T) {
	now := time.Unix(1e9, 0)
	x := newIndex()
	add := func(number uint64) {
		x.reserve(1)
		x.add(transport.GID{1}, item{number: number, accepted: now.UnixNano(), size: 1})
	}
	add(6)
	add(8)
	batch, _, _ := x.pick(now, selection{1, 100, time.Minute})
	add(5)
	add(7)
	l := batch[0].lane
	x.settle(batch, 0) // it is refused
	for _, number := range []uint64{6, 7, 5, 8} {
		if !x.drop(l, number) {
			t.Errorf("item %d can't be dropped", number)
		}
	}
	if x.count != 0 || len(x.lanes) != 0 {
		t.Errorf("%d items in %d lanes are left", x.count, len(x.lanes))
	}
}
