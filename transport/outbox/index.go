package outbox

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/postbus/postbus/transport"
)

// item is an entry as the index has it.
type item struct {
	number             uint64
	accepted, deadline int64 // ns since the epoch; deadline is 0 for none
	size               int
}

func (e *item) expired(now time.Time) bool { return e.deadline != 0 && now.UnixNano() >= e.deadline }

// lane is what must go out in order: it is held up when its first message is, and nothing else is.
type lane struct {
	id transport.GID
	// items wait; the first inFlight of them are being sent. Both parts are sorted by number, and so is
	// the whole but for what came late (see index.add).
	items    []item
	inFlight int

	// doubtful is the number of the last item that a failed attempt may have got through.
	doubtful uint64

	// What follows is about the first item.
	attempts int // failed ones
	// suspect counts the connections that broke while it was the message being sent. It may
	// be what breaks them: lanes without suspicion go first.
	suspect int
	// rests says that it was put off by the next hop, until then; how often in a row says failed.
	until  time.Time
	rests  bool
	failed int

	place int // in the heap that it is in, or -1
}

// begins reports whether the first item is this one, and not being sent. It may have been purged.
func (l *lane) begins(number uint64) bool {
	return len(l.items) > 0 && l.inFlight == 0 && l.items[0].number == number
}

// next returns the first item that is not being sent.
func (l *lane) next() *item { return &l.items[l.inFlight] }

// laneHeap is a heap of lanes, sorted by first.
type laneHeap struct {
	lanes  []*lane
	before func(a, b *lane) bool
}

// Len implements heap.Interface.
func (h *laneHeap) Len() int { return len(h.lanes) }

// Less implements heap.Interface.
func (h *laneHeap) Less(i, j int) bool { return h.before(h.lanes[i], h.lanes[j]) }

// Swap implements heap.Interface.
func (h *laneHeap) Swap(i, j int) {
	h.lanes[i], h.lanes[j] = h.lanes[j], h.lanes[i]
	h.lanes[i].place, h.lanes[j].place = i, j
}

// Push implements heap.Interface.
func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.place = len(h.lanes)
	h.lanes = append(h.lanes, l)
}

// Pop implements heap.Interface.
func (h *laneHeap) Pop() any {
	last := len(h.lanes) - 1
	l := h.lanes[last]
	h.lanes[last], h.lanes = nil, h.lanes[:last]
	l.place = -1
	return l
}

// index knows what waits in the outbox, and in which order it is to go out. It is not safe
// for concurrent use.
type index struct {
	lanes map[transport.GID]*lane
	// ready are lanes with something to send now, resting those that were put off.
	// A lane with nothing but items in flight is in neither.
	ready, resting laneHeap
	// order has all items in the order in which they came, and some that have gone since.
	order []place

	count int
	bytes int64
}

type place struct {
	number uint64
	lane   *lane
}

func newIndex() *index {
	return &index{
		lanes: make(map[transport.GID]*lane),
		ready: laneHeap{before: func(a, b *lane) bool {
			if a.suspect != b.suspect {
				return a.suspect < b.suspect
			}
			return a.next().number < b.next().number
		}},
		resting: laneHeap{before: func(a, b *lane) bool { return a.until.Before(b.until) }},
	}
}

// add files an item. It has been counted (see reserve).
func (x *index) add(id transport.GID, e item) {
	l := x.lanes[id]
	if l == nil {
		l = &lane{id: id, place: -1}
		x.lanes[id] = l
	}
	i := len(l.items)
	for i > l.inFlight && l.items[i-1].number > e.number {
		i-- // another call was faster, and what it has added may be in flight
	}
	x.unfile(l)
	l.items = slices.Insert(l.items, i, e)
	x.order = append(x.order, place{e.number, l})
	if len(x.order) > 2*x.count+64 {
		x.order = slices.DeleteFunc(x.order, func(p place) bool { e, _ := p.find(); return e == nil })
	}
	x.refile(l)
}

// refile puts a lane that was unfiled and has changed, or is there, where it belongs.
func (x *index) refile(l *lane) {
	x.unfile(l)
	switch {
	case len(l.items) == 0:
		delete(x.lanes, l.id)
	case l.inFlight == len(l.items):
	case l.rests:
		heap.Push(&x.resting, l)
	default:
		heap.Push(&x.ready, l)
	}
}

// unfile takes a lane out of the heap that has it, if one does.
func (x *index) unfile(l *lane) {
	if l.place < 0 {
		return
	}
	h := &x.resting
	if l.place < len(x.ready.lanes) && x.ready.lanes[l.place] == l {
		h = &x.ready
	}
	heap.Remove(h, l.place)
}

// drop removes an item that is not in flight, and reports whether it was there.
func (x *index) drop(l *lane, number uint64) bool {
	e, inFlight := place{number, l}.find()
	if e == nil || inFlight {
		return false
	}
	x.release(e.size)
	x.unfile(l)
	if e == &l.items[0] {
		l.fresh()
		l.items = l.items[1:]
	} else {
		l.items = slices.DeleteFunc(l.items, func(e item) bool { return e.number == number })
	}
	x.refile(l)
	return true
}

