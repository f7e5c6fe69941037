package email

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

func TestPace(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, test := range []struct {
		name string
		pace pace
		wait time.Duration
		idle bool
	}{
		{"just now", pace{canIdle: true, prompt: true}, ms, true},
		{"just now, IDLE is late", pace{canIdle: true}, ms, false},
		{"a moment ago, IDLE is late", pace{quiet: 200 * ms, canIdle: true}, 10 * ms, false},
		{"a second ago", pace{quiet: s, canIdle: true, prompt: true}, 50 * ms, true},
		{"seconds ago, IDLE is late", pace{quiet: 5 * s, canIdle: true}, 250 * ms, true},
		{"long ago", pace{quiet: 10 * s, canIdle: true}, 120 * s, true},
		{"never", pace{quiet: 1 << 62, canIdle: true}, 120 * s, true},
		{"far away", pace{quiet: s, cost: 100 * ms, canIdle: true}, 100 * ms, false},
		{"very far away", pace{quiet: s, cost: 500 * ms, canIdle: true}, 120 * s, true},
		{"own period", pace{quiet: 100 * s, canIdle: true, period: 5 * s}, 5 * s, true},
		{"short own period", pace{quiet: 100 * s, canIdle: true, period: ms}, ms, false},
		{"no IDLE, just now", pace{}, ms, false},
		{"no IDLE, long ago", pace{quiet: 100 * s}, s, false},
		{"no IDLE, own period", pace{quiet: 100 * s, period: 5 * s}, 5 * s, false},

		{"proven, just now", pace{canIdle: true, prompt: true, proven: true}, 20 * ms, true},
		{"proven, a moment ago", pace{quiet: 100 * ms, canIdle: true, prompt: true, proven: true}, 50 * ms, true},
		{"proven, a second ago", pace{quiet: s, canIdle: true, prompt: true, proven: true}, 120 * s, true},
		{"proven, due now", pace{quiet: s, canIdle: true, prompt: true, proven: true, beat: beat{step: ms}}, 120 * s, true},
		{"proven, but IDLE is refused", pace{proven: true}, ms, false},

		{"awaited, just now", pace{awaited: true, canIdle: true}, ms, false},
		{"awaited, long ago", pace{quiet: 20 * s, awaited: true, canIdle: true}, 100 * ms, false},
		{"awaited, far away", pace{quiet: 20 * s, awaited: true, cost: 300 * ms, canIdle: true}, 300 * ms, true},
		{"awaited, IDLE is proven", pace{quiet: 20 * s, awaited: true, proven: true, prompt: true, canIdle: true}, 120 * s, true},

		{"due later", pace{quiet: 50 * ms, canIdle: true, beat: beat{in: 40 * ms, step: ms}}, 5 * ms, false},
		{"due soon", pace{quiet: 50 * ms, canIdle: true, beat: beat{in: 3 * ms, step: ms}}, 3 * ms, false},
		{"due at once", pace{quiet: 50 * ms, canIdle: true, beat: beat{in: 1, step: ms}}, ms, false},
		{"due now", pace{quiet: 100 * ms, canIdle: true, beat: beat{step: ms}}, ms, false},
		{"due in seconds", pace{quiet: 6 * s, canIdle: true, beat: beat{in: 2 * s, step: ms}}, 2 * s, true},
	} {
		if wait, idle := test.pace.next(); wait != test.wait || idle != test.idle {
			t.Errorf("%s: wait %v, in IDLE %v, want %v, %v", test.name, wait, idle, test.wait, test.idle)
		}
	}
}

// arrival is a message: when it was sent, and when it arrived.
type arrival struct{ sent, at time.Duration }

// arrivals returns messages, over an hour or so, as they arrive.
type arrivals func(*rand.Rand) []arrival

// clocked are those of a publisher with a period, each late by a time that varies around what its mean is. One of so many,
// if any, takes up to straggle longer.
func clocked(period, jitter time.Duration, oneOf int, straggle time.Duration) arrivals {
	return func(random *rand.Rand) (messages []arrival) {
		for at := period; len(messages) < 2000; at += period {
			m := arrival{at, at + time.Duration(random.ExpFloat64()*float64(jitter))}
			if oneOf > 0 && random.IntN(oneOf) == 0 {
				m.at += time.Duration(random.Float64() * float64(straggle))
			}
			messages = append(messages, m)
		}
		slices.SortFunc(messages, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
		return messages
	}
}

// chance are those of many publishers.
func chance(mean time.Duration) arrivals {
	return func(random *rand.Rand) (messages []arrival) {
		for at := time.Duration(0); len(messages) < 2000; messages = append(messages, arrival{at, at}) {
			at += time.Duration(random.ExpFloat64() * float64(mean))
		}
		return messages
	}
}

// simulate lets the receiver look for messages on a server that keeps silent in IDLE. It returns how late they are found, in order,
// and how many looks there are in a second.
func simulate(messages []arrival, cost time.Duration) (late []time.Duration, looks float64) {
	var found time.Duration // the last one
	var rhythms rhythms
	begin := time.Now()
	clock := begin.Add(-time.Minute) // of the sender
	n := 0
	now := time.Duration(0)
	for len(messages) > 0 {
		wait, _ := pace{quiet: now - found, cost: cost, canIdle: true, beat: rhythms.next(begin.Add(now))}.next()
		now += wait + cost
		n++
		for len(messages) > 0 && messages[0].at <= now {
			late = append(late, now-messages[0].at)
			found = now
			rhythms.heard(transport.GID{}, clock.Add(messages[0].sent), begin.Add(now))
			messages = messages[1:]
		}
	}
	slices.Sort(late)
	return late, float64(n) / now.Seconds()
}

// TestPaceOfTraffic: how late messages are found, and at which cost. The times are those of looks at Dovecot.
func TestPaceOfTraffic(t *testing.T) {
	const s, ms, µs = time.Second, time.Millisecond, time.Microsecond
	for _, test := range []struct {
		name         string
		arrive       arrivals
		median, most time.Duration // of the delay; most is for 99 of 100
		looks        float64
	}{
		{"100/s", clocked(10*ms, ms, 0, 0), 700 * µs, 2 * ms, 900},
		{"100/s by chance", chance(10 * ms), 700 * µs, 3 * ms, 900},
		{"10/s", clocked(100*ms, ms, 0, 0), 700 * µs, 2 * ms, 400},
		{"10/s, often late", clocked(100*ms, 3*ms, 0, 0), 700 * µs, 2 * ms, 450},
		{"10/s, stragglers", clocked(100*ms, ms, 20, 60*ms), 700 * µs, 4500 * µs, 450},
		{"10/s by chance", chance(100 * ms), 2 * ms, 16 * ms, 550},
		{"1/s", clocked(s, 3*ms, 0, 0), 700 * µs, 3 * ms, 80},
		{"one in 5 s", clocked(5*s, 3*ms, 0, 0), 700 * µs, 8 * ms, 20},
	} {
		late, looks := simulate(test.arrive(rand.New(rand.NewPCG(1, 2))), 150*µs)
		median, most := late[len(late)/2], late[len(late)*99/100]
		t.Logf("%-20s median %-10v 99%% %-10v %.0f looks/s", test.name, median, most, math.Round(looks))
		if median > test.median || most > test.most || looks > test.looks {
			t.Errorf("%s: median %v, 99%% %v, %.0f looks/s, want at most %v, %v, %.0f", test.name, median, most, looks, test.median, test.most, test.looks)
		}
	}
}
