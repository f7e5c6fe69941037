package waitset_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/postbus/postbus/waitset"
)

func TestInvalidEntities(t *testing.T) {
	for name, e := range map[string]waitset.Entity{
		"nil":                 nil,
		"nil guard condition": (*waitset.GuardCondition)(nil),
		"nil pointer":         (*inbox)(nil),
		"not comparable":      uncomparable{},
		"embedded nil guard":  embedding{},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := waitset.New(new(inbox), e); !errors.Is(err, waitset.ErrInvalidEntity) {
				t.Errorf("New: %v, want ErrInvalidEntity", err)
			}
			ws := newSet(t)
			if err := ws.Add(e); !errors.Is(err, waitset.ErrInvalidEntity) {
				t.Errorf("Add: %v, want ErrInvalidEntity", err)
			}
			if err := ws.Remove(e); err != nil {
				t.Errorf("Remove: %v", err)
			}
			ready, err := ws.Wait(t.Context(), 0)
			if err != nil || ready.Has(e) {
				t.Errorf("Has = %v, %v", ready.Has(e), err)
			}
			if _, err := waitset.WaitFor(t.Context(), 0, e); !errors.Is(err, waitset.ErrInvalidEntity) {
				t.Errorf("WaitFor: %v, want ErrInvalidEntity", err)
			}
		})
	}
}

// embedding passes for a guard condition.
type embedding struct{ *waitset.GuardCondition }

type uncomparable struct {
	*inbox
	_ []int
}

func TestGuardConditionInUse(t *testing.T) {
	guard := waitset.NewGuardCondition()
	ws := newSet(t, guard)
	if err := ws.Add(guard); !errors.Is(err, waitset.ErrInUse) {
		t.Errorf("second Add to the same set: %v, want ErrInUse", err)
	}
	other := newSet(t)
	if err := other.Add(guard); !errors.Is(err, waitset.ErrInUse) {
		t.Errorf("Add to another set: %v, want ErrInUse", err)
	}
	if _, err := waitset.WaitFor(t.Context(), 0, guard); !errors.Is(err, waitset.ErrInUse) {
		t.Errorf("WaitFor: %v, want ErrInUse", err)
	}
	if _, err := waitset.New(embedded{guard}); !errors.Is(err, waitset.ErrInUse) {
		t.Errorf("New with a type that embeds it: %v, want ErrInUse", err)
	}

	for name, release := range map[string]func() error{
		"Clear":  ws.Clear,
		"Remove": func() error { return ws.Remove(guard) },
	} {
		if err := release(); err != nil {
			t.Fatal(err)
		}
		if err := other.Add(guard); err != nil {
			t.Errorf("Add after %s: %v", name, err)
		}
		if err := other.Clear(); err != nil {
			t.Fatal(err)
		}
		if err := ws.Add(guard); err != nil {
			t.Fatal(err)
		}
	}
	ws.Close()
	if err := other.Add(guard); err != nil {
		t.Errorf("Add after Close: %v", err)
	}
}

type embedded struct{ *waitset.GuardCondition }

func TestEmbeddedGuardConditionIsReset(t *testing.T) {
	e := embedded{waitset.NewGuardCondition()}
	ws := newSet(t, e)
	e.Trigger()
	ready, err := ws.Wait(t.Context(), 0)
	expect(t, ready, err, e)
	ready, err = ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)
}

func TestClearAndRefill(t *testing.T) {
	a, b := new(inbox), new(inbox)
	ws := newSet(t, a)
	a.put()
	ready, err := ws.Wait(t.Context(), 0)
	expect(t, ready, err, a)
	if err := ws.Clear(); err != nil {
		t.Fatal(err)
	}
	if ready.Len() != 0 || ready.Has(a) || slices.Collect(ready.All()) != nil {
		t.Error("Ready is not empty after Clear")
	}
	if n := a.watched.Load(); n != 0 {
		t.Errorf("%d watches are left after Clear", n)
	}
	ready, err = ws.Wait(t.Context(), 0)
	expectNothing(t, ready, err)

	if err := ws.Add(b, a); err != nil {
		t.Fatal(err)
	}
	b.put()
	ready, err = ws.Wait(t.Context(), 0)
	expect(t, ready, err, b, a) // in the new order
}

func TestRemoveAndAddWhileLooking(t *testing.T) {
	a, b, c, d := new(inbox), new(inbox), new(inbox), new(inbox)
	ws := newSet(t, a, b, c)
	// Before any wait.
	if err := ws.Remove(b); err != nil {
		t.Fatal(err)
	}
	if err := ws.Add(b); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*inbox{a, b, c, d} {
		e.put()
	}
	ready, err := ws.Wait(t.Context(), 0)
	expect(t, ready, err, a, c, b)

	var seen []waitset.Entity
	for e := range ready.All() {
		seen = append(seen, e)
		if e == waitset.Entity(a) {
			for _, err := range []error{ws.Remove(a), ws.Remove(c), ws.Remove(d), ws.Add(d)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if want := []waitset.Entity{a, b}; !slices.Equal(seen, want) {
		t.Errorf("saw %v, want %v", seen, want)
	}
	expect(t, ready, nil, b)
	ready, err = ws.Wait(t.Context(), 0)
	expect(t, ready, err, b, d)
	for range ready.All() {
		break // All stops when told to
	}
}

func TestAddIsAllOrNothing(t *testing.T) {
	a, guard := new(inbox), waitset.NewGuardCondition()
	ws := newSet(t)
	if err := ws.Add(a, guard, nil); !errors.Is(err, waitset.ErrInvalidEntity) {
		t.Fatalf("Add: %v, want ErrInvalidEntity", err)
	}
	if n := a.watched.Load(); n != 0 {
		t.Errorf("%d watches are left", n)
	}
	if err := ws.Add(a, guard); err != nil {
		t.Errorf("Add of the valid ones: %v", err)
	}
	if err := ws.Add(a); !errors.Is(err, waitset.ErrInUse) {
		t.Errorf("second Add of the same entity: %v, want ErrInUse", err)
	}
	// Other sets may have it.
	a.put()
	ready, err := newSet(t, a).Wait(t.Context(), 0)
	expect(t, ready, err, a)
	ready, err = ws.Wait(t.Context(), 0)
	expect(t, ready, err, a)
}
