package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// tally counts what was sent and what has arrived.
type tally struct {
	name string

	mu        sync.Mutex
	sent      int
	latencies []time.Duration // of those that have arrived
}

func (t *tally) addSent() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
}

func (t *tally) addReceived(latency time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latencies = append(t.latencies, latency)
}

// result returns the counts and the median latency, 0 if there is none.
func (t *tally) result() (sent, received int, median time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	received = len(t.latencies)
	if received > 0 {
		sorted := slices.Sorted(slices.Values(t.latencies))
		median = (sorted[(received-1)/2] + sorted[received/2]) / 2
	}
	return t.sent, received, median
}

// milliseconds writes a latency in the unit that all of the demo uses.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// summary prints the counts. It returns an error if they do not add up.
func (d *demo) summary() error {
	d.section("Summary", "Latencies are from publishing to receiving, and of calls there and back.")
	d.printf("")
	d.printf("   %-26s %8s %10s %8s %16s", "", "sent", "received", "lost", "median latency")
	var err error
	for _, t := range []*tally{&d.topic, &d.adder, &d.battery} {
		sent, received, median := t.result()
		d.printf("   %-26s %8d %10d %8d %16s", t.name, sent, received, sent-received, milliseconds(median))
		if received != sent {
			err = errors.Join(err, fmt.Errorf("%s: %d of %d lost", t.name, sent-received, sent))
		}
	}
	took := time.Since(d.started).Seconds()
	switch {
	case d.taken != nil:
		d.printf("\n   %d %s in %.1f s. 'postbus help' shows how to do this yourself.", d.taken(), d.unit, took)
	case d.unit == "mails":
		d.printf("\n   %.1f s. The mails are still in the mailbox.", took)
	default:
		d.printf("\n   %.1f s.", took)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(err, d.writeErr)
}
