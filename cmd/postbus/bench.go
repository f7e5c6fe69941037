package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/internal/bench"
	"github.com/postbus/postbus/internal/bench/plot"
)

// The carriers that the bench knows.
var benchCarriers = []string{"intraprocess", "embedded", "config", "listen", "nats", "jetstream"}

// benchOptions are the flags of the commands below postbus bench.
type benchOptions struct {
	carrier          string
	load             bench.Load
	runs             int
	noFloor          bool
	tls              bool
	apart            bool
	batch            bool
	json             bool
	plot             string
	settle, duration time.Duration
}

func (a *app) benchCommand() *cobra.Command {
	return group("bench", "Measure latency, throughput and cost, beside the floor",
		`Bench measures what postbus costs on this machine and on your servers, and beside it, in the same run,
the floor: the least that the same thing can be done with. For mail that is a minimal client that submits in
as few flights as the server allows and fetches without pause, with the same server and account; for NATS it is
nats.go alone on the same server, with the same header fields; for the in-process carrier queues in memory. Ratios say
more than times: they mean the same on every machine.

Carriers are intraprocess, embedded (a mail server in this process), listen (no mail server: a node delivers to
itself by LMTP; there the floor is a minimal client's transaction alone), nats (a NATS server in this process),
jetstream (the same, with a stream on disk that keeps all messages; with --in-flight the floor publishes ahead
of the confirmations) and config. That is the account of the configuration file, which writes to itself: its inbox
gets all the messages, and they are deleted afterwards. If the file says nats, config is its servers, and a
stream that has /bench/> among its names keeps the messages until they are deleted.

It checks that each message arrives once and each publisher's in order; if not, the exit code is 1. CPU and
allocations are those of this process, the embedded server's included. Commands and connections to
mail servers are counted in a run of their own, because counting costs time.

`+exitCodes,
		`  postbus bench latency --carrier embedded
  postbus bench latency --carrier config --config email.yml --rate 10 --count 100
  postbus bench throughput --runs 7 --json
  postbus bench fanout --subscribers 10`,
		a.benchMeasure(bench.Latency, "Measure the time from publishing to delivery",
			`Latency measures the time from publishing to delivery: one message after the other, or with --rate so many
a second.`),
		a.benchMeasure(bench.RoundTrip, "Measure the time of a service call",
			`Call measures the time from a request to its answer: one call after the other, or with --rate so many a
second. --publishers are clients here. The floor of mail is that of one way.`),
		a.benchMeasure(bench.Throughput, "Measure how many messages get through",
			`Throughput measures how many messages a second get through, from the first one's publishing to the last one's
arrival.`),
		a.benchMeasure(bench.FanOut, "Measure deliveries to many subscribers",
			`Fanout measures how many deliveries a second are made when many subscribe to one topic.`),
		a.benchIdle(), a.benchShow(), a.benchPublisher())
}

func (a *app) benchShow() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:     "show FILE...",
		Short:   "Show what --json has written as tables",
		Long:    "Show prints reports that were written with --json as the tables that they would have been.\n\n" + exitCodes,
		Example: "  postbus bench latency --json >latency.json\n  postbus bench show latency.json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("the FILE of the report is missing")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				file, err := os.Open(name)
				if err != nil {
					return err
				}
				report, err := bench.ReadReport(file)
				file.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				write := report.WriteText
				if markdown {
					write = report.WriteMarkdown
				}
				if err := write(a.stdout); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print short tables in Markdown")
	return cmd
}

// benchPublisher is what the process runs that --apart starts.
func (a *app) benchPublisher() *cobra.Command {
	return &cobra.Command{
		Use:    "publisher",
		Short:  "Be the publishing process of a bench",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.ServePublisher(cmd.Context(), a.stdin, a.stdout)
		},
	}
}

