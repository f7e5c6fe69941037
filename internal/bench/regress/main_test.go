package main

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/postbus/postbus/internal/bench"
)

// scripted is a bed whose memory is in the place of postbus, and counts how often it is used.
type scripted struct {
	bench.Bed
	started *int
	fail    error
}

func (s scripted) Start(ctx context.Context) (bench.Ground, error) {
	*s.started++
	ground, err := s.Bed.Start(ctx)
	ground.Ours = ground.Floor
	return ground, errors.Join(err, s.fail)
}

// What is too bad is tried again and then fails the check; what is good once is enough.
func TestCheck(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		ratios []float64
		starts int
		want   string
	}{
		{ratios: []float64{3}, starts: 1},
		{ratios: []float64{5, 4.1, 4}, starts: 3},
		{ratios: []float64{5, 5, 5, 4.5, 6}, starts: tries, want: "1 of 1 ratios"},
		{ratios: []float64{nan, 4}, starts: 2},
		{ratios: []float64{nan, nan, nan, nan, nan}, starts: tries, want: "1 of 1 ratios"},
	} {
		runs := 0
		l := limit{name: "x", measured: 2, of: func(*bench.Report) float64 { runs++; return c.ratios[runs-1] }}
		started := 0
		l.plan = plan(bench.Throughput, scripted{Bed: bench.Intraprocess{}, started: &started}, bench.Load{Count: 10})
		var out strings.Builder
		err := check(t.Context(), []limit{l}, false, &out)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v", c.ratios, err)
		}
		if runs != c.starts || strings.Contains(out.String(), "TOO BAD") != (c.want != "") {
			t.Errorf("%v: %d runs, want %d:\n%s", c.ratios, runs, c.starts, &out)
		}
	}
}

func TestCheckFailsWithTheBench(t *testing.T) {
	started := 0
	l := limit{name: "x", plan: plan(bench.Throughput, scripted{bench.Intraprocess{}, &started, errors.New("on fire")}, bench.Load{Count: 10})}
	if err := check(t.Context(), []limit{l}, false, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), "on fire") || started != 1 {
		t.Errorf("error %v after %d starts", err, started)
	}
}

// The limits measure what they say, whatever comes out.
func TestLimits(t *testing.T) {
	for _, l := range limits {
		l.plan.Load.Count, l.plan.Load.WarmUp = 20, 2
		if !l.plan.Load.Timed {
			l.plan.Load.Count = 5000 // what is too fast to be timed one by one takes any time then
		}
		if l.measured <= 0 {
			t.Errorf("%s: nothing was measured", l.name)
		}
		report, err := bench.Run(t.Context(), l.plan)
		if err != nil || l.of(report) <= 0 {
			t.Errorf("%s: %v", l.name, err)
		}
	}
}
