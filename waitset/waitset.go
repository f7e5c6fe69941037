package waitset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

var (
	// ErrInUse is wrapped by the error of adding a guard condition that is in a set,
	// this or another, or any entity that is in this set.
	ErrInUse = errors.New("already in a wait set")

	// ErrWaiting is returned for any use of a set, other than Close, during a wait on it.
	ErrWaiting = errors.New("the wait set is being waited on")
)

// WaitSet is a set of entities that can be waited for together. Make one with New. Its
// methods may be called concurrently, but a set waits for one caller at a time.
type WaitSet struct {
	// wakeup has a token while the notes in changed may be new to a wait.
	wakeup chan struct{}
	closed atomic.Bool // written with mu held

	// changedMu guards changed. Nothing else is locked, and no entity called, while
	// it is held: entities wake the set in the middle of things.
	changedMu sync.Mutex
	changed   []*member // may have become ready since they were last looked at

	mu       sync.Mutex
	members  map[Entity]*member
	added    uint64 // members ever added
	waiting  bool   // a wait has the fields below to itself, and members for reading
	round    uint64 // counts from 1 the waits and whatever else makes a Ready void
	reported int    // the members of ready that the last wait reported and that are still in the set
	ready    []*member
	batch    []*member // spare room for changed
	timer    *time.Timer
}

// New returns a set of the entities. Close it when it is no longer used: until then its
// entities hold on to it, and its guard conditions cannot be in another. The error is
// that of Add.
func New(entities ...Entity) (*WaitSet, error) {
	s := &WaitSet{wakeup: make(chan struct{}, 1), members: make(map[Entity]*member), round: 1}
	if err := s.Add(entities...); err != nil {
		return nil, err
	}
	return s, nil
}

// Add adds entities, all of them or, if there is an error, none. The error wraps
// ErrInvalidEntity, ErrInUse, ErrWaiting or transport.ErrClosed.
func (s *WaitSet) Add(entities ...Entity) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	for i, e := range entities {
		if err := s.addLocked(e); err != nil {
			for _, e := range entities[:i] {
				s.removeLocked(s.members[e])
			}
			s.forgetLocked()
			return fmt.Errorf("add entity %d to wait set: %w", i, err)
		}
	}
	return nil
}

// Remove removes an entity, and does nothing if it is not in the set. The trigger of a
// guard condition stays with it. The error is ErrWaiting or wraps transport.ErrClosed.
func (s *WaitSet) Remove(e Entity) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	if check(e) != nil {
		return nil
	}
	if m := s.members[e]; m != nil {
		s.removeLocked(m)
		s.forgetLocked()
	}
	return nil
}

// Clear removes all entities. The error is ErrWaiting or wraps transport.ErrClosed.
func (s *WaitSet) Clear() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	s.clearLocked()
	return nil
}

// Close clears the set for good. A wait under way ends with transport.ErrClosed, and
// clears the set as it does. Close may be called again; it always returns nil.
func (s *WaitSet) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil
	}
	s.closed.Store(true)
	if s.waiting {
		s.signal()
	} else {
		s.clearLocked()
	}
	return nil
}

// Wait waits until at least one entity is ready, and tells which are. It resets the
// guard conditions among those. At the timeout it returns an empty Ready and no error.
// The package documentation says more about timeouts and ctx; other errors are
// ErrWaiting and transport.ErrClosed.
func (s *WaitSet) Wait(ctx context.Context, timeout time.Duration) (Ready, error) {
	return s.wait(ctx, timeout, s.anyReady)
}

// WaitAll is Wait for all entities of the set: it waits until all are ready at the same
// time. At the timeout it returns an empty Ready, even if some are ready, and resets no
// guard condition.
func (s *WaitSet) WaitAll(ctx context.Context, timeout time.Duration) (Ready, error) {
	return s.wait(ctx, timeout, s.allReady)
}

// WaitFor waits for one entity as a WaitSet of it would, and reports whether it is ready;
// if not, the wait has timed out. A guard condition is reset if it is, and must not be
// in a set. The error is one of WaitSet's Add or Wait.
func WaitFor(ctx context.Context, timeout time.Duration, e Entity) (bool, error) {
	s, err := New(e)
	if err != nil {
		return false, err
	}
	defer s.Close()
	ready, err := s.Wait(ctx, timeout)
	return ready.Len() > 0, err
}

func (s *WaitSet) wait(ctx context.Context, timeout time.Duration, done func() bool) (ready Ready, err error) {
	if err := s.begin(); err != nil {
		return Ready{}, err
	}
	var found bool
	defer func() { ready, err = s.end(found, err) }()
	found, err = s.sleep(ctx, timeout, done)
	return Ready{}, err
}

