package waitset

import (
	"sync/atomic"

	"github.com/postbus/postbus/internal/notify"
)

// GuardCondition is an entity that the program itself makes ready, to end a wait or to
// bring something of its own into it. It can be in one WaitSet at a time. The zero
// value is ready to use; it must not be copied.
type GuardCondition struct {
	triggered atomic.Bool
	set       atomic.Pointer[WaitSet] // that it is in, or nil
	watchers  notify.List
}

var _ Entity = (*GuardCondition)(nil)

// NewGuardCondition returns a guard condition that is not triggered and in no set.
func NewGuardCondition() *GuardCondition { return new(GuardCondition) }

// Trigger makes g ready until a wait reports it. Triggers before that are one. It
// never blocks and may be called from any goroutine, concurrently, whether g is in a
// set or not.
func (g *GuardCondition) Trigger() {
	g.triggered.Store(true)
	g.watchers.Notify()
}

// Ready reports whether g is triggered. It does not reset it.
func (g *GuardCondition) Ready() bool { return g.triggered.Load() }

// Watch implements Entity. It does not count as being in a set.
func (g *GuardCondition) Watch(wake func()) (stop func()) { return g.watchers.Watch(wake) }

// latched is what a set does with a guard condition beyond what it does with any Entity.
// As an interface it is also met by types that embed a *GuardCondition.
type latched interface {
	// valid reports whether there is a condition: an embedded one may be nil.
	valid() bool
	// claim makes s the set that the condition is in, unless it is in one.
	claim(s *WaitSet) bool
	// release undoes claim.
	release()
	// reset consumes the trigger.
	reset()
}

func (g *GuardCondition) valid() bool           { return g != nil }
func (g *GuardCondition) claim(s *WaitSet) bool { return g.set.CompareAndSwap(nil, s) }
func (g *GuardCondition) release()              { g.set.Store(nil) }
func (g *GuardCondition) reset()                { g.triggered.Swap(false) }
