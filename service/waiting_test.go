package service

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// Every call ends at its own deadline, in whatever order the deadlines, answers and new calls come.
func TestEachCallEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := calls{listed: make(map[uint64]*call)}
		random := rand.New(rand.NewPCG(1, 2))
		type timed struct {
			*call
			due      time.Time
			answered bool
		}
		var all []*timed
		for range 500 {
			due := time.Now().Add(time.Duration(1+random.IntN(100)) * time.Second)
			call, err := c.add(t.Context(), due, true)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, &timed{call: call, due: due})
			if one := all[random.IntN(len(all))]; random.IntN(3) == 0 {
				one.answered = c.answer(answerTo(one.sequence)) || one.answered
			}
			time.Sleep(time.Duration(random.IntN(3)) * time.Second / 2)
			synctest.Wait()
			now := time.Now()
			for _, one := range all {
				done := c.outcome(one.call) == nil
				if want := one.answered || !now.Before(one.due); done != want {
					t.Fatalf("call %d, due in %v, answered %v: done is %v", one.sequence, one.due.Sub(now), one.answered, done)
				}
			}
		}
		time.Sleep(100 * time.Second)
		synctest.Wait()
		if len(c.waiting) != 0 || !c.due.IsZero() {
			t.Errorf("%d calls are waiting after all deadlines, and a timer is set: %v", len(c.waiting), !c.due.IsZero())
		}
		for _, one := range all {
			m, err, ok := c.collect(one.call)
			if !ok || one.answered != (m != nil) || !one.answered && !errors.Is(err, transport.ErrTimeout) {
				t.Errorf("call %d, answered %v: %v, %v, %v", one.sequence, one.answered, m, err, ok)
			}
		}
	})
}

func answerTo(sequence uint64) *transport.Message {
	return &transport.Message{Kind: transport.Response, Info: transport.Info{ClientGID: transport.GID{1}, RequestSequence: sequence}}
}

// A client that is closed, or has nothing under way, does nothing in the background.
func TestClosedClientHasNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := calls{listed: make(map[uint64]*call)}
		woken := 0
		c.watchers.Watch(func() { woken++ })
		if _, err := c.add(context.Background(), time.Now().Add(time.Minute), true); err != nil {
			t.Fatal(err)
		}
		c.close()
		time.Sleep(time.Hour)
		synctest.Wait()
		if woken != 1 {
			t.Errorf("woken %d times, want once, by close", woken)
		}
	})
}
