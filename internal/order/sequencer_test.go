package order

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// arrival is message number n of a publisher, after a time.
type arrival struct {
	publisher int
	n         uint64
	after     time.Duration
}

func message(publisher int, n uint64) *transport.Message {
	m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", ID: transport.NewID(gid(publisher), n, "test")}
	m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = gid(publisher), n, time.Now()
	return m
}

// passed is what came out, and when.
type passed struct {
	publisher transport.GID
	n         uint64
	at        time.Time
}

// recorder is a sequencer with what has come of it.
type recorder struct {
	*Sequencer
	got  []passed
	gaps []transport.Gap
}

func newRecorder(o Options) *recorder {
	r := new(recorder)
	o.Deliver = func(d transport.Delivery) {
		r.got = append(r.got, passed{d.Message.Info.PublisherGID, d.Message.Info.Sequence, time.Now()})
	}
	o.Gap = func(g transport.Gap) { r.gaps = append(r.gaps, g) }
	r.Sequencer = NewSequencer(o)
	return r
}

func (r *recorder) numbers() []uint64 {
	numbers := []uint64{}
	for _, p := range r.got {
		numbers = append(numbers, p.n)
	}
	return numbers
}

const wait = time.Second

func TestSequencer(t *testing.T) {
	ms := time.Millisecond
	for _, test := range []struct {
		name     string
		arrivals []arrival
		want     []uint64
		gaps     string
		took     time.Duration // until all was out
	}{
		{"in order", []arrival{{1, 1, 0}, {1, 2, 0}, {1, 3, 0}}, []uint64{1, 2, 3}, "", 0},
		{"shuffled", []arrival{{1, 3, 0}, {1, 1, 0}, {1, 4, 0}, {1, 2, 900 * ms}}, []uint64{1, 2, 3, 4}, "", 900 * ms},
		{"twice", []arrival{{1, 1, 0}, {1, 1, 0}, {1, 3, 0}, {1, 3, 0}, {1, 2, 0}, {1, 3, 0}}, []uint64{1, 2, 3}, "", 0},
		{"gap", []arrival{{1, 1, 0}, {1, 4, 0}, {1, 5, 500 * ms}}, []uint64{1, 4, 5}, "2-3", wait},
		{"late", []arrival{{1, 1, 0}, {1, 3, 0}, {1, 2, 2 * wait}, {1, 2, 0}, {1, 4, 0}}, []uint64{1, 3, 2, 4}, "2-2", 2 * wait},
		{"two gaps", []arrival{{1, 1, 0}, {1, 3, 0}, {1, 6, 500 * ms}}, []uint64{1, 3, 6}, "2-2 4-5", wait + 500*ms},
		{"two gaps at once", []arrival{{1, 1, 0}, {1, 6, 0}, {1, 3, 500 * ms}}, []uint64{1, 3, 6}, "2-2 4-5", wait},
		{"first contact", []arrival{{1, 400, 0}, {1, 399, 900 * ms}}, []uint64{399, 400}, "", wait},
		{"first contact far on", []arrival{{1, 10001, 0}, {1, 10000, 100 * ms}}, []uint64{10000, 10001}, "", wait / 4},
		{"gap at first contact far on", []arrival{{1, 10002, 0}, {1, 10000, 0}, {1, 10001, 900 * ms}}, []uint64{10000, 10001, 10002}, "", 900 * ms},
		{"late below the first", []arrival{{1, 5, 0}, {1, 3, 2 * wait}, {1, 4, 0}, {1, 6, 0}}, []uint64{5, 3, 4, 6}, "1-4", 2 * wait},
		{"highest", []arrival{{1, 1, 0}, {1, math.MaxUint64, 0}, {1, math.MaxUint64 - 1, 0}, {1, 2, 0}}, []uint64{1, math.MaxUint64, 2, math.MaxUint64 - 1}, "3-18446744073709551613", wait},
		{"publishers", []arrival{{1, 2, 0}, {2, 1, 0}, {2, 2, 0}, {1, 1, 0}}, []uint64{1, 2, 1, 2}, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRecorder(Options{Wait: wait})
				defer r.Stop()
				start := time.Now()
				for _, a := range test.arrivals {
					time.Sleep(a.after)
					synctest.Wait()
					r.Offer(transport.Delivery{Message: message(a.publisher, a.n)})
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				gaps := ""
				for i, g := range r.gaps {
					if i > 0 {
						gaps += " "
					}
					gaps += fmt.Sprintf("%d-%d", g.First, g.Last)
				}
				if !slices.Equal(r.numbers(), test.want) || gaps != test.gaps {
					t.Errorf("got %v, gaps %q, want %v, %q", r.numbers(), gaps, test.want, test.gaps)
				}
				if took := r.got[len(r.got)-1].at.Sub(start); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
			})
		})
	}
}

