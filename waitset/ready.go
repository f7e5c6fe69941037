package waitset

import "iter"

// Ready tells which entities of a set a wait found ready. It is a view of the set's own
// record, so that waiting does not allocate: it holds until the next wait on the set
// begins, or the set is cleared or closed, and is empty from then on. Entities removed
// from the set are no longer in it. The zero Ready is empty.
type Ready struct {
	set   *WaitSet
	round uint64
}

// Len returns how many entities are ready. After a wait without an error, 0 means that
// it timed out.
func (r Ready) Len() int {
	if r.set == nil {
		return 0
	}
	r.set.mu.Lock()
	defer r.set.mu.Unlock()
	if r.round != r.set.round {
		return 0
	}
	return r.set.reported
}

// Has reports whether e is ready.
func (r Ready) Has(e Entity) bool {
	if r.set == nil || check(e) != nil {
		return false
	}
	r.set.mu.Lock()
	defer r.set.mu.Unlock()
	m := r.set.members[e]
	return m != nil && r.round == r.set.round && m.round == r.round
}

// All returns the ready entities in the order in which they were added to the set. The
// loop may add entities to the set and remove some; a new wait on it ends the loop.
func (r Ready) All() iter.Seq[Entity] {
	return func(yield func(Entity) bool) {
		for i := 0; ; i++ {
			m := r.at(&i)
			if m == nil || !yield(m.entity) {
				return
			}
		}
	}
}

// at returns the first member at or after position i that is still in the set, and sets
// i to where that is; nil if there is none.
func (r Ready) at(i *int) *member {
	if r.set == nil {
		return nil
	}
	r.set.mu.Lock()
	defer r.set.mu.Unlock()
	if r.round != r.set.round {
		return nil
	}
	for ; *i < len(r.set.ready); *i++ {
		if m := r.set.ready[*i]; !m.gone {
			return m
		}
	}
	return nil
}
