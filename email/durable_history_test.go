package email

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/transport"
)

// life is a carrier's receiving half with a state file, from its opening to its end.
type life struct {
	t        testing.TB
	receiver *receiver
	durables *durables
}

func newLife(t testing.TB, s *script, path string, log io.Writer) *life {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	r := &receiver{address: "b@test", maxBody: 1 << 20, maxMail: 1 << 20, connect: s.dial, logger: logger}
	j, err := openState(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &life{t: t, receiver: r, durables: &durables{receiver: r, logger: logger, journal: j}}
}

func (l *life) receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func()) {
	l.t.Helper()
	stop, err := l.durables.receive(interest, deliver)
	if err != nil {
		l.t.Fatal(err)
	}
	return stop
}

func (l *life) end() {
	l.t.Helper()
	if err := l.receiver.close(context.Background()); err != nil {
		l.t.Error(err)
	}
	if err := l.durables.close(); err != nil {
		l.t.Error(err)
	}
}

// crash writes what is on disk at this moment to another file, as it would be found after a crash.
func crash(t testing.TB, j *journal.Journal, path string) {
	t.Helper()
	if err := j.View(func(tx *bbolt.Tx) error { return tx.CopyFile(path, 0o600) }); err != nil {
		t.Fatal(err)
	}
}

var onT = transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}

// history is what has become of the messages of a random history, over several lives.
type history struct {
	t    *testing.T
	seed uint64
	rand *rand.Rand

	mu      sync.Mutex
	acked   map[uint64]bool // Ack has returned
	final   map[uint64]bool // and a crash after that
	dead    map[uint64]bool // Term, or Nack for the last time
	refused map[uint64]bool // Nack at any time
	highest uint64          // of those in order, in this life
	held    []transport.Delivery
	events  []event
}

// event is something that has become of a message, or of all if n is 0.
type event struct {
	n    uint64
	text string
}

func (h *history) note(n uint64, format string, args ...any) {
	h.events = append(h.events, event{n, time.Now().Format("05.000 ") + fmt.Sprintf(format, args...)})
}

// mark is note for all, from outside.
func (h *history) mark(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(0, format, args...)
}

// fail reports what has gone wrong with a message, and its history.
func (h *history) fail(n uint64, what string) {
	var story []string
	for _, e := range h.events {
		if e.n == n || e.n == 0 {
			story = append(story, e.text)
		}
	}
	h.t.Errorf("seed %d: message %d %s: %s", h.seed, n, what, strings.Join(story, "; "))
}

// deliver does something at random with a delivery.
func (h *history) deliver(d transport.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := d.Message.Info.Sequence
	h.note(n, "attempt %d", d.Attempt)
	if h.final[n] {
		h.fail(n, "came after it had been acknowledged")
	}
	if h.dead[n] {
		h.dead[n] = false // its burial was not on record
	}
	if !h.refused[n] {
		if n <= h.highest {
			h.fail(n, fmt.Sprint("came after ", h.highest))
		}
		h.highest = n
	}
	switch h.rand.IntN(10) {
	case 0:
		h.note(n, "nack")
		h.refused[n] = true
		h.dead[n] = d.Attempt >= 3
		d.Nack(time.Duration(h.rand.IntN(3))*time.Second, "not yet")
	case 1:
		h.note(n, "term")
		h.dead[n] = true
		d.Term("never")
	case 2, 3:
		h.held = append(h.held, d)
	default:
		go func() {
			err := d.Ack()
			h.mu.Lock()
			defer h.mu.Unlock()
			h.note(n, "ack: %v", err)
			h.acked[n] = h.acked[n] || err == nil
		}()
	}
}