// fresh says that the first item of the lane is another one from now on.
func (l *lane) fresh() {
	l.attempts, l.failed, l.suspect, l.rests = 0, 0, 0, false
}

// land says that nothing of the lane is in flight any more, and brings what came late into its place.
func (l *lane) land() {
	if n := l.inFlight; n > 0 && n < len(l.items) && l.items[n].number < l.items[n-1].number {
		first := l.items[0].number
		slices.SortFunc(l.items, func(a, b item) int { return cmp.Compare(a.number, b.number) })
		if l.items[0].number != first {
			l.fresh()
		}
	}
	l.inFlight = 0
}

func (x *index) reserve(size int) {
	x.count++
	x.bytes += int64(size)
}

func (x *index) release(size int) {
	x.count--
	x.bytes -= int64(size)
}

// find returns the item if it waits, or nil, and whether it is in flight.
func (p place) find() (e *item, inFlight bool) {
	byNumber := func(e item, number uint64) int { return cmp.Compare(e.number, number) }
	sending, others := p.lane.items[:p.lane.inFlight], p.lane.items[p.lane.inFlight:]
	if i, found := slices.BinarySearchFunc(sending, p.number, byNumber); found {
		return &sending[i], true
	}
	if i, found := slices.BinarySearchFunc(others, p.number, byNumber); found {
		return &others[i], false
	}
	return nil, false
}

// oldest returns the item that has waited longest, or nil.
func (x *index) oldest() *item {
	for len(x.order) > 0 {
		if e, _ := x.order[0].find(); e != nil {
			return e
		}
		x.order = x.order[1:]
	}
	return nil
}

// makeRoom drops the items that have waited longest until there are at most so many, with so
// many bytes, and returns them. If that can't be done, because of items in flight, it drops none.
func (x *index) makeRoom(entries int, bytes int64) (dropped []picked, ok bool) {
	var sending []place
	count, size, seen := x.count, x.bytes, 0
	for ; seen < len(x.order) && (count > entries || size > bytes); seen++ {
		p := x.order[seen]
		switch e, inFlight := p.find(); {
		case inFlight:
			sending = append(sending, p)
		case e != nil:
			dropped = append(dropped, picked{p.lane, *e})
			count, size = count-1, size-int64(e.size)
		}
	}
	if count > entries || size > bytes {
		return nil, false
	}
	x.order = x.order[seen-len(sending):]
	copy(x.order, sending)
	for _, p := range dropped {
		x.drop(p.lane, p.item.number)
	}
	return dropped, true
}

// takeBack files again what makeRoom has dropped.
func (x *index) takeBack(dropped []picked) {
	for _, p := range dropped {
		x.reserve(p.item.size)
		x.add(p.lane.id, p.item)
	}
	n := len(x.order) - len(dropped)
	x.order = slices.Concat(x.order[n:], x.order[:n])
}

// wake makes lanes ready whose rest is over.
func (x *index) wake(now time.Time) {
	for len(x.resting.lanes) > 0 && !x.resting.lanes[0].until.After(now) {
		l := heap.Pop(&x.resting).(*lane)
		l.rests = false
		x.refile(l)
	}
}

// wakeAll ends all rests.
func (x *index) wakeAll() {
	for len(x.resting.lanes) > 0 {
		l := heap.Pop(&x.resting).(*lane)
		l.rests, l.failed = false, 0
		x.refile(l)
	}
}

// picked is an item that is being sent.
type picked struct {
	lane *lane
	item item
}

// selection limits what is picked.
type selection struct {
	entries int           // at most so many
	bytes   int64         // little more than so many
	maxAge  time.Duration // what is older is not sent any more
}

// pick chooses what to send next, or else what is too old to be sent, and returns it with what
// has been removed because its deadline has passed.
func (x *index) pick(now time.Time, s selection) (batch []picked, aged bool, expired []item) {
	oldest := now.Add(-s.maxAge).UnixNano()
	var later []*lane
	for len(batch) < s.entries && s.bytes > 0 && len(x.ready.lanes) > 0 {
		l := x.ready.lanes[0]
		e := *l.next()
		over, old := e.expired(now), e.accepted < oldest
		if len(batch) == 0 {
			aged = old
		}
		switch {
		case over && l.inFlight == 0:
			x.drop(l, e.number)
			expired = append(expired, e)
			continue
		case over, old != aged:
			// Its turn is when what goes now has gone.
			heap.Pop(&x.ready)
			later = append(later, l)
			continue
		}
		x.unfile(l)
		l.inFlight++
		x.refile(l)
		batch = append(batch, picked{l, e})
		s.bytes -= int64(e.size)
		if l.suspect > 0 {
			s.entries = 0 // nothing should come behind it
		}
	}
	for _, l := range later {
		heap.Push(&x.ready, l)
	}
	return batch, aged, expired
}

// settle says that the first gone items of a batch have gone, and the others stay.
func (x *index) settle(batch []picked, gone int) {
	for _, p := range batch {
		x.unfile(p.lane)
	}
	for i, p := range batch {
		if l := p.lane; i < gone {
			x.release(p.item.size)
			l.items = l.items[1:]
			l.inFlight--
			l.fresh()
		} else {
			l.land()
		}
	}
	for _, p := range batch {
		x.refile(p.lane)
	}
}
