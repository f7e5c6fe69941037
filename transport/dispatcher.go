package transport

import (
	"slices"
	"sync"
)

// Dispatcher matches messages against interests, for carriers that receive one
// stream and sort it themselves. The zero value is ready to use. All methods may be
// called concurrently.
//
// Exact names are found by map and patterns by trie, so the cost of a message grows
// with the interests that match it, not with all.
type Dispatcher struct {
	mu       sync.RWMutex
	topics   map[string]registrations // interests in topic messages, by exact name
	services map[string]registrations // interests in requests, by exact name
	patterns map[patternRoot]*patternNode
	senders  map[sender]registrations
	count    int
}

// sender is what an interest in what comes back to an entity is filed under.
type sender struct {
	kind Kind // Response or Undeliverable
	gid  GID
}

// patternRoot selects one of the tries: patterns of names that begin with "/" and
// of others can't match the same names.
type patternRoot struct {
	kind      Kind
	separator byte
}

// patternNode is a token of the patterns that share it and all tokens before it.
type patternNode struct {
	children map[string]*patternNode
	// here are the interests whose pattern ends with this token, rest those that
	// go on with a ">".
	here, rest registrations
}

// registration is a stated interest. Its identity is its address.
type registration struct{ deliver func(Delivery) }

// registrations is appended to in place and otherwise replaced, never changed, so
// that Dispatch can use what it has read after it has released the lock.
type registrations []*registration

func (r registrations) without(gone *registration) registrations {
	i := slices.Index(r, gone)
	if i < 0 {
		return r
	}
	if len(r) == 1 {
		return nil
	}
	return slices.Concat(r[:i], r[i+1:])
}

// Add files an interest under deliver until remove is called. deliver may still be
// called by a Dispatch that was under way when remove was called.
func (d *Dispatcher) Add(interest Interest, deliver func(Delivery)) (remove func()) {
	reg := &registration{deliver}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(interest, func(r registrations) registrations { return append(r, reg) })
	d.count++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.change(interest, func(r registrations) registrations { return r.without(reg) })
		d.count--
	})
}

// change replaces the registrations filed under an interest. d.mu is held.
func (d *Dispatcher) change(interest Interest, f func(registrations) registrations) {
	switch {
	case interest.Kind == Response || interest.Kind == Undeliverable:
		changeEntry(&d.senders, sender{interest.Kind, interest.Client}, f)
	case isPattern(interest.Name):
		d.changePattern(interest, f)
	default:
		changeEntry(d.exact(interest.Kind), interest.Name, f)
	}
}

// exact returns the interests in a kind of messages that are filed under an exact name.
func (d *Dispatcher) exact(k Kind) *map[string]registrations {
	if k == Request {
		return &d.services
	}
	return &d.topics
}

func changeEntry[K comparable](m *map[K]registrations, key K, f func(registrations) registrations) {
	if *m == nil {
		*m = make(map[K]registrations)
	}
	if r := f((*m)[key]); len(r) > 0 {
		(*m)[key] = r
	} else {
		delete(*m, key)
	}
}

func (d *Dispatcher) changePattern(interest Interest, f func(registrations) registrations) {
	if d.patterns == nil {
		d.patterns = make(map[patternRoot]*patternNode)
	}
	root := patternRoot{interest.Kind, separator(interest.Name)}
	if interest.Name == ">" {
		root.separator = 0 // stands for names of both forms
	}
	d.patterns[root] = d.patterns[root].change(interest.Name, root.separator, true, f)
}

// change applies f at the end of pattern below n, and returns the node to keep in
// n's place: nil when nothing is filed under it any more.
func (n *patternNode) change(pattern string, sep byte, more bool, f func(registrations) registrations) *patternNode {
	if n == nil {
		n = &patternNode{}
	}
	switch {
	case !more:
		n.here = f(n.here)
	case pattern == ">":
		n.rest = f(n.rest)
	default:
		token, rest, more := cutToken(pattern, sep)
		if child := n.children[token].change(rest, sep, more, f); child == nil {
			delete(n.children, token)
		} else {
			if n.children == nil {
				n.children = make(map[string]*patternNode)
			}
			n.children[token] = child
		}
	}
	if len(n.children) == 0 && len(n.here) == 0 && len(n.rest) == 0 {
		return nil
	}
	return n
}

// match calls visit with the registrations whose patterns stand for name.
func (n *patternNode) match(name string, sep byte, more bool, visit func(registrations)) {
	if n == nil {
		return
	}
	if !more {
		visit(n.here)
		return
	}
	visit(n.rest)
	token, rest, more := cutToken(name, sep)
	n.children[token].match(rest, sep, more, visit)
	n.children["*"].match(rest, sep, more, visit)
}

// visit calls f with each group of registrations that match m. d.mu is held.
func (d *Dispatcher) visit(m *Message, f func(registrations)) {
	if m.Kind == Response || m.Kind == ErrorResponse || m.Kind == Undeliverable {
		if client, _, ok := m.Caller(); ok {
			f(d.senders[sender{Response, client}])
			if m.Kind == Undeliverable {
				f(d.senders[sender{Undeliverable, client}])
			}
		}
		return
	}
	f((*d.exact(m.Kind))[m.Name])
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
	var first registrations
	var others []registrations
	d.mu.RLock()
	d.visit(delivery.Message, func(r registrations) {
		switch {
		case len(r) == 0:
		case first == nil:
			first = r
		default:
			others = append(others, r)
		}
	})
	d.mu.RUnlock()

	n := len(first)
	for _, reg := range first {
		reg.deliver(delivery)
	}
	for _, r := range others {
		n += len(r)
		for _, reg := range r {
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
	d.visit(m, func(r registrations) { found = found || len(r) > 0 })
	d.mu.RUnlock()
	return found
}

// Len returns the number of interests.
func (d *Dispatcher) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.count
}
