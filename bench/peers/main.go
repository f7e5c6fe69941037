// Command peers runs other messaging libraries for Go through the loads of postbus' bench, beside
// postbus' in-process carrier and the floor, in one run: Watermill's gochannel, gocloud's mempubsub, and
// NATS core with a server in this process, over a pipe and over TCP.
//
//	cd bench/peers && go run . -runs 5
//
// It is a module of its own, because nobody else should have to download these.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/postbus/postbus/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	runs    int
	payload int
	scale   float64
}

// contender is what is measured.
type contender struct {
	name string
	// start begins a run; the parts of the result that are nil are left out.
	start func(context.Context) (bench.Ground, error)
	// stream, fanOut and calls are how many messages and calls take a fraction of a second.
	stream, fanOut, calls int
	// shuffles says that it does not keep a publisher's order.
	shuffles bool
}

// contenders are all that take part.
func contenders() []contender {
	return []contender{
		{name: "floor: queue under a mutex", start: floor, stream: 2_000_000, fanOut: 200_000, calls: 200_000},
		{name: "postbus intraprocess", start: bench.Intraprocess{}.Start, stream: 1_000_000, fanOut: 100_000, calls: 50_000},
		{name: "NATS core, in process", start: natsInProcess, stream: 500_000, fanOut: 50_000, calls: 10_000},
		{name: "NATS core, TCP", start: natsTCP, stream: 500_000, fanOut: 50_000, calls: 10_000},
		{name: "Watermill gochannel", start: watermillAsync, stream: 50_000, fanOut: 10_000, calls: 20_000, shuffles: true},
		{name: "Watermill gochannel, waiting for the Ack", start: watermillAcked, stream: 100_000, fanOut: 20_000, calls: 20_000},
		{name: "gocloud mempubsub", start: gocloud, stream: 30_000, fanOut: 3000, calls: 10, shuffles: true},
	}
}

// floor is what postbus is compared with, alone.
func floor(ctx context.Context) (bench.Ground, error) {
	ground, err := bench.Intraprocess{}.Start(ctx)
	ground.Ours, ground.OpenCaller = ground.Floor, ground.OpenFloorCaller
	return ground, err
}
