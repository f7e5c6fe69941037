package outbox_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// tries returns when a message was tried, since the first time.
func (h *hop) tries(id transport.ID) []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var d []time.Duration
	for _, at := range h.attempts[id] {
		d = append(d, at.Sub(h.attempts[id][0]))
	}
	return d
}

// While the next hop can't be reached the attempts become rarer, up to one in 30 s.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		h := newHop(func(*transport.Message) error {
			if up.Load() {
				return nil
			}
			return fail(transport.Temporary, 0, errDown)
		})
		o := open(t, h, outbox.Options{})
		m := newPublisher().message("x")
		send(t, o, m)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		tries := h.tries(m.ID)
		for i := 1; i < len(tries); i++ {
			longest := min(100*time.Millisecond<<(min(i, 20)-1), backoff.Longest)
			if wait := tries[i] - tries[i-1]; wait < longest/2 || wait > longest {
				t.Errorf("attempt %d came after %v, want %v to %v", i+1, wait, longest/2, longest)
			}
		}
		if s := o.Stats(); !s.Failing || s.Waiting != 1 || len(tries) < 20 {
			t.Errorf("%d attempts, stats: %+v", len(tries), s)
		}
		up.Store(true)
		h.await(t, 1)
		synctest.Wait()
		if s := o.Stats(); s.Failing || s.Waiting != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A new message is a reason to try at once, if the last attempt is a second ago.
func TestNewWorkCutsBackOffShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHop(func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) })
		o := open(t, h, outbox.Options{})
		a, b := newPublisher(), newPublisher()
		m := a.message("old")
		send(t, o, m)
		time.Sleep(5 * time.Minute) // the delay is the longest now
		synctest.Wait()
		calls := func() int { h.mu.Lock(); defer h.mu.Unlock(); return h.calls }
		for before := calls(); calls() == before; { // until there is an attempt
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		before := calls()
		send(t, o, b.message("new"))
		time.Sleep(backoff.Least - 20*time.Millisecond)
		synctest.Wait()
		if calls() != before {
			t.Errorf("the attempt came less than %v after the last one", backoff.Least)
		}
		time.Sleep(30 * time.Millisecond)
		synctest.Wait()
		if calls() != before+1 {
			t.Errorf("there were %d attempts within %v, want one", calls()-before, backoff.Least)
		}
		send(t, o, b.message("newer"))
		send(t, o, b.message("newest"))
		time.Sleep(backoff.Least)
		synctest.Wait()
		if calls() != before+2 {
			t.Errorf("there were %d attempts within %v, want two", calls()-before, 2*backoff.Least)
		}
	})
}

// A message that is put off holds up its publisher's later ones and nobody else's.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newPublisher()
		until := time.Now().Add(time.Minute)
		h := newHop(func(m *transport.Message) error {
			if m.Info.PublisherGID == slow.gid && time.Now().Before(until) {
				return fail(transport.Temporary, 450, errors.New("greylisted"))
			}
			return nil
		})
		o := open(t, h, outbox.Options{})
		send(t, o, slow.several("s", 3)...)
		start := time.Now()
		var want []string
		for range 5 {
			m := newPublisher().message("f")
			send(t, o, m)
			want = append(want, "f")
		}
		if got := bodies(h.await(t, 5)); !slices.Equal(got, want) || time.Since(start) > time.Millisecond {
			t.Errorf("sent %v after %v", got, time.Since(start))
		}
		if s := o.Stats(); s.Failing || s.Waiting != 3 {
			t.Errorf("stats: %+v", s)
		}
		got := bodies(h.await(t, 8))[5:]
		if !slices.Equal(got, []string{"s1", "s2", "s3"}) || time.Since(until) > backoff.Longest {
			t.Errorf("sent %v %v after it was possible", got, time.Since(until))
		}
	})
}

