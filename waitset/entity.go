package waitset

import (
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
)

// Entity is what a WaitSet can wait for: a subscription, client, server, guard
// condition, or a type of the program's own. Its dynamic type is comparable, as
// pointers are.
type Entity interface {
	// Ready reports whether taking something from the entity, or asking why there
	// will be nothing more, would succeed at once. It must not block; it may be
	// called concurrently.
	Ready() bool
	// Watch has wake called after each change that may have made the entity ready,
	// until stop is called. Wake does not block; it may be called concurrently, and
	// once more by a change that was under way when stop was called.
	Watch(wake func()) (stop func())
}

// ErrInvalidEntity is wrapped by the error of adding a nil entity, a nil pointer in an
// Entity, or a value that cannot be compared.
var ErrInvalidEntity = errors.New("invalid entity")

// check returns an error for an entity that cannot be a key of WaitSet.members.
func check(e Entity) error {
	if e == nil {
		return fmt.Errorf("%w: nil", ErrInvalidEntity)
	}
	// Pointers are the usual case, for which Comparable would allocate.
	switch v := reflect.ValueOf(e); {
	case v.Kind() == reflect.Pointer && v.IsNil():
		return fmt.Errorf("%w: nil %T", ErrInvalidEntity, e)
	case v.Kind() != reflect.Pointer && !v.Comparable():
		return fmt.Errorf("%w: %T cannot be compared", ErrInvalidEntity, e)
	}
	if g, ok := e.(latched); ok && !g.valid() {
		return fmt.Errorf("%w: %T without a guard condition", ErrInvalidEntity, e)
	}
	return nil
}

// member is an entity's place in a set.
type member struct {
	set     *WaitSet
	entity  Entity
	guard   latched     // the entity if it is a guard condition, else nil
	stop    func()      // ends the watch
	number  uint64      // members are numbered in the order of their addition
	round   uint64      // of the last wait that reported it
	listed  bool        // is in set.ready
	gone    bool        // no longer in the set; written with both locks of the set held
	changed atomic.Bool // is in set.changed; set with set.changedMu held
}

// wake notes that m may be ready. The entity calls it from anywhere.
func (m *member) wake() {
	// If m is noted already, whoever noted it did so in full, or holds the lock that a
	// wait needs to read the notes: what happened before this call is not missed.
	if m.changed.Load() {
		return
	}
	s := m.set
	s.changedMu.Lock()
	if !m.gone && !m.changed.Load() {
		m.changed.Store(true)
		s.changed = append(s.changed, m)
	}
	s.changedMu.Unlock()
	s.signal()
}
