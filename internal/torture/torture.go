// Package torture is the proof that postbus loses nothing and handles nothing twice: it runs
// programs in processes of their own, kills them, takes servers of mail or NATS away, breaks connections,
// and has a checker judge the history of it all.
//
// The parts can be used alone: package history is the judge, package proxy breaks
// connections, package worker has the programs. The command is postbus soak.
package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/torture/history"
)

// Options say what a run is to be. Worker and Server are required.
type Options struct {
	// Worker is the command line of a process that calls worker.Main, and Env what is
	// added to its environment.
	Worker, Env []string
	// Server is where the workers have their accounts.
	Server Server
	// Dir gets the history, the state of the workers and their logs. It must be empty.
	Dir string
	// Seed determines what is done at random, though not how it turns out.
	Seed uint64

	// Load says who takes part.
	Load Load
	// Faults are the kinds of faults, by name (see FaultNames), and FaultEvery is the mean time between two.
	Faults     []string
	FaultEvery time.Duration
	// Duration, if it is not zero, ends the publishing before all is published.
	Duration time.Duration
	// Patience is how long nothing may get through before the run ends, or, at the end, what is owed counts
	// as lost. Zero means a minute.
	Patience time.Duration
	// Settle is how long to wait, at the end, for what may come twice. Zero means a second.
	Settle time.Duration
	// Progress, if not nil, hears now and then how far the run is.
	Progress io.Writer
}

// Load says who takes part in a run, and what they do.
type Load struct {
	// Messages and Calls are how many there are to be, of all together.
	Messages, Calls int
	// Publishers publish without an outbox, Outboxes with one.
	Publishers, Outboxes int
	// Plains and Durables are subscriptions, Members those of one group.
	Plains, Durables, Members int
	// Clients and Servers are the ends of a service. ServerMode is history.Plain, Durable or
	// Group; empty means Plain.
	Clients, Servers int
	ServerMode       string
	// Batch has messages that are sent at the same time travel as one mail, and eight publishers in each
	// process of a publisher, so that some are.
	Batch bool
	// Every is how long a publisher or client waits between two messages, and Timeout
	// how long one may take.
	Every, Timeout time.Duration
	// Work is how long the handling of a message takes at most.
	Work time.Duration
	// NackEvery has one in so many messages given back by durable subscriptions and members.
	NackEvery int
	// MaxBody is the size of the largest body.
	MaxBody int
	// Lease and GapWait are options of package pubsub.
	Lease, GapWait time.Duration
}

// names is where the names of topics and services begin.
const names = "/torture/"

// run is one run.
type run struct {
	Options
	topic, service string
	path           string // of the history
	log            *history.Log
	random         *lockedRandom
	children       []*child
	faults         []fault
	proxies        []*link

	mu       sync.Mutex
	checker  *history.Checker
	follower *history.Follower
	moved    time.Time // when something last got through
}

// lockedRandom is a source of random numbers for several goroutines.
type lockedRandom struct {
	mu   sync.Mutex
	rand *rand.Rand
}

func (r *lockedRandom) intN(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rand.IntN(n)
}

// between returns a time from low to high.
func (r *lockedRandom) between(low, high time.Duration) time.Duration {
	return low + time.Duration(r.intN(int(max(high-low, 1))))
}

// Run runs the workers and faults, and returns what the checker says. The report is also
// there, if the run got that far, when there is an error; the history is in the file
// history of Options.Dir.
func Run(ctx context.Context, o Options) (report *history.Report, err error) {
	r, err := newRun(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() { r.read(ctx) })

	err = r.work(ctx)
	if caller.Err() != nil {
		err = errors.Join(err, r.log.Add(history.Event{Kind: history.Interrupted}))
	}
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if readErr := r.sync(); readErr != nil {
		err = errors.Join(err, readErr)
	}
	report = r.checker.Report(r.follower.Line)
	report.Torn = r.follower.Torn()
	for _, c := range r.children {
		err = errors.Join(err, c.failure())
	}
	return report, err
}

func newRun(o Options) (*run, error) {
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	if o.Settle == 0 {
		o.Settle = time.Second
	}
	if o.FaultEvery == 0 {
		o.FaultEvery = time.Second
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	r := &run{Options: o, path: filepath.Join(o.Dir, "history"), checker: history.NewChecker(),
		random: &lockedRandom{rand: rand.New(rand.NewPCG(o.Seed, 0))}}
	// The mailbox or stream may hold what earlier runs have left.
	name := fmt.Sprintf(names+"%x-%x", o.Seed, time.Now().UnixNano())
	r.topic, r.service = name+"/topic", name+"/service"
	if r.log, err = history.OpenLog(r.path, "harness"); err != nil {
		return nil, err
	}
	if r.follower, err = history.Follow(r.path, 0); err != nil {
		return nil, errors.Join(err, r.log.Close())
	}
	if err := r.hire(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if r.faults, err = r.findFaults(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *run) close() error {
	var err error
	for _, l := range r.proxies {
		err = errors.Join(err, l.Close())
	}
	return errors.Join(err, r.log.Close(), r.follower.Close())
}

// work is the run from the first process to the moment when all is quiet.
func (r *run) work(ctx context.Context) error {
	for _, c := range r.children {
		if c.receives() {
			c.start()
		}
	}
	if err := r.await(ctx, "the receiving ends to open", r.opened); err != nil {
		return err
	}
	for _, c := range r.children {
		if !c.receives() {
			c.start()
		}
	}
	breaking, cease := context.WithCancel(ctx)
	var faults sync.WaitGroup
	faults.Go(func() { r.breakThings(breaking) })
	err := r.awaitPublished(ctx)
	cease()
	faults.Wait()
	if err != nil {
		return err
	}
	if err := r.await(ctx, "what is owed", func() bool { return r.checker.Pending() == 0 }); err != nil && ctx.Err() != nil {
		return err
	}
	timer := time.NewTimer(r.Settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.log.Add(history.Event{Kind: history.Quiet})
}

// stop ends all workers in order, those that publish first.
func (r *run) stop() {
	for _, receives := range []bool{false, true} {
		var ending sync.WaitGroup
		for _, c := range r.children {
			if c.receives() == receives {
				ending.Go(c.stop)
			}
		}
		ending.Wait()
	}
}
