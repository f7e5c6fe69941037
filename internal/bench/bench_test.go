package bench_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/internal/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a load that takes no time.
var small = bench.Load{Publishers: 2, Subscribers: 2, InFlight: 1, Count: 301, WarmUp: 5, Payload: 128, Timed: true}

// Every way to send a load gets it through memory.
func TestStream(t *testing.T) {
	for name, change := range map[string]func(*bench.Load){
		"burst":    func(*bench.Load) {},
		"lockstep": func(l *bench.Load) { l.Lockstep = true },
		"paced":    func(l *bench.Load) { l.Rate = 1e5 },
		"window":   func(l *bench.Load) { l.Count, l.Timed = 200_000, false },
		"untimed":  func(l *bench.Load) { l.Timed = false },
		"empty":    func(l *bench.Load) { l.Payload, l.WarmUp = 0, 0 },
		"one":      func(l *bench.Load) { l.Publishers, l.Subscribers, l.Count = 1, 1, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			load := small
			change(&load)
			s, err := bench.Stream(t.Context(), bench.Memory{}, load)
			if err != nil {
				t.Fatal(err)
			}
			if want := load.Count * load.Subscribers; s.Received != want || s.Broken() != nil || load.Timed != (len(s.Points) == want) {
				t.Errorf("received %d of %d, %d points, %v", s.Received, want, len(s.Points), s.Broken())
			}
			if s.Elapsed <= 0 || s.Used.Wall < s.Elapsed || int(s.Used.Allocations) < load.Count/2 && load.Payload > 0 {
				t.Errorf("elapsed %v, used %+v", s.Elapsed, s.Used)
			}
		})
	}
}

// spoilt changes the order in which a subscriber gets the messages of one publisher.
type spoilt struct {
	bench.System
	order []uint64 // the numbers, as they come
}

type spoiltSession struct {
	bench.Session
	order []uint64
}

func (s spoilt) Open(ctx context.Context, load bench.Load) (bench.Session, error) {
	session, err := s.System.Open(ctx, load)
	return &spoiltSession{session, s.order}, err
}

func (s *spoiltSession) Next(ctx context.Context, _ int) (bench.Arrival, error) {
	if len(s.order) == 0 {
		return bench.Arrival{}, errors.New("the end")
	}
	n := s.order[0]
	s.order = s.order[1:]
	return bench.Arrival{Number: n, Bytes: 1}, nil
}

// What goes wrong on the way is noticed.
func TestStreamNotices(t *testing.T) {
	for _, c := range []struct {
		order                []uint64
		repeated, disordered int
		err                  string
	}{
		{order: []uint64{1, 2, 3, 4}},
		{order: []uint64{2, 1, 3, 4}, disordered: 1},
		{order: []uint64{4, 1, 2, 3}, disordered: 3},
		{order: []uint64{1, 1, 2, 2, 3, 4}, repeated: 2},
		{order: []uint64{1, 2, 4}, err: "the end"},
		{order: []uint64{1, 2, 5}, err: "nobody has published: number 5"},
		{order: []uint64{0}, err: "nobody has published"},
	} {
		load := bench.Load{Publishers: 1, Subscribers: 1, InFlight: 1, Count: 4, Payload: 1}
		s, err := bench.Stream(t.Context(), spoilt{bench.Memory{}, c.order}, load)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: error %v, want %s", c.order, err, c.err)
			}
			continue
		}
		if err != nil || s.Repeated != c.repeated || s.Disordered != c.disordered || (s.Broken() != nil) != (c.repeated+c.disordered > 0) {
			t.Errorf("%v: %+v, %v", c.order, s, err)
		}
	}
}

// Every measure works on every carrier that needs no server of its own, finds nothing wrong and
// compares with the floor.
func TestRun(t *testing.T) {
	for _, bed := range []bench.Bed{bench.Intraprocess{}, bench.Embedded{}, bench.Embedded{TLS: true}, bench.Listening{}, bench.NATS{}, bench.NATS{Kept: true}} {
		for _, measure := range []bench.Measure{bench.Latency, bench.RoundTrip, bench.Throughput, bench.FanOut} {
			t.Run(bed.Name()+" "+string(measure), func(t *testing.T) {
				load := bench.Load{Publishers: 2, Subscribers: 1, InFlight: 1, Count: 40, WarmUp: 4, Payload: 3000, Timed: true}
				switch measure {
				case bench.Latency:
					load.Lockstep = true
				case bench.Throughput:
					load.InFlight = 3
				case bench.FanOut:
					load.Subscribers = 3
				}
				r, err := bench.Run(t.Context(), bench.Plan{Measure: measure, Bed: bed, Load: load, Runs: 2})
				if err != nil {
					t.Fatal(err)
				}
				if want := 2 * 40 * load.Subscribers; r.Ours.Received != want || r.Floor.Received != want {
					t.Errorf("received %d and %d, want %d", r.Ours.Received, r.Floor.Received, want)
				}
				f := r.Ours
				if f.P50 <= 0 || f.P90 < f.P50 || f.P99 < f.P90 || f.P999 < f.P99 || f.Max < f.P999 || f.PerSecond <= 0 {
					t.Errorf("figures %+v", f)
				}
				if r.Ratio.P50 <= 0 || r.Ratio.PerSecond <= 0 {
					t.Errorf("ratios %+v", r.Ratio)
				}
				checkTraffic(t, r, bed)
			})
		}
	}
}

// checkTraffic checks what was counted on the wire.
func checkTraffic(t *testing.T, r *bench.Report, bed bench.Bed) {
	t.Helper()
	if bed.Name() != "embedded" {
		if r.Traffic != nil {
			t.Errorf("traffic %+v where there is no server", r.Traffic)
		}
		return
	}
	// MAIL and RCPT at least, and a connection of each kind for each side; and nothing without end.
	if r.Counted != 40 || r.Traffic.SMTP < 2*40 || r.Traffic.IMAP < 4 || r.Traffic.Connections < 3 || r.Traffic.Connections > 1000 {
		t.Errorf("traffic %+v of %d", r.Traffic, r.Counted)
	}
}

func TestRunIdle(t *testing.T) {
	r, err := bench.Run(t.Context(), bench.Plan{Measure: bench.Idle, Bed: bench.Embedded{}, Settle: time.Millisecond, Duration: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Idle == nil || r.Idle.Seconds < 0.01 || r.Idle.Traffic == nil {
		t.Errorf("%+v", r.Idle)
	}
}

func TestRunIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	plan := bench.Plan{Measure: bench.Latency, Bed: bench.Embedded{}, Load: small, Runs: 1000}
	plan.Progress = func(string) { cancel() }
	if _, err := bench.Run(ctx, plan); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestPercentile(t *testing.T) {
	var times []time.Duration
	for i := range 1000 {
		times = append(times, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0: 1, 50: 500, 90: 900, 99: 990, 99.9: 999, 100: 1000} {
		if got := bench.Percentile(times, p); got != want {
			t.Errorf("%v%%: %d, want %d", p, got, want)
		}
	}
	if bench.Percentile(nil, 50) != 0 || bench.Percentile(times[:1], 99.9) != 1 {
		t.Error("of none and of one")
	}
}
