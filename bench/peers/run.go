package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/postbus/postbus/internal/bench"
)

// fanOut is how many subscribers there are when there are many.
const fanOut = 10

// result is what the runs have shown of a contender.
type result struct {
	stream, fanOut, calls []*bench.Sample
}

// run measures and prints the tables.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.runs, "runs", 5, "measure everything so often, in turn")
	flags.IntVar(&o.payload, "payload", 128, "bytes of each message")
	flags.Float64Var(&o.scale, "scale", 1, "make so many times as many messages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.runs < 1 || o.payload < headerBytes || o.scale <= 0 {
		return fmt.Errorf("at least one run, %d bytes of payload and a scale above 0 are needed", headerBytes)
	}
	all := contenders()
	results := make([]result, len(all))
	for i := range o.runs {
		for j, c := range all {
			fmt.Fprintf(stderr, "run %d of %d: %s\n", i+1, o.runs, c.name)
			if err := c.measure(ctx, o, &results[j]); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return report(stdout, o, all, results)
}

// measure makes one run of a contender.
func (c contender) measure(ctx context.Context, o options, r *result) error {
	ground, err := c.start(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.measureOn(ctx, ground, o, r), ground.Close(context.WithoutCancel(ctx)))
}

func (c contender) measureOn(ctx context.Context, ground bench.Ground, o options, r *result) error {
	load := bench.Load{Publishers: 1, Subscribers: 1, InFlight: 1, Payload: o.payload, AnyOrder: c.shuffles}
	for _, part := range []struct {
		count       int
		subscribers int
		into        *[]*bench.Sample
	}{{c.stream, 1, &r.stream}, {c.fanOut, fanOut, &r.fanOut}} {
		load.Subscribers = part.subscribers
		load.Count = o.scaled(part.count)
		load.WarmUp = max(1, load.Count/10)
		sample, err := bench.Stream(ctx, ground.Ours, load)
		if err != nil {
			return err
		}
		if err := sample.Broken(); err != nil {
			return err
		}
		*part.into = append(*part.into, sample)
	}
	load.Timed, load.Subscribers, load.Count = true, 1, o.scaled(c.calls)
	load.WarmUp = load.Count / 10
	sample, err := bench.Calls(ctx, ground.OpenCaller, load)
	if err != nil {
		return err
	}
	r.calls = append(r.calls, sample)
	return nil
}

func (o options) scaled(count int) int { return max(1, int(float64(count)*o.scale)) }

// report prints the tables: medians, and how they compare with the floor, which is the first.
func report(w io.Writer, o options, all []contender, results []result) error {
	fmt.Fprintf(w, "%s\n%d bytes, one publisher, medians of %d runs; fan-out to %d subscribers\n\n", bench.ThisMachine(), o.payload, o.runs, fanOut)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tmessages/s\t/ floor\tallocations\tout of order\tfan-out, deliveries/s\t/ floor\tcall p50 µs\tx floor\tp99 µs\tp99.9 µs\t")
	for i, c := range all {
		r, floor := results[i], results[0]
		fmt.Fprintf(t, "%s\t%.0f\t%.3f\t%.1f\t%.1f %%\t%.0f\t%.3f\t%.2f\t%.1f\t%.1f\t%.1f\t\n", c.name,
			median(r.stream, (*bench.Sample).Rate), ratio(r.stream, floor.stream, (*bench.Sample).Rate),
			median(r.stream, allocations), median(r.stream, disorder)*100,
			median(r.fanOut, (*bench.Sample).Rate), ratio(r.fanOut, floor.fanOut, (*bench.Sample).Rate),
			median(r.calls, took(50)), ratio(r.calls, floor.calls, took(50)), median(r.calls, took(99)), median(r.calls, took(99.9)))
	}
	return t.Flush()
}

func allocations(s *bench.Sample) float64 { return float64(s.Used.Allocations) / float64(s.Received) }
func disorder(s *bench.Sample) float64    { return float64(s.Disordered) / float64(s.Received) }

// took returns the function that gives a percentile of the calls in microseconds.
func took(percent float64) func(*bench.Sample) float64 {
	return func(s *bench.Sample) float64 {
		times := make([]time.Duration, len(s.Points))
		for i, p := range s.Points {
			times[i] = p.Took
		}
		slices.Sort(times)
		return float64(bench.Percentile(times, percent)) / float64(time.Microsecond)
	}
}

func median(samples []*bench.Sample, value func(*bench.Sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	return middle(values)
}

// ratio returns the median of what the runs have shown, each against the floor's of the same run.
func ratio(samples, floor []*bench.Sample, value func(*bench.Sample) float64) float64 {
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = value(samples[i]) / value(floor[i])
	}
	return middle(values)
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return (values[len(values)/2] + values[(len(values)-1)/2]) / 2
}
