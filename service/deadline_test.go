package service

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

type ctxKey struct{}

// A deadlineContext can't be told from a context of package context, whenever it is looked at first. But
// what ended it first, of several, is not known if nobody was to hear of it.
func TestDeadlineContextIsLikeTheStandardOne(t *testing.T) {
	looks := map[string]func(context.Context){
		"not at all":     func(context.Context) {},
		"Err":            func(c context.Context) { c.Err() },
		"Done":           func(c context.Context) { c.Done() },
		"Value":          func(c context.Context) { c.Value(ctxKey{}) },
		"a child's Done": func(c context.Context) { context.WithValue(c, ctxKey{}, 0).Done() },
	}
	ends := map[string]func(parent, own context.CancelFunc){
		"nothing":        func(_, _ context.CancelFunc) {},
		"its end":        func(_, own context.CancelFunc) { own() },
		"its parent's":   func(parent, _ context.CancelFunc) { parent() },
		"its deadline":   func(_, _ context.CancelFunc) { time.Sleep(time.Minute) },
		"both":           func(parent, own context.CancelFunc) { own(); parent() },
		"end, then time": func(_, own context.CancelFunc) { own(); time.Sleep(time.Minute) },
	}
	for look, first := range looks {
		for end, how := range ends {
			for _, deadline := range []time.Duration{-1, time.Minute, 2 * time.Hour} {
				t.Run(fmt.Sprintf("%s, %s, %v", look, end, deadline), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						base := context.WithValue(t.Context(), ctxKey{}, "value")
						parent, cancelParent := context.WithDeadline(base, time.Now().Add(time.Hour))
						defer cancelParent()
						at := time.Now().Add(deadline)
						want, cancelWant := context.WithDeadline(parent, at)
						defer cancelWant()
						got := &deadlineContext{parent: parent, deadline: at}
						defer got.end()

						first(got)
						how(cancelParent, func() { cancelWant(); got.end() })
						synctest.Wait()
						reasons := 0
						for _, over := range []bool{!time.Now().Before(at), parent.Err() != nil, got.ended} {
							if over {
								reasons++
							}
						}
						compare(t, got, want, reasons > 1 && (look == "not at all" || look == "Err"))
						child, cancel := context.WithCancel(got)
						defer cancel()
						if !errors.Is(child.Err(), got.Err()) {
							t.Errorf("Err of a child: %v, want %v", child.Err(), got.Err())
						}
					})
				})
			}
		}
	}
}

func compare(t *testing.T, got, want context.Context, vague bool) {
	t.Helper()
	gotDeadline, gotOK := got.Deadline()
	wantDeadline, wantOK := want.Deadline()
	if !gotDeadline.Equal(wantDeadline) || gotOK != wantOK {
		t.Errorf("Deadline: %v, %v; want %v, %v", gotDeadline, gotOK, wantDeadline, wantOK)
	}
	if vague && got.Err() != nil && context.Cause(got) == got.Err() {
		want = got
	}
	if got.Err() != want.Err() || context.Cause(got) != context.Cause(want) {
		t.Errorf("Err and cause: %v, %v; want %v, %v", got.Err(), context.Cause(got), want.Err(), context.Cause(want))
	}
	if ended(got) != ended(want) {
		t.Errorf("Done is closed: %v, want %v", ended(got), ended(want))
	}
	if got.Value(ctxKey{}) != want.Value(ctxKey{}) {
		t.Errorf("Value: %v, want %v", got.Value(ctxKey{}), want.Value(ctxKey{}))
	}
}

func ended(c context.Context) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// What is derived from a deadlineContext ends with it, and costs no goroutine.
func TestContextsDerivedFromADeadlineContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &deadlineContext{parent: t.Context(), deadline: time.Now().Add(time.Minute)}
		child, cancel := context.WithTimeout(c, time.Hour)
		defer cancel()
		called := false
		context.AfterFunc(child, func() { called = true })
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if child.Err() != nil || c.Err() != nil {
			t.Fatalf("ended early: %v, %v", child.Err(), c.Err())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !errors.Is(child.Err(), context.DeadlineExceeded) || !called {
			t.Errorf("Err of a child: %v; its function was called: %v", child.Err(), called)
		}
		c.end()
	})
}

// Nothing is made for a context that nobody waits for.
func TestDeadlineContextIsMadeWhenNeeded(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &deadlineContext{parent: parent, deadline: time.Now().Add(time.Minute)}
	if n := testing.AllocsPerRun(10, func() {
		if c.Err() != nil {
			t.Error(c.Err())
		}
	}); n != 0 || c.made != nil {
		t.Errorf("%v allocations for Err, and made is %v", n, c.made)
	}
	c.end()
	if !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("Err after end: %v", c.Err())
	}
}
