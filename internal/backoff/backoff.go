// Package backoff says how long to wait between attempts at something that keeps failing
// in the network: a connection, a message to be sent.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// First is the delay after the first failure, before it is shortened at random.
	First = 100 * time.Millisecond
	// Longest is the longest delay.
	Longest = 30 * time.Second
	// Least is how long after an attempt a further one may come at the earliest because
	// there is new work, whatever the delay in force.
	Least = time.Second
)

// Sleep waits for a while, or returns false when ctx ends first.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Delay returns how long to wait after so many failed attempts in a row: nothing after
// none, then First, and twice as long each time up to Longest. It is shortened at random by up to a
// half, so that many clients of a server that comes back do not come all at once.
func Delay(failed int) time.Duration { return delay(failed, rand.Float64()) }

// delay is Delay with the random number, from 0 to 1.
func delay(failed int, jitter float64) time.Duration {
	if failed <= 0 {
		return 0
	}
	d := Longest
	if failed < 10 {
		d = min(First<<(failed-1), Longest)
	}
	return d - time.Duration(jitter*float64(d/2))
}