// sleep returns when done does true, which it asks after every change, or false at the
// timeout.
func (s *WaitSet) sleep(ctx context.Context, timeout time.Duration, done func() bool) (bool, error) {
	if ctx.Err() != nil {
		return false, transport.ContextError(ctx)
	}
	// What was ready last time is a candidate though it may not have changed.
	s.keepReady()
	if done() {
		return true, nil
	}
	if timeout == 0 {
		return false, nil
	}
	var expired <-chan time.Time // never, if timeout is negative
	if timeout > 0 {
		expired = s.startTimer(timeout)
		defer s.timer.Stop()
	}
	for {
		select {
		case <-s.wakeup:
			if s.closed.Load() || done() {
				return true, nil // end makes an error of a closed set
			}
		case <-expired:
			return done(), nil
		case <-ctx.Done():
			return false, transport.ContextError(ctx)
		}
	}
}

func (s *WaitSet) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	s.waiting = true
	s.round++
	s.reported = 0
	return nil
}

// end ends a wait and reports what it found. It is the only place where guard
// conditions are reset: they were seen to be triggered, and are certain to be reported.
func (s *WaitSet) end(found bool, err error) (Ready, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
	if s.closed.Load() {
		s.clearLocked()
		return Ready{}, closedError()
	}
	if err != nil || !found {
		return Ready{}, err
	}
	slices.SortFunc(s.ready, func(a, b *member) int { return cmp.Compare(a.number, b.number) })
	for _, m := range s.ready {
		m.round = s.round
		if m.guard != nil {
			m.guard.reset()
		}
	}
	s.reported = len(s.ready)
	return Ready{s, s.round}, nil
}

// anyReady looks at what has changed and reports whether anything is ready.
func (s *WaitSet) anyReady() bool {
	s.look()
	return len(s.ready) > 0
}

// allReady looks at what has changed and reports whether everything is ready.
func (s *WaitSet) allReady() bool {
	s.look()
	if len(s.members) == 0 || len(s.ready) < len(s.members) {
		return false
	}
	// Those that were found ready early may have been taken from since.
	s.keepReady()
	return len(s.ready) == len(s.members)
}

// look lists as ready what has changed and is ready.
func (s *WaitSet) look() {
	s.changedMu.Lock()
	s.changed, s.batch = s.batch, s.changed
	s.changedMu.Unlock()
	defer func() { // also when an entity panics
		clear(s.batch)
		s.batch = s.batch[:0]
	}()
	for _, m := range s.batch {
		// First this, then Ready: a change that Ready does not see notes m again.
		m.changed.Store(false)
		if !m.gone && !m.listed && m.entity.Ready() {
			m.listed = true
			s.ready = append(s.ready, m)
		}
	}
}

// keepReady takes off the list of the ready what is not, or not any more in the set.
func (s *WaitSet) keepReady() {
	s.ready = slices.DeleteFunc(s.ready, func(m *member) bool {
		m.listed = !m.gone && m.entity.Ready()
		return !m.listed
	})
}

func (s *WaitSet) startTimer(d time.Duration) <-chan time.Time {
	if s.timer == nil {
		s.timer = time.NewTimer(d)
	} else {
		s.timer.Reset(d)
	}
	return s.timer.C
}

// signal ends the sleep of a wait, now or when it next wants to sleep.
func (s *WaitSet) signal() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

func (s *WaitSet) usableLocked() error {
	if s.closed.Load() {
		return closedError()
	}
	if s.waiting {
		return ErrWaiting
	}
	return nil
}

func closedError() error { return fmt.Errorf("wait set: %w", transport.ErrClosed) }

func (s *WaitSet) addLocked(e Entity) error {
	if err := check(e); err != nil {
		return err
	}
	if s.members[e] != nil {
		return fmt.Errorf("%T is %w, this one", e, ErrInUse)
	}
	guard, _ := e.(latched)
	if guard != nil && !guard.claim(s) {
		return fmt.Errorf("%T is %w", e, ErrInUse)
	}
	s.added++
	m := &member{set: s, entity: e, guard: guard, number: s.added}
	s.members[e] = m
	m.stop = e.Watch(m.wake)
	m.wake() // it may have been ready before it was watched
	return nil
}

func (s *WaitSet) removeLocked(m *member) {
	m.stop()
	if m.guard != nil {
		m.guard.release()
	}
	delete(s.members, m.entity)
	if m.round == s.round {
		s.reported--
	}
	s.changedMu.Lock()
	m.gone = true
	s.changedMu.Unlock()
}

// forgetLocked lets go of the notes about members that were removed.
func (s *WaitSet) forgetLocked() {
	s.changedMu.Lock()
	defer s.changedMu.Unlock()
	s.changed = slices.DeleteFunc(s.changed, func(m *member) bool { return m.gone })
}

func (s *WaitSet) clearLocked() {
	for _, m := range s.members {
		s.removeLocked(m)
	}
	s.round++
	s.reported = 0
	clear(s.ready)
	s.ready = s.ready[:0]
	s.forgetLocked()
}