// TestDurableHistories: after any history, with crashes at any moment and the inbox renumbered at any
// time, what was acknowledged does not come again, and everything else does, each publisher's messages in
// order.
func TestDurableHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			s := newScript(t)
			s.addMessages(1, 5) // from before the first use
			for i := range s.mails {
				s.mails[i].arrived = time.Now().Add(-time.Hour)
			}
			h := &history{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)),
				acked: make(map[uint64]bool), final: make(map[uint64]bool), dead: make(map[uint64]bool), refused: make(map[uint64]bool)}
			r := rand.New(rand.NewPCG(seed, 2))
			in := onT
			in.MaxDeliver, in.InFlight = 3, 1+r.IntN(20)
			next := 6
			const lives = 6
			for n := range lives {
				h.highest, h.held = 0, nil
				h.mark("life %d", n)
				l := newLife(t, s, filepath.Join(folder, fmt.Sprint(n)), &log)
				stop := l.receive(in, h.deliver)
				for range 1 + r.IntN(5) {
					h.arrive(s, r, &next)
					time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
					if r.IntN(4) == 0 {
						h.mark("stop and receive")
						stop()
						h.mu.Lock()
						h.highest, h.held = 0, nil
						h.mu.Unlock()
						stop = l.receive(in, h.deliver)
					}
				}
				h.crash(l, filepath.Join(folder, fmt.Sprint(n+1)))
				stop()
				l.end()
				synctest.Wait()
				h.mu.Lock()
				h.acked = maps.Clone(h.final) // what came after the crash has never been
				h.mu.Unlock()
				if r.IntN(3) == 0 {
					s.renumber(1 + r.IntN(1000))
				}
			}
			h.drain(newLife(t, s, filepath.Join(folder, fmt.Sprint(lives)), &log), in, next)
			if t.Failed() {
				t.Log(log.String())
			}
		})
		if t.Failed() {
			return
		}
	}
}

// arrive puts some messages into the inbox, shuffled, some of them twice, some several in one mail.
func (h *history) arrive(s *script, r *rand.Rand, next *int) {
	var batch []int
	for range r.IntN(30) {
		for range 1 + r.IntN(5)/4 {
			batch = append(batch, *next)
		}
		*next++
	}
	r.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	for len(batch) > 0 {
		n := 1
		if r.IntN(2) == 0 {
			n = 1 + r.IntN(len(batch))
			s.add(batchMail(h.t, batch[:n]...))
		} else {
			s.addMessages(batch[0], batch[0])
		}
		batch = batch[n:]
	}
}

// crash keeps what is on disk at this moment, and what is certain then.
func (h *history) crash(l *life, path string) {
	h.mu.Lock()
	acked := maps.Clone(h.acked)
	h.mu.Unlock()
	crash(h.t, l.durables.journal, path)
	h.mu.Lock()
	h.note(0, "crash")
	h.final = acked
	h.mu.Unlock()
}

// drain handles all that is left, and checks that nothing is missing.
func (h *history) drain(l *life, in transport.Interest, next int) {
	h.highest = 0
	in.InFlight = 0
	come := make(map[uint64]int)
	l.receive(in, func(d transport.Delivery) {
		n := d.Message.Info.Sequence
		h.mu.Lock()
		h.note(n, "drained")
		if come[n]++; come[n] > 1 || h.final[n] {
			h.fail(n, "came again")
		}
		h.mu.Unlock()
		go func() {
			if err := d.Ack(); err != nil {
				h.t.Error(err)
			}
		}()
	})
	time.Sleep(time.Minute)
	synctest.Wait()
	state := &State{l.durables.journal, l.durables}
	letters := make(map[uint64]bool)
	for letter, err := range state.DeadLetters() {
		if err != nil {
			h.t.Fatal(err)
		}
		letters[letter.Message.Info.Sequence] = true
	}
	for n := uint64(6); n < uint64(next); n++ {
		if come[n] == 0 && !h.final[n] && !letters[n] && !h.acked[n] {
			h.fail(n, "has got lost")
		}
		if come[n] > 0 && letters[n] {
			h.fail(n, "came, though it is a dead letter")
		}
	}
	for n := uint64(1); n < 6; n++ {
		if come[n] > 0 {
			h.fail(n, "from before the first use came")
		}
	}
	l.end()
}

