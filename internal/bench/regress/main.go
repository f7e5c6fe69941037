// Command regress is the check of speed for every commit: a short run of the bench that fails when
// something costs more than twice what it did. It compares ratios to the floor of the same
// moment, not times, and repeats what it finds too bad, so that a busy machine does not
// fail it.
//
//	go run ./internal/bench/regress
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/postbus/postbus/internal/bench"
)

func main() {
	verbose := flag.Bool("v", false, "make all tries, and print what they have measured")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := check(ctx, limits, *verbose, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "regress:", err)
		os.Exit(1)
	}
}

// limit is one thing that is checked.
type limit struct {
	name string
	// measured is the ratio that was measured on a quiet machine.
	measured float64
	plan     bench.Plan
	of       func(*bench.Report) float64
}

// bound returns the greatest ratio that is let through.
func (l limit) bound() float64 { return l.measured * 2 }

// check tries each limit until it is kept. A run that loses messages fails at once.
func check(ctx context.Context, limits []limit, all bool, out io.Writer) error {
	missed := 0
	for _, l := range limits {
		best, err := l.try(ctx, all)
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		verdict := "fine"
		if !(best <= l.bound()) { // nor is it fine if nothing could be measured: NaN
			verdict = fmt.Sprintf("TOO BAD in each of %d tries", tries)
			missed++
		}
		fmt.Fprintf(out, "%-72s %7.3f, limit %7.3f: %s\n", l.name, best, l.bound(), verdict)
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d ratios are more than twice as bad as they were (internal/bench/regress/limits.go)", missed, len(limits))
	}
	return nil
}

// try measures until the limit is kept, or makes all tries, and returns the best ratio.
func (l limit) try(ctx context.Context, all bool) (best float64, err error) {
	for i := range tries {
		report, err := bench.Run(ctx, l.plan)
		if err != nil {
			return 0, err
		}
		if ratio := l.of(report); i == 0 || ratio < best || math.IsNaN(best) {
			best = ratio
		}
		if best <= l.bound() && !all {
			break
		}
	}
	return best, nil
}
