package main

import (
	"time"

	"github.com/postbus/postbus/internal/bench"
)

// limits are what the check asks for. To bring them up to date, run it with -v on a quiet machine and write
// down what it prints as measured; a limit is twice as bad as that.
var limits = []limit{
	{
		name: "throughput in process, times the CPU time of a queue under a mutex", measured: 3,
		plan: plan(bench.Throughput, bench.Intraprocess{}, bench.Load{Count: 500_000, WarmUp: 50_000}), of: cpuTime,
	},
	{
		name: "fan-out in process to 10, times the CPU time of queues under mutexes", measured: 2,
		plan: plan(bench.FanOut, bench.Intraprocess{}, bench.Load{Count: 50_000, WarmUp: 5000, Subscribers: 10}), of: cpuTime,
	},
	{
		name: "call in process, times a round trip over two queues, p50", measured: 2.8,
		plan: plan(bench.RoundTrip, bench.Intraprocess{}, bench.Load{Count: 20_000, WarmUp: 2000, Timed: true}),
		of:   func(r *bench.Report) float64 { return r.Ratio.P50 },
	},
	{
		name: "latency on the embedded mail server, times a raw client's, p50", measured: 2.6,
		plan: plan(bench.Latency, bench.Embedded{}, bench.Load{Count: 500, WarmUp: 100, Lockstep: true, Timed: true}),
		of:   func(r *bench.Report) float64 { return r.Ratio.P50 },
	},
	{
		name: "call on the embedded mail server, times a raw client's one way, p50", measured: 6.6,
		plan: plan(bench.RoundTrip, bench.Embedded{}, bench.Load{Count: 300, WarmUp: 50, Timed: true}),
		of:   func(r *bench.Report) float64 { return r.Ratio.P50 },
	},
	{
		name: "throughput on the embedded mail server, times a raw client's CPU time", measured: 2.6,
		plan: plan(bench.Throughput, bench.Embedded{}, bench.Load{Count: 3000, WarmUp: 300, Timed: true}), of: cpuTime,
	},
	{
		name: "throughput over NATS, times the CPU time of nats.go alone", measured: 1.14,
		plan: plan(bench.Throughput, bench.NATS{}, bench.Load{Count: 100_000, WarmUp: 10_000}), of: cpuTime,
	},
	{
		name: "call over NATS, times nats.go's alone, p50", measured: 1.18,
		plan: plan(bench.RoundTrip, bench.NATS{}, bench.Load{Count: 5000, WarmUp: 500, Timed: true}),
		of:   func(r *bench.Report) float64 { return r.Ratio.P50 },
	},
	{
		name: "throughput over JetStream, times the CPU time of nats.go alone", measured: 1.5,
		plan: plan(bench.Throughput, bench.NATS{Kept: true}, bench.Load{Count: 10_000, WarmUp: 1000, InFlight: 256}), of: cpuTime,
	},
}

// cpuTime is what a message costs, times what one of the floor does. Unlike the messages in a second it does
// not depend on what else the machine has to do.
func cpuTime(r *bench.Report) float64 { return r.Ours.CPUPerMessage / r.Floor.CPUPerMessage }

// tries is how often a limit may be missed: another program on the machine, or an unlucky moment, does
// not count as a regression.
const tries = 5

// patience bounds the whole check.
const patience = 3 * time.Minute

// plan is one run of a measure beside its floor.
func plan(measure bench.Measure, bed bench.Bed, load bench.Load) bench.Plan {
	load.Publishers, load.Payload = 1, 128
	load.InFlight, load.Subscribers = max(1, load.InFlight), max(1, load.Subscribers)
	return bench.Plan{Measure: measure, Bed: bed, Load: load, Runs: 1}
}
