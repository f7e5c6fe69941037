package transport

import (
	"sync"
	"sync/atomic"
)

// Dispatcher matches messages against interests, for carriers that receive one
// stream and sort it themselves. The zero value is ready to use. All methods may be
// called concurrently.
//
// Exact names are found by map and patterns by trie, so the cost of a message grows
// with the interests that match it, not with all.
type Dispatcher struct {
	mu       sync.RWMutex
	topics   map[string]*registrations // interests in topic messages, by exact name
	services map[string]*registrations // interests in requests, by exact name
	patterns map[patternRoot]*patternNode
	senders  map[sender]*registrations
	count    int
}

// sender is what an interest in what comes back to an entity is filed under.
type sender struct {
	kind Kind // Response or Undeliverable
	gid  GID
}

// registration is a stated interest. Its identity is its address.
type registration struct {
	deliver func(Delivery)
	removed atomic.Bool
	// What the interest is filed under.
	kind   Kind
	name   string
	client GID
}

// registrations are filed under the same. Nil has none, any other at least one.
type registrations struct {
	// list is appended to in place and otherwise replaced, never changed, so that Dispatch can
	// use what it has read after it has released the lock.
	list    []*registration
	removed int // of those in list
}

// with returns the registrations and one more.
func (r *registrations) with(added *registration) *registrations {
	if r == nil {
		r = new(registrations)
	}
	r.list = append(r.list, added)
	return r
}

// withoutOne returns what is left when one has been removed. The list is made anew when half of it has been: one
// by one, a list of n would cost n²/2 to take apart.
func (r *registrations) withoutOne() *registrations {
	r.removed++
	left := len(r.list) - r.removed
	switch {
	case left == 0:
		return nil
	case r.removed < left:
		return r
	}
	list := make([]*registration, 0, left)
	for _, reg := range r.list {
		if !reg.removed.Load() {
			list = append(list, reg)
		}
	}
	r.list, r.removed = list, 0
	return r
}

// all returns the list, of which some may have been removed.
func (r *registrations) all() []*registration {
	if r == nil {
		return nil
	}
	return r.list
}

// Add files an interest under deliver until remove is called. deliver may still be
// called by a Dispatch that was under way when remove was called.
func (d *Dispatcher) Add(interest Interest, deliver func(Delivery)) (remove func()) {
	reg := &registration{deliver: deliver, kind: interest.Kind, name: interest.Name, client: interest.Client}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(reg, func(r *registrations) *registrations { return r.with(reg) })
	d.count++
	return func() { d.remove(reg) }
}

// remove takes out a registration, unless that has been done.
func (d *Dispatcher) remove(reg *registration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !reg.removed.Swap(true) {
		d.change(reg, (*registrations).withoutOne)
		d.count--
	}
}

// change replaces the registrations that are filed where reg is. d.mu is held.
func (d *Dispatcher) change(reg *registration, f func(*registrations) *registrations) {
	switch {
	case reg.kind == Response || reg.kind == Undeliverable:
		changeEntry(&d.senders, sender{reg.kind, reg.client}, f)
	case isPattern(reg.name):
		d.changePattern(reg, f)
	default:
		changeEntry(d.exact(reg.kind), reg.name, f)
	}
}

// exact returns the interests in a kind of messages that are filed under an exact name.
func (d *Dispatcher) exact(k Kind) *map[string]*registrations {
	if k == Request {
		return &d.services
	}
	return &d.topics
}

func changeEntry[K comparable](m *map[K]*registrations, key K, f func(*registrations) *registrations) {
	if *m == nil {
		*m = make(map[K]*registrations)
	}
	if r := f((*m)[key]); r != nil {
		(*m)[key] = r
	} else {
		delete(*m, key)
	}
}

// visit calls f with each group of registrations that match m. d.mu is held.
func (d *Dispatcher) visit(m *Message, f func([]*registration)) {
	if m.Kind == Response || m.Kind == ErrorResponse || m.Kind == Undeliverable {
		if client, _, ok := m.Caller(); ok {
			f(d.senders[sender{Response, client}].all())
			if m.Kind == Undeliverable {
				f(d.senders[sender{Undeliverable, client}].all())
			}
		}
		return
	}
	f((*d.exact(m.Kind))[m.Name].all())
	if len(d.patterns) > 0 {
		sep := separator(m.Name)
		d.patterns[patternRoot{m.Kind, sep}].match(m.Name, sep, true, f)
		d.patterns[patternRoot{m.Kind, 0}].match(m.Name, sep, true, f)
	}
}

// Dispatch calls the deliver function of every interest that matches the message,
// and returns how many there were: each of them settles the delivery once. Calls of deliver for one interest come one at a
// time if calls of Dispatch do.
func (d *Dispatcher) Dispatch(delivery Delivery) int {
	// Nearly always one group matches: only a second one costs memory.
	var first []*registration
	var others [][]*registration
	d.mu.RLock()
	d.visit(delivery.Message, func(r []*registration) {
		switch {
		case len(r) == 0:
		case first == nil:
			first = r
		default:
			others = append(others, r)
		}
	})
	d.mu.RUnlock()

	n := deliver(first, delivery)
	for _, r := range others {
		n += deliver(r, delivery)
	}
	return n
}

// deliver calls the deliver functions of those that have not been removed, and returns how many there were.
func deliver(list []*registration, delivery Delivery) int {
	n := 0
	for _, reg := range list {
		if !reg.removed.Load() {
			n++
			reg.deliver(delivery)
		}
	}
	return n
}

// Wants reports whether any interest matches a message with this metadata; its body
// is not looked at.
func (d *Dispatcher) Wants(m *Message) bool {
	found := false
	d.mu.RLock()
	d.visit(m, func(r []*registration) { found = found || len(r) > 0 })
	d.mu.RUnlock()
	return found
}

// Len returns the number of interests.
func (d *Dispatcher) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.count
}