// TestDurableExpunged: messages that another client deletes before they are read, or read again, hold nobody
// up; those that are in memory are delivered all the same.
func TestDurableExpunged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := newScript(t)
		held := make(chan transport.Delivery, 1000)
		in := onT
		in.InFlight = 2
		life := newLife(t, s, path, &log)
		life.receive(in, func(d transport.Delivery) { held <- d })
		s.addMessages(1, 1000)
		time.Sleep(time.Second)
		synctest.Wait()
		expunge := func(gone ...int) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.mails = slices.DeleteFunc(s.mails, func(m scriptMail) bool { return slices.Contains(gone, m.uid) })
		}
		expunge(2, 3, 500, 501) // delivered, in memory, and neither
		var got []uint64
		for len(got) < 899 {
			d := <-held
			got = append(got, d.Message.Info.Sequence)
			if err := d.Ack(); err != nil {
				t.Fatal(err)
			}
		}
		life.end()
		if want := slices.DeleteFunc(upTo(1, 901), func(n uint64) bool { return n == 500 || n == 501 }); !slices.Equal(got, want) {
			t.Errorf("got %d messages, the last is %d", len(got), got[len(got)-1])
		}
		expunge(902, 905)
		life = newLife(t, s, path, &log)
		again := make(chan uint64, 1000)
		life.receive(onT, func(d transport.Delivery) {
			again <- d.Message.Info.Sequence
			go func() { _ = d.Ack() }()
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		life.end()
		close(again)
		got = nil
		for n := range again {
			got = append(got, n)
		}
		if want := slices.DeleteFunc(upTo(902, 1000), func(n uint64) bool { return n == 902 || n == 905 }); !slices.Equal(got, want) {
			t.Errorf("after a restart got %d", got)
		}
		if n := strings.Count(log.String(), "was deleted from the mailbox"); n == 0 {
			t.Errorf("the log does not mention it")
		}
	})
}

// TestDurableGapAndRestart: a message that is missing when a durable name is used again is waited for as
// before, and reported when that is in vain, also if it comes after that.
func TestDurableGapAndRestart(t *testing.T) {
	for name, restart := range map[string]bool{"restart": true, "the same process": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t)
				path := filepath.Join(t.TempDir(), "state")
				var got []string
				var mu sync.Mutex
				add := func(format string, args ...any) {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, fmt.Sprintf(format, args...))
				}
				interest := onT
				interest.GapWait = time.Minute
				interest.Gap = func(g transport.Gap) { add("gap %d-%d", g.First, g.Last) }
				handle := func(d transport.Delivery) {
					add("%d", d.Message.Info.Sequence)
					go d.Ack()
				}
				l := newLife(t, s, path, io.Discard)
				stop := l.receive(interest, handle)
				again := func(deliver func(transport.Delivery)) {
					time.Sleep(10 * time.Second)
					stop()
					if restart {
						l.end()
						l = newLife(t, s, path, io.Discard)
					}
					stop = l.receive(interest, deliver)
					time.Sleep(10 * time.Second)
				}
				s.addMessages(1, 2)
				s.addMessages(4, 5)
				again(handle)
				s.addMessages(3, 3)
				time.Sleep(time.Second)
				s.addMessages(7, 8)
				again(func(d transport.Delivery) { add("unsettled %d", d.Message.Info.Sequence) })
				time.Sleep(time.Hour)
				again(handle)
				s.addMessages(6, 6)
				time.Sleep(time.Second)
				stop()
				l.end()
				want := []string{"1", "2", "3", "4", "5", "gap 6-6", "unsettled 7", "unsettled 8", "7", "8", "gap 6-6", "6"}
				if !restart { // it is known that the gap was reported
					want = slices.Delete(want, 10, 11)
				}
				if !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}
