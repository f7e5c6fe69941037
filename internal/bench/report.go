package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Report is what the runs of a plan have shown.
type Report struct {
	Measure Measure `json:"measure"`
	Carrier string  `json:"carrier"`
	Load    Load    `json:"load"`
	Runs    int     `json:"runs"`
	Machine Machine `json:"machine"`
	// Ours and Floor are medians over the runs; Floor is nil if it was not measured.
	Ours  *Figures `json:"postbus,omitempty"`
	Floor *Figures `json:"floor,omitempty"`
	// FloorName is what the floor is called; empty means "floor".
	FloorName string `json:"floor_name,omitempty"`
	// Ratio are those of postbus to the floor: the medians of what the runs have shown.
	Ratio *Ratios `json:"ratio,omitempty"`
	// Traffic is what Counted further messages have cost in commands and connections, their
	// making included.
	Traffic *Traffic `json:"traffic,omitempty"`
	Counted int      `json:"counted,omitempty"`
	// Idle is there instead of all these if the measure is Idle.
	Idle *IdleFigures `json:"idle,omitempty"`

	ours, floor []*Sample
}

// Figures are medians over the runs, save the sums.
type Figures struct {
	// Latencies in microseconds; those of a run are percentiles of all its messages.
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
	// PerSecond is the messages or calls in a second; a message counts for each subscriber.
	PerSecond float64 `json:"per_second"`
	// CPUSeconds of the process, and the share of one core that it had at work.
	CPUSeconds float64 `json:"cpu_seconds"`
	Core       float64 `json:"core"`
	// CPUPerMessage in microseconds.
	CPUPerMessage float64 `json:"cpu_us_per_message"`
	// Allocations and Bytes are those on the heap for each message.
	Allocations float64 `json:"allocations_per_message"`
	Bytes       float64 `json:"bytes_per_message"`
	// Received, Lost, Repeated, Disordered and Late are sums over all runs.
	Received   int `json:"received"`
	Lost       int `json:"lost"`
	Repeated   int `json:"repeated"`
	Disordered int `json:"disordered"`
	Late       int `json:"late"`
}

// Ratios compare with the floor: how many times as long, and what part of its throughput.
type Ratios struct {
	P50       float64 `json:"p50,omitempty"`
	P90       float64 `json:"p90,omitempty"`
	P99       float64 `json:"p99,omitempty"`
	P999      float64 `json:"p999,omitempty"`
	Max       float64 `json:"max,omitempty"`
	PerSecond float64 `json:"per_second"`
}

// latencies are the figures that a load has only if it is timed, and their ratios.
var latencies = []struct {
	name    string
	percent float64
	of      func(*Figures) *float64
	ratio   func(*Ratios) *float64
}{
	{"p50", 50, func(f *Figures) *float64 { return &f.P50 }, func(r *Ratios) *float64 { return &r.P50 }},
	{"p90", 90, func(f *Figures) *float64 { return &f.P90 }, func(r *Ratios) *float64 { return &r.P90 }},
	{"p99", 99, func(f *Figures) *float64 { return &f.P99 }, func(r *Ratios) *float64 { return &r.P99 }},
	{"p99.9", 99.9, func(f *Figures) *float64 { return &f.P999 }, func(r *Ratios) *float64 { return &r.P999 }},
	{"max", 100, func(f *Figures) *float64 { return &f.Max }, func(r *Ratios) *float64 { return &r.Max }},
}

// others are the other figures that are medians.
var others = []func(*Figures) *float64{
	func(f *Figures) *float64 { return &f.PerSecond },
	func(f *Figures) *float64 { return &f.CPUSeconds },
	func(f *Figures) *float64 { return &f.Core },
	func(f *Figures) *float64 { return &f.CPUPerMessage },
	func(f *Figures) *float64 { return &f.Allocations },
	func(f *Figures) *float64 { return &f.Bytes },
}

// IdleFigures are what a node costs on which nothing happens.
type IdleFigures struct {
	Core                 float64  `json:"core"`
	CPUSeconds           float64  `json:"cpu_seconds"`
	Seconds              float64  `json:"seconds"`
	AllocationsPerMinute float64  `json:"allocations_per_minute"`
	CommandsPerMinute    float64  `json:"commands_per_minute"`
	Traffic              *Traffic `json:"traffic,omitempty"`
}