// benchCounts are how many messages are measured unless --count says otherwise: a few seconds of each carrier.
// A tenth as many come before that and do not count.
var benchCounts = map[bench.Measure]map[string]int{
	bench.Latency:    {"intraprocess": 100_000, "embedded": 2000, "listen": 2000, "config": 200, "nats": 50_000, "jetstream": 20_000},
	bench.RoundTrip:  {"intraprocess": 100_000, "embedded": 2000, "listen": 2000, "config": 200, "nats": 50_000, "jetstream": 20_000},
	bench.Throughput: {"intraprocess": 2_000_000, "embedded": 20_000, "listen": 20_000, "config": 1000, "nats": 1_000_000, "jetstream": 50_000},
	bench.FanOut:     {"intraprocess": 200_000, "embedded": 5000, "listen": 5000, "config": 500, "nats": 100_000, "jetstream": 20_000},
}

// benchMeasure makes the command of a measure.
func (a *app) benchMeasure(measure bench.Measure, short, long string) *cobra.Command {
	o := new(benchOptions)
	cmd := &cobra.Command{
		Use: string(measure), Short: short, Long: long + "\n\nSee 'postbus help bench' for what is measured.\n\n" + exitCodes,
		Example: "  postbus bench " + string(measure) + " --carrier embedded --runs 5",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("count") {
				o.load.Count = benchCounts[measure][o.carrier]
			}
			if !cmd.Flags().Changed("warm-up") {
				o.load.WarmUp = o.load.Count / 10
			}
			o.load.Lockstep = measure == bench.Latency && o.load.Rate == 0
			// In memory two looks at the clock are as much as a message costs, and over NATS a tenth of it.
			fast := o.carrier == "intraprocess" || o.carrier == "nats" || o.carrier == "jetstream"
			o.load.Timed = measure == bench.Latency || measure == bench.RoundTrip || !fast
			return a.bench(cmd.Context(), measure, o)
		},
	}
	subscribers := 1
	if measure == bench.FanOut {
		subscribers = 10
	}
	a.benchFlags(cmd, o)
	flags := cmd.Flags()
	flags.IntVar(&o.load.Payload, "payload", 128, "how many `BYTES` each message has")
	flags.IntVar(&o.load.Count, "count", 0, "how `MANY` messages to measure; by default as many as take some seconds")
	flags.IntVar(&o.load.WarmUp, "warm-up", 0, "how `MANY` come before that and do not count; by default a tenth as many")
	flags.Float64Var(&o.load.Rate, "rate", 0, "how many are sent a `SECOND`; 0 means as fast as can be")
	flags.IntVar(&o.load.Publishers, "publishers", 1, "how `MANY` publishers or clients there are")
	flags.IntVar(&o.load.Subscribers, "subscribers", subscribers, "how `MANY` subscribers there are")
	flags.IntVar(&o.load.InFlight, "in-flight", 1, "how `MANY` messages a publisher has under way to the next hop at once")
	flags.IntVar(&o.runs, "runs", 3, "measure so `OFTEN`, in turn with the floor, and show medians")
	flags.BoolVar(&o.noFloor, "no-floor", false, "do not measure the floor")
	flags.BoolVar(&o.batch, "batch", false, "by mail, collect messages while one is on its way (see email.batch); it takes many in flight")
	flags.BoolVar(&o.apart, "apart", false, "publish from a process of its own (over mail or NATS servers): then the CPU time is that of receiving")
	flags.StringVar(&o.plot, "plot", "", "draw the distribution of latencies, and how they were over time, into `FILE.svg`")
	_ = cmd.MarkFlagFilename("plot", "svg") // the flag exists
	return cmd
}

// benchFlags are the flags that all measures have.
func (a *app) benchFlags(cmd *cobra.Command, o *benchOptions) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.carrier, "carrier", benchCarriers[0], "`CARRIER` to measure: "+strings.Join(benchCarriers, ", "))
	flags.BoolVar(&o.tls, "tls", false, "have the embedded server speak TLS")
	flags.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	// The flag exists, so there is no error.
	_ = cmd.RegisterFlagCompletionFunc("carrier", cobra.FixedCompletions(benchCarriers, cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) benchIdle() *cobra.Command {
	o := new(benchOptions)
	cmd := &cobra.Command{
		Use:   string(bench.Idle),
		Short: "Measure what a node costs on which nothing happens",
		Long: `Idle opens a node with a subscription, leaves it alone for a while, and then looks at what it costs while
nothing happens: CPU, commands and connections. A node of the mail carrier comes to rest some ten seconds after
the last sign of life.

` + exitCodes,
		Example: "  postbus bench idle --carrier embedded --duration 5m",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.bench(cmd.Context(), bench.Idle, o) },
	}
	a.benchFlags(cmd, o)
	cmd.Flags().DurationVar(&o.settle, "settle", 15*time.Second, "leave the node alone for this `TIME` first")
	cmd.Flags().DurationVar(&o.duration, "duration", time.Minute, "look at it for this `TIME`")
	return cmd
}

