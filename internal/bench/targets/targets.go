package main

import (
	"math"

	"github.com/postbus/postbus/internal/bench"
)

// target is something that postbus wants to reach.
type target struct {
	part, name string
	// bound is what the figure has to be at most, or at least if more is set.
	bound float64
	more  bool
	unit  string
	// reports are the files, without .json, that the figure is made of.
	reports []string
	figure  func(r []*bench.Report) float64
}

// of makes the figure of one report.
func of(f func(*bench.Report) float64) func([]*bench.Report) float64 {
	return func(r []*bench.Report) float64 { return f(r[0]) }
}

var (
	ratioP50  = of(func(r *bench.Report) float64 { return r.Ratio.P50 })
	ratioP99  = of(func(r *bench.Report) float64 { return r.Ratio.P99 })
	ratioRate = of(func(r *bench.Report) float64 { return r.Ratio.PerSecond })
	p50       = of(func(r *bench.Report) float64 { return r.Ours.P50 })
	p99       = of(func(r *bench.Report) float64 { return r.Ours.P99 })
	perSecond = of(func(r *bench.Report) float64 { return r.Ours.PerSecond })
)

// The parts.
const (
	stock    = "Postfix + Dovecot"
	embedded = "embedded server"
	listen   = "listening"
	memory   = "in process"
	nats     = "NATS"
)

// targets are those that postbus bench measures; tests and benchmarks of the packages see to the others.
var targets = []target{
	{part: stock, name: "one way at 10/s, p50", bound: 1.25, unit: "x floor", reports: []string{"stock-latency-10"}, figure: ratioP50},
	{part: stock, name: "one way at 10/s, p99", bound: 2, unit: "x floor's", reports: []string{"stock-latency-10"}, figure: ratioP99},
	{part: stock, name: "receiving process at 10/s", bound: 5, unit: "% of a core", reports: []string{"stock-latency-10"},
		figure: of(func(r *bench.Report) float64 { return r.Ours.Core * 100 })},
	{part: stock, name: "one way at 100/s, p50", bound: 1.15, unit: "x floor", reports: []string{"stock-latency-100"}, figure: ratioP50},
	{part: stock, name: "call, p50", bound: 2.4, unit: "x floor one way", reports: []string{"stock-call"}, figure: ratioP50},
	{part: stock, name: "idle node", bound: 0.1, unit: "% of a core", reports: []string{"stock-idle"},
		figure: of(func(r *bench.Report) float64 { return r.Idle.Core * 100 })},
	{part: stock, name: "idle node, new connections", bound: 0, reports: []string{"stock-idle"},
		figure: of(func(r *bench.Report) float64 { return float64(r.Idle.Traffic.Connections) })},
	{part: stock, name: "idle node, commands", bound: 2, unit: "a minute", reports: []string{"stock-idle"},
		figure: of(func(r *bench.Report) float64 { return r.Idle.CommandsPerMinute })},
	{part: stock, name: "throughput", bound: 0.9, more: true, unit: "x floor", reports: []string{"stock-throughput"}, figure: ratioRate},
	{part: stock, name: "throughput in batches", bound: 20, more: true, unit: "x one by one", reports: []string{"stock-throughput-batch", "stock-throughput"},
		figure: func(r []*bench.Report) float64 { return r[0].Ours.PerSecond / r[1].Ours.PerSecond }},
	{part: stock, name: "one way at 100/s with batching, p50", bound: 1.1, unit: "x without", reports: []string{"stock-latency-100-batch", "stock-latency-100"},
		figure: func(r []*bench.Report) float64 { return r[0].Ratio.P50 / r[1].Ratio.P50 }},
	{part: listen, name: "one way, p50", bound: 1.3, unit: "x the transaction", reports: []string{"listen-latency"}, figure: ratioP50},
	{part: embedded, name: "one way, p50", bound: 200, unit: "µs", reports: []string{"embedded-latency"}, figure: p50},
	{part: embedded, name: "throughput", bound: 10_000, more: true, unit: "messages/s", reports: []string{"embedded-throughput"}, figure: perSecond},
	{part: embedded, name: "throughput in batches", bound: 150_000, more: true, unit: "messages/s", reports: []string{"embedded-throughput-batch"}, figure: perSecond},
	{part: memory, name: "throughput", bound: 0.5, more: true, unit: "x floor", reports: []string{"memory-throughput"}, figure: ratioRate},
	{part: memory, name: "allocations of a message", bound: 2, reports: []string{"memory-throughput"},
		figure: of(func(r *bench.Report) float64 { return math.Round(r.Ours.Allocations*100) / 100 })}, // timers make some, too
	{part: memory, name: "fan-out to 10", bound: 5_000_000, more: true, unit: "deliveries/s", reports: []string{"memory-fanout"}, figure: perSecond},
	{part: memory, name: "call, p50", bound: 2, unit: "µs", reports: []string{"memory-call"}, figure: p50},
	{part: memory, name: "call, p99", bound: 20, unit: "µs", reports: []string{"memory-call"}, figure: p99},
	{part: nats, name: "throughput", bound: 0.85, more: true, unit: "x nats.go", reports: []string{"nats-throughput"}, figure: ratioRate},
	{part: nats, name: "call, p50", bound: 1.25, unit: "x nats.go", reports: []string{"nats-call"}, figure: ratioP50},
	{part: nats, name: "throughput with JetStream", bound: 0.85, more: true, unit: "x nats.go, publishing ahead", reports: []string{"jetstream-throughput"}, figure: ratioRate},
}
