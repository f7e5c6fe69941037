package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Measure is what is measured.
type Measure string

// The measures.
const (
	// Latency is the time from publishing to delivery, at the rate of the load or one
	// message at a time.
	Latency Measure = "latency"
	// RoundTrip is the time of a call of a service.
	RoundTrip Measure = "call"
	// Throughput is how many messages get through in a second.
	Throughput Measure = "throughput"
	// FanOut is Throughput with several subscribers.
	FanOut Measure = "fanout"
	// Idle is what a node costs on which nothing happens.
	Idle Measure = "idle"
)

// Plan is what Run does.
type Plan struct {
	Measure Measure
	Bed     Bed
	Load    Load
	// Runs is how often it is measured, each time in turn with the floor.
	Runs int
	// NoFloor leaves the floor out.
	NoFloor bool
	// Settle is how long an idle node is left alone before it is looked at, for Duration.
	Settle, Duration time.Duration
	// Progress is told what is done next.
	Progress func(string)
}

// Run measures. When messages were lost, repeated or out of order the error says so, and there
// is a report all the same.
func Run(ctx context.Context, plan Plan) (*Report, error) {
	if plan.Progress == nil {
		plan.Progress = func(string) {}
	}
	if plan.Measure == Idle {
		return runIdle(ctx, plan)
	}
	report := newReport(plan)
	for i := range report.Runs {
		if err := report.run(ctx, plan, i); err != nil {
			return nil, err
		}
	}
	if err := report.count(ctx, plan); err != nil {
		return nil, err
	}
	report.conclude()
	return report, report.broken()
}

// on starts the bed, does something on it and cleans up.
func (p Plan) on(ctx context.Context, f func(Ground) error) error {
	ground, err := p.Bed.Start(ctx)
	if err != nil {
		return err
	}
	err = f(ground)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, ground.Close(closing))
}

// run measures once. Every second time the floor comes first, so that neither has an advantage of
// what a server keeps.
func (r *Report) run(ctx context.Context, plan Plan, i int) error {
	return plan.on(ctx, func(g Ground) error {
		r.FloorName = g.FloorName
		if plan.Measure == RoundTrip && g.OpenFloorCaller == nil {
			r.FloorName = "floor one way"
		}
		halves := []struct {
			name string
			into *[]*Sample
			f    func(context.Context, Ground, Load) (*Sample, error)
		}{{"postbus", &r.ours, plan.Measure.ours}, {"floor", &r.floor, plan.Measure.floor}}
		if i%2 == 1 {
			halves[0], halves[1] = halves[1], halves[0]
		}
		for _, half := range halves {
			if half.name == "floor" && plan.NoFloor {
				continue
			}
			plan.Progress(fmt.Sprintf("%s on %s: run %d of %d, %s", plan.Measure, plan.Bed.Name(), i+1, r.Runs, half.name))
			sample, err := half.f(ctx, g, plan.Load)
			if err != nil {
				return fmt.Errorf("%s on %s, %s: %w", plan.Measure, plan.Bed.Name(), half.name, err)
			}
			*half.into = append(*half.into, sample)
		}
		return nil
	})
}

func (m Measure) ours(ctx context.Context, g Ground, load Load) (*Sample, error) {
	if m == RoundTrip {
		return Calls(ctx, g.OpenCaller, load)
	}
	load.AnyOrder = load.InFlight > 1 && !g.Numbered
	return Stream(ctx, g.Ours, load)
}

func (m Measure) floor(ctx context.Context, g Ground, load Load) (*Sample, error) {
	if m == RoundTrip && g.OpenFloorCaller != nil {
		return Calls(ctx, g.OpenFloorCaller, load)
	}
	if m == RoundTrip { // one way
		load.Publishers, load.Subscribers, load.Lockstep = 1, 1, load.Rate == 0
	}
	load.AnyOrder = true // a mail server may shuffle, and that is not the floor's business
	return Stream(ctx, g.Floor, load)
}

// mostCounted is how many messages are enough to count the commands of each.
const mostCounted = 2000

// count repeats the load once with its traffic counted.
func (r *Report) count(ctx context.Context, plan Plan) error {
	return plan.on(ctx, func(g Ground) error {
		if g.Counted == nil {
			return nil
		}
		plan.Progress(fmt.Sprintf("%s on %s: counting commands", plan.Measure, plan.Bed.Name()))
		counter, err := g.Counted()
		if err != nil {
			return err
		}
		load := plan.Load
		load.Count, load.WarmUp = min(load.Count, mostCounted), 0
		sample, err := plan.Measure.ours(ctx, g, load)
		if err != nil {
			return fmt.Errorf("%s on %s, counting: %w", plan.Measure, plan.Bed.Name(), err)
		}
		traffic := counter.Traffic()
		r.Traffic = &traffic
		r.Counted = sample.Received / max(1, load.Subscribers)
		return nil
	})
}

// runIdle looks at a node that only waits.
func runIdle(ctx context.Context, plan Plan) (*Report, error) {
	report := newReport(plan)
	err := plan.on(ctx, func(g Ground) error {
		var counter *Counter
		if g.Counted != nil {
			var err error
			if counter, err = g.Counted(); err != nil {
				return err
			}
		}
		closeNode, err := g.OpenIdle(ctx)
		if err != nil {
			return err
		}
		idle, err := idle(ctx, plan, counter)
		report.Idle = idle
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return errors.Join(err, closeNode(closing))
	})
	if err != nil {
		return nil, err
	}
	return report, nil
}

func idle(ctx context.Context, plan Plan, counter *Counter) (*IdleFigures, error) {
	plan.Progress(fmt.Sprintf("idle on %s: leaving the node alone for %v", plan.Bed.Name(), plan.Settle))
	if err := rest(ctx, plan.Settle); err != nil {
		return nil, err
	}
	plan.Progress(fmt.Sprintf("idle on %s: looking at it for %v", plan.Bed.Name(), plan.Duration))
	var before Traffic
	if counter != nil {
		before = counter.Traffic()
	}
	mark := readUsage()
	if err := rest(ctx, plan.Duration); err != nil {
		return nil, err
	}
	used := readUsage().since(mark)
	f := &IdleFigures{
		Core: used.Core(), CPUSeconds: used.CPU.Seconds(), Seconds: used.Wall.Seconds(),
		AllocationsPerMinute: float64(used.Allocations) / used.Wall.Minutes(),
	}
	if counter != nil {
		traffic := counter.Traffic().Since(before)
		f.Traffic = &traffic
		f.CommandsPerMinute = float64(traffic.SMTP+traffic.IMAP) / used.Wall.Minutes()
	}
	return f, nil
}

// rest lets time pass.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