// A message that breaks every connection is tried last, so that the others go out.
func TestPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHop(func(m *transport.Message) error {
			if string(m.Body) == "poison" {
				return fail(transport.Unknown, 0, errors.New("connection lost"))
			}
			return nil
		})
		o := open(t, h, outbox.Options{MaxAge: time.Hour})
		send(t, o, newPublisher().message("poison"))
		synctest.Wait()
		start := time.Now()
		send(t, o, newPublisher().message("a"), newPublisher().message("b"))
		if got := bodies(h.await(t, 2)); !slices.Equal(got, []string{"a", "b"}) || time.Since(start) > backoff.Least {
			t.Errorf("sent %v after %v", got, time.Since(start))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		dead := entries(t, o.Dead())
		if s := o.Stats(); s.Waiting != 0 || s.Refused != 1 || len(dead) != 1 || dead[0].Dead.Reason != "it could not be sent in 1h0m0s" {
			t.Errorf("stats: %+v, dead: %+v", s, dead)
		}
	})
}

// When the account is refused that is not the messages' fault.
func TestRefusedLoginIsNoReasonToDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var right atomic.Bool
		h := newHop(func(*transport.Message) error {
			if !right.Load() {
				return &transport.SendError{Name: "/t", Outcome: transport.Permanent, NextHop: true, Code: 535, Err: transport.ErrRefused}
			}
			return nil
		})
		o := open(t, h, outbox.Options{})
		send(t, o, newPublisher().several("m", 3)...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := o.Stats(); s.Waiting != 3 || s.Dead != 0 || !s.Failing {
			t.Errorf("stats: %+v", s)
		}
		right.Store(true)
		h.await(t, 3)
	})
}

// What nobody waits for any more is not sent.
func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		h := newHop(func(*transport.Message) error {
			if up.Load() {
				return nil
			}
			return fail(transport.Temporary, 0, errDown)
		})
		file := newFile(t)
		o := open(t, h, outbox.Options{File: file})
		p := newPublisher()
		msgs := p.several("m", 6)
		for i, m := range msgs {
			if i%2 == 1 {
				m.Deadline = time.Now().Add(time.Minute)
			}
		}
		send(t, o, msgs...)
		time.Sleep(2 * time.Minute)
		up.Store(true)
		if got := bodies(h.await(t, 3)); !slices.Equal(got, []string{"m1", "m3", "m5"}) {
			t.Errorf("sent %v", got)
		}
		synctest.Wait()
		if s := o.Stats(); s.Expired != 3 || s.Waiting != 0 || s.Dead != 0 {
			t.Errorf("stats: %+v", s)
		}
		closeBox(t, o)
		f, err := outbox.OpenFile(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if left := entries(t, f.Waiting()); len(left) > 0 {
			t.Errorf("%d are left in the file", len(left))
		}
	})
}

// Close sends what waits while that goes well, and does not wait for a server that is down.
func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHop(func(*transport.Message) error { time.Sleep(10 * time.Millisecond); return nil })
		o := open(t, h, outbox.Options{})
		send(t, o, newPublisher().several("m", 300)...)
		closeBox(t, o)
		if s := o.Stats(); s.Sent != 300 {
			t.Errorf("stats: %+v", s)
		}

		h = newHop(func(*transport.Message) error { time.Sleep(time.Second); return nil })
		o = open(t, h, outbox.Options{})
		send(t, o, newPublisher().several("m", 300)...)
		ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
		defer cancel()
		if err := o.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if s := o.Stats(); s.Sent != 5 || s.Waiting != 295 {
			t.Errorf("stats: %+v", s)
		}

		h = newHop(func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) })
		o = open(t, h, outbox.Options{})
		send(t, o, newPublisher().several("m", 3)...)
		start := time.Now()
		closeBox(t, o)
		if s := o.Stats(); s.Waiting != 3 || time.Since(start) > 0 {
			t.Errorf("close of an outbox that can't send took %v, stats: %+v", time.Since(start), s)
		}
	})
}

// Retry ends every pause.
func TestRetryEndsPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		h := newHop(func(m *transport.Message) error {
			if up.Load() {
				return nil
			}
			return fail(transport.Temporary, 450, errDown)
		})
		o := open(t, h, outbox.Options{})
		send(t, o, newPublisher().message("x"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		up.Store(true)
		if n, err := o.Retry(nil); n != 0 || err != nil {
			t.Errorf("retry: %d, %v", n, err)
		}
		start := time.Now()
		h.await(t, 1)
		if time.Since(start) > 0 {
			t.Errorf("it was sent %v later", time.Since(start))
		}
	})
}