// TestSequencerModel: whatever comes, each message passes once and soon, in order unless
// it was waited for; and what is missing is reported once.
func TestSequencerModel(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			s := newRecorder(Options{Wait: wait})
			defer s.Stop()
			const publishers = 3
			var arrivals []arrival
			for p := range publishers {
				base := []uint64{1, 1 + r.Uint64N(600)}[r.IntN(2)]
				for n := base; n < base+30; n++ {
					for range []int{0, 1, 1, 1, 1, 1, 2}[r.IntN(7)] {
						arrivals = append(arrivals, arrival{p, n, time.Duration(n-base)*50*time.Millisecond + time.Duration(r.Int64N(int64(3*wait/2)))})
					}
				}
			}
			slices.SortFunc(arrivals, func(a, b arrival) int { return int(a.after - b.after) })
			first := make(map[Key]time.Time)
			start := time.Now()
			for _, a := range arrivals {
				time.Sleep(a.after - time.Since(start))
				synctest.Wait()
				k := numbered(a.publisher, a.n)
				_, twice := first[k]
				if (s.Judge(message(a.publisher, a.n)) == Handled) != twice || s.Offer(transport.Delivery{Message: message(a.publisher, a.n)}) == twice {
					t.Fatalf("seed %d: %+v is news: %v", seed, a, twice)
				}
				if !twice {
					first[k] = time.Now()
				}
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			verify(t, seed, s, first)
		})
	}
}

func verify(t *testing.T, seed uint64, s *recorder, first map[Key]time.Time) {
	seen := make(map[Key]bool)
	highest := make(map[transport.GID]uint64)
	for _, p := range s.got {
		k := Key{Publisher: p.publisher, Sequence: p.n}
		arrived, ok := first[k]
		if !ok || seen[k] {
			t.Fatalf("seed %d: %+v came without, or twice", seed, k)
		}
		seen[k] = true
		if p.at.Sub(arrived) > wait {
			t.Errorf("seed %d: %+v was held back for %v", seed, k, p.at.Sub(arrived))
		}
		if p.n > highest[p.publisher] {
			highest[p.publisher] = p.n
			continue
		}
		excused := false
		for other, at := range first {
			waited := wait
			if other.Sequence > youngUntil {
				waited /= firstContact
			}
			excused = excused || other.Publisher == p.publisher && other.Sequence > p.n && arrived.Sub(at) >= waited
		}
		if !excused {
			t.Errorf("seed %d: %+v is out of order", seed, k)
		}
	}
	if len(seen) != len(first) {
		t.Errorf("seed %d: %d messages, %d passed on", seed, len(first), len(seen))
	}
	reported := make(map[Key]bool)
	for _, g := range s.gaps {
		for n := g.First; n <= g.Last; n++ {
			k := Key{Publisher: g.Publisher, Sequence: n}
			if reported[k] {
				t.Errorf("seed %d: the gap %+v is reported twice", seed, g)
			}
			reported[k] = true
		}
	}
	for p, last := range highest {
		lowest := last
		for k := range first {
			if k.Publisher == p {
				lowest = min(lowest, k.Sequence)
			}
		}
		for n := s.got[slices.IndexFunc(s.got, func(g passed) bool { return g.publisher == p })].n; n < last; n++ {
			k := Key{Publisher: p, Sequence: n}
			if _, came := first[k]; !came && !reported[k] {
				t.Errorf("seed %d: nobody was told that %+v is missing", seed, k)
			}
		}
	}
}

func TestSequencerWithoutNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(Options{})
		defer r.Stop()
		for _, id := range []string{"a@x", "b@x", "a@x", "", ""} {
			r.Offer(transport.Delivery{Message: &transport.Message{ID: transport.ParseID(id)}})
		}
		if len(r.got) != 4 {
			t.Errorf("%d passed", len(r.got))
		}
	})
}

func TestSequencerHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(Options{Wait: -1})
		defer r.Stop()
		for _, n := range []uint64{7, 3, 7, 4} {
			r.Offer(transport.Delivery{Message: message(1, n)})
		}
		if !slices.Equal(r.numbers(), []uint64{7, 3, 4}) {
			t.Errorf("got %v", r.numbers())
		}
	})
}

// TestSequencerGoesOn: what was passed on in a life before is known, and not waited for.
func TestSequencerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handled := new(Memory)
		for _, n := range []uint64{1, 2, 3, 6, 9} {
			handled.Add(numbered(1, n), time.Time{})
		}
		r := newRecorder(Options{Wait: wait, Handled: handled})
		defer r.Stop()
		for _, n := range []uint64{5, 3, 7, 4, 10, 8} {
			r.Offer(transport.Delivery{Message: message(1, n)})
		}
		if !slices.Equal(r.numbers(), []uint64{4, 5, 7, 8, 10}) {
			t.Errorf("got %v", r.numbers())
		}
		r.Offer(transport.Delivery{Message: message(1, 13)})
		time.Sleep(2 * wait)
		synctest.Wait()
		r.Expect(map[transport.GID]uint64{gid(2): 1000})
		r.Offer(transport.Delivery{Message: message(2, 1001)})
		r.Offer(transport.Delivery{Message: message(2, 1000)})
		if !slices.Equal(r.numbers()[5:], []uint64{13, 1000, 1001}) || len(r.gaps) != 1 || r.gaps[0].First != 11 {
			t.Errorf("got %v, gaps %v", r.numbers(), r.gaps)
		}
		r.Offer(transport.Delivery{Message: message(2, 999)})
		if len(r.got) != 9 || len(r.gaps) != 2 || r.gaps[1].First != 1 || r.gaps[1].Last != 999 {
			t.Errorf("what comes from before what was expected is passed on unreported: got %v, gaps %v", r.numbers(), r.gaps)
		}
	})
}

// TestSequencerBounds: it gives up early what would take too much memory to wait for.
func TestSequencerBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(Options{Wait: wait})
		defer r.Stop()
		for n := range uint64(maxHeld) {
			r.Offer(transport.Delivery{Message: message(int(n%100), 2+n)})
		}
		if len(r.got) > 0 {
			t.Fatalf("%d passed", len(r.got))
		}
		r.Offer(transport.Delivery{Message: message(1, 1<<20)})
		if len(r.got) == 0 {
			t.Error("more messages are held back than may be")
		}
		large := message(200, 2)
		large.Body = make([]byte, maxHeldBytes+1)
		r.Offer(transport.Delivery{Message: large})
		if r.bytes > maxHeldBytes {
			t.Error("more bytes are held back than may be")
		}
		for p := range maxStreams + 10 {
			r.Offer(transport.Delivery{Message: message(1000+p, 2)})
		}
		r.mu.Lock()
		if r.streams.len() > maxStreams || r.held > maxHeld {
			t.Errorf("%d streams, %d held", r.streams.len(), r.held)
		}
		r.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		if want := maxHeld + 2 + maxStreams + 10; len(r.got) != want || r.held != 0 || r.bytes != 0 || r.holding.len() != 0 {
			t.Errorf("%d passed, want %d; %d held", len(r.got), want, r.held)
		}
	})
}

func TestSequencerStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(Options{Wait: wait})
		r.Offer(transport.Delivery{Message: message(1, 2)})
		r.Stop()
		r.Stop()
		r.Offer(transport.Delivery{Message: message(1, 1)})
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(r.got) > 0 {
			t.Errorf("got %v", r.numbers())
		}
	})
}

func BenchmarkSequencer(b *testing.B) {
	messages := make([]*transport.Message, 1000)
	for _, order := range []string{"in order", "pairs swapped"} {
		b.Run(order, func(b *testing.B) {
			s := NewSequencer(Options{Deliver: func(transport.Delivery) {}})
			defer s.Stop()
			for i := range messages {
				messages[i] = message(1, 1)
			}
			b.ReportAllocs()
			for i := range b.N {
				m := messages[i%len(messages)]
				m.Info.Sequence = uint64(i + 1)
				if order != "in order" {
					m.Info.Sequence = uint64(i^1) + 1
				}
				s.Offer(transport.Delivery{Message: m})
			}
		})
	}
}
