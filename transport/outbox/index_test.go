package outbox

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// model is an index and what is known of what should be in it.
type model struct {
	*testing.T
	*rand.Rand
	x     *index
	now   time.Time
	next  uint64
	lanes map[transport.GID][]uint64 // the items, in order
}

// The index gives everything away once, in the order of each lane, whatever happens.
func TestIndexModel(t *testing.T) {
	for seed := range uint64(30) {
		m := &model{T: t, Rand: rand.New(rand.NewPCG(seed, 1)), x: newIndex(), now: time.Unix(1e9, 0), lanes: make(map[transport.GID][]uint64)}
		for range 1500 {
			switch m.IntN(10) {
			case 0, 1, 2, 3:
				m.add()
			case 4:
				m.drop()
			case 5:
				m.now = m.now.Add(time.Duration(m.IntN(3000)) * time.Millisecond)
				m.x.wake(m.now)
			default:
				m.send()
			}
			m.check()
		}
		m.x.wakeAll()
		for m.x.count > 0 {
			m.send()
			m.x.wakeAll()
		}
		m.check()
		if len(m.x.lanes) > 0 {
			t.Errorf("%d lanes are left with nothing in them", len(m.x.lanes))
		}
	}
}

func (m *model) add() {
	id := transport.GID{byte(m.IntN(8))}
	m.next++
	e := item{number: m.next, accepted: m.now.UnixNano(), size: m.IntN(1000)}
	if m.IntN(8) == 0 {
		e.deadline = m.now.Add(time.Second).UnixNano()
	}
	m.x.reserve(e.size)
	m.x.add(id, e)
	m.lanes[id] = append(m.lanes[id], e.number)
}

// remove takes an item out of the model, and reports whether it was the first of its lane.
func (m *model) remove(id transport.GID, number uint64) (first bool) {
	for i, n := range m.lanes[id] {
		if n == number {
			m.lanes[id] = append(m.lanes[id][:i:i], m.lanes[id][i+1:]...)
			return i == 0
		}
	}
	m.Fatalf("item %d came a second time", number)
	return false
}

func (m *model) drop() {
	if m.IntN(2) == 0 {
		// Nothing is in flight: those that came first have to go.
		entries := m.x.count - m.IntN(min(m.x.count, 3)+1)
		dropped, ok := m.x.makeRoom(entries, max(0, m.x.bytes-int64(m.IntN(500))))
		if !ok {
			m.Fatal("no room could be made")
		}
		if m.IntN(2) == 0 {
			m.x.takeBack(dropped)
			return
		}
		for _, p := range dropped {
			m.removeOldest(p.item.number)
		}
	}
	for id, items := range m.lanes {
		if len(items) > 0 && m.IntN(4) == 0 {
			number := items[m.IntN(len(items))]
			if !m.x.drop(m.x.lanes[id], number) {
				m.Fatal("an item could not be dropped")
			}
			m.remove(id, number)
			return
		}
	}
}

// removeOldest takes an item out of the model, which should be the oldest.
func (m *model) removeOldest(number uint64) {
	for id, items := range m.lanes {
		if len(items) > 0 && items[0] < number {
			m.Fatalf("%d was dropped, %d is older", number, items[0])
		}
		if len(items) > 0 && items[0] == number {
			defer m.remove(id, number)
		}
	}
}

// send picks a batch and settles it in one of the ways that the sender has.
func (m *model) send() {
	batch, _, expired := m.x.pick(m.now, selection{1 + m.IntN(20), 4000, time.Minute})
	for _, e := range expired {
		found := false
		for id, items := range m.lanes {
			for _, n := range items {
				if n == e.number {
					found = m.remove(id, n)
				}
			}
		}
		if !found {
			m.Fatal("an item expired before those in front of it")
		}
	}
	if len(batch) == 0 {
		return
	}
	m.check()
	taken := m.IntN(len(batch) + 1)
	if m.IntN(2) == 0 {
		m.add() // while they are being sent
	}
	if p := batch[m.IntN(len(batch))]; m.x.drop(p.lane, p.item.number) {
		m.Fatal("an item was dropped while it was being sent")
	}
	m.x.settle(batch, taken)
	for _, p := range batch[:taken] {
		if !m.remove(p.lane.id, p.item.number) {
			m.Fatal("an item was sent before those in front of it")
		}
	}
	if taken == len(batch) {
		return
	}
	l := batch[taken].lane
	if !l.begins(batch[taken].item.number) {
		m.Fatal("the one that failed is not the first of its lane")
	}
	m.x.unfile(l)
	if m.IntN(2) == 0 {
		l.suspect++
	} else {
		l.rests, l.until = true, m.now.Add(time.Duration(m.IntN(5000))*time.Millisecond)
	}
	m.x.refile(l)
}

// check checks that the index has what the model has, and that its heaps are in order.
func (m *model) check() {
	m.Helper()
	count, bytes := 0, int64(0)
	for id, l := range m.x.lanes {
		count += len(l.items)
		for i, e := range l.items {
			bytes += int64(e.size)
			if e.number != m.lanes[id][i] {
				m.Fatalf("lane %v has %d at %d, want %d", id[0], e.number, i, m.lanes[id][i])
			}
		}
		h := &m.x.ready
		if l.rests {
			h = &m.x.resting
		}
		if filed := l.place >= 0; filed != (l.inFlight < len(l.items)) || filed && h.lanes[l.place] != l {
			m.Fatalf("lane %v is at the wrong place", id[0])
		}
	}
	want := 0
	for _, items := range m.lanes {
		want += len(items)
	}
	if count != want {
		m.Fatalf("there are %d items, want %d", count, want)
	}
	if count != m.x.count || bytes != m.x.bytes {
		m.Fatalf("the index counts %d items with %d bytes, it has %d with %d", m.x.count, m.x.bytes, count, bytes)
	}
	for _, h := range []*laneHeap{&m.x.ready, &m.x.resting} {
		for i := 1; i < len(h.lanes); i++ {
			if h.Less(i, (i-1)/2) {
				m.Fatal("a heap is out of order")
			}
		}
	}
	if len(m.x.order) > 2*m.x.count+200 {
		m.Fatalf("%d places are kept for %d items", len(m.x.order), m.x.count)
	}
}