// checkBench refuses flags that mean nothing to the carrier.
func (a *app) checkBench(o *benchOptions) error {
	for _, f := range []struct {
		flag     string
		given    bool
		carriers []string // that it means something to
	}{
		{"tls", o.tls, []string{"embedded"}},
		{"batch", o.batch, []string{"embedded", "listen", "config"}},
		{"apart", o.apart, []string{"embedded", "config", "nats", "jetstream"}},
		{"config", a.configPath != "", []string{"config"}},
	} {
		if f.given && slices.Contains(benchCarriers, o.carrier) && !slices.Contains(f.carriers, o.carrier) {
			return usageErrorf("--%s: it means nothing to --carrier %s, but to %s", f.flag, o.carrier, strings.Join(f.carriers, ", "))
		}
	}
	return nil
}

// bed returns what --carrier names.
func (a *app) bed(o *benchOptions) (bench.Bed, error) {
	if err := a.checkBench(o); err != nil {
		return nil, err
	}
	var publisher func() *exec.Cmd
	if o.apart {
		// The name counts, not the file: tests give one file several names.
		binary, err := exec.LookPath(os.Args[0])
		if err != nil {
			return nil, err
		}
		publisher = func() *exec.Cmd {
			return &exec.Cmd{Path: binary, Args: []string{os.Args[0], "bench", "publisher"}, Stderr: a.stderr}
		}
	}
	switch o.carrier {
	case "intraprocess":
		return bench.Intraprocess{}, nil
	case "embedded":
		return bench.Embedded{TLS: o.tls, Change: o.change, Apart: publisher}, nil
	case "listen":
		return bench.Listening{Change: o.change}, nil
	case "nats", "jetstream":
		return bench.NATS{Kept: o.carrier == "jetstream", Apart: publisher}, nil
	case "config":
		config, err := a.config()
		if err != nil {
			return nil, err
		}
		if o.batch && len(config.NATS.Servers) > 0 {
			return nil, usageErrorf("--batch: the configuration says NATS, and only mails have several messages")
		}
		o.change(&config)
		return bench.Configured{Config: config, Apart: publisher}, nil
	}
	return nil, usageErrorf("--carrier: %q is none of %s", o.carrier, strings.Join(benchCarriers, ", "))
}

// change applies the flags that concern the configuration.
func (o *benchOptions) change(config *email.Config) { config.Batch.On = config.Batch.On || o.batch }

func (a *app) bench(ctx context.Context, measure bench.Measure, o *benchOptions) error {
	bed, err := a.bed(o)
	if err != nil {
		return err
	}
	if measure != bench.Idle {
		if err := o.load.Check(); err != nil {
			return &usageError{err}
		}
	}
	report, err := bench.Run(ctx, bench.Plan{
		Measure: measure, Bed: bed, Load: o.load, Runs: o.runs, NoFloor: o.noFloor, Settle: o.settle, Duration: o.duration,
		Progress: func(what string) { fmt.Fprintln(a.stderr, what) },
	})
	if report == nil {
		return err
	}
	return errors.Join(err, a.showBench(report, o))
}

// showBench prints a report, and draws it.
func (a *app) showBench(report *bench.Report, o *benchOptions) error {
	if o.plot != "" {
		svg, err := plot.SVG(report)
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.plot, svg, 0o666); err != nil {
			return err
		}
	}
	if o.json {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	return report.WriteText(a.stdout)
}