func newReport(plan Plan) *Report {
	return &Report{Measure: plan.Measure, Carrier: plan.Bed.Name(), Load: plan.Load, Runs: max(1, plan.Runs), Machine: ThisMachine()}
}

// ReadReport reads a report that was written as JSON. It has no samples.
func ReadReport(in io.Reader) (*Report, error) {
	r := new(Report)
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, fmt.Errorf("bench: report: %w", err)
	}
	if r.Idle == nil && r.Ours == nil {
		return nil, errors.New("bench: report: there are no figures in it")
	}
	return r, nil
}

// Samples returns what the runs have shown, of postbus and of the floor.
func (r *Report) Samples() (ours, floor []*Sample) { return r.ours, r.floor }

// conclude makes the figures of the samples.
func (r *Report) conclude() {
	r.Ours = summarize(r.ours)
	if len(r.floor) == 0 {
		return
	}
	r.Floor = summarize(r.floor)
	ratio := func(of func(*Figures) *float64) float64 {
		var all []float64
		for i := range r.ours {
			if ours, floor := *of(figures(r.ours[i])), *of(figures(r.floor[i])); floor > 0 {
				all = append(all, ours/floor)
			}
		}
		return median(all)
	}
	r.Ratio = &Ratios{PerSecond: ratio(func(f *Figures) *float64 { return &f.PerSecond })}
	if r.Load.Timed {
		for _, l := range latencies {
			*l.ratio(r.Ratio) = ratio(l.of)
		}
	}
}

// broken returns an error if postbus has broken a promise. That the floor's messages are out of order is
// the mail server's doing, but lost they must not be: then the measurement is wrong.
func (r *Report) broken() error {
	var errs []error
	for i, s := range r.ours {
		if err := s.Broken(); err != nil {
			errs = append(errs, fmt.Errorf("run %d of postbus: %w", i+1, err))
		}
	}
	for i, s := range r.floor {
		if s.Lost > 0 {
			errs = append(errs, fmt.Errorf("run %d of the floor: %d messages lost", i+1, s.Lost))
		}
	}
	return errors.Join(errs...)
}

// figures are those of one run.
func figures(s *Sample) *Figures {
	took := make([]time.Duration, len(s.Points))
	for i, p := range s.Points {
		took[i] = p.Took
	}
	slices.Sort(took)
	received := float64(max(1, s.Received))
	f := &Figures{
		PerSecond: s.Rate(), CPUSeconds: s.Used.CPU.Seconds(), Core: s.Used.Core(),
		CPUPerMessage: micros(s.Used.CPU) / received,
		Allocations:   float64(s.Used.Allocations) / received, Bytes: float64(s.Used.AllocatedBytes) / received,
		Received: s.Received, Lost: s.Lost, Repeated: s.Repeated, Disordered: s.Disordered, Late: s.Late,
	}
	for _, l := range latencies {
		*l.of(f) = micros(Percentile(took, l.percent))
	}
	return f
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// Percentile returns the smallest of the sorted times that p percent of them do not exceed, or 0 if
// there are none.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p * float64(len(sorted)) / 100))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// summarize makes medians.
func summarize(samples []*Sample) *Figures {
	all := make([]*Figures, len(samples))
	for i, s := range samples {
		all[i] = figures(s)
	}
	sum := new(Figures)
	set := func(of func(*Figures) *float64) {
		values := make([]float64, len(all))
		for i, f := range all {
			values[i] = *of(f)
		}
		*of(sum) = median(values)
	}
	for _, l := range latencies {
		set(l.of)
	}
	for _, of := range others {
		set(of)
	}
	for _, f := range all {
		sum.Received += f.Received
		sum.Lost += f.Lost
		sum.Repeated += f.Repeated
		sum.Disordered += f.Disordered
		sum.Late += f.Late
	}
	return sum
}

// median returns the middle value, or the mean of the two in the middle; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
