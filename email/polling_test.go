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
		{"due later, surely", pace{quiet: 5 * ms, canIdle: true, beat: beat{in: 90 * ms, step: ms, sure: true}}, 25 * ms, false},
		{"due soon, surely", pace{quiet: 80 * ms, canIdle: true, beat: beat{in: 15 * ms, step: ms, sure: true}}, 15 * ms, false},
		{"due now, surely", pace{quiet: 100 * ms, canIdle: true, beat: beat{step: ms, sure: true}}, ms, false},
		{"due in a second, surely", pace{quiet: s, canIdle: true, beat: beat{in: s, step: ms, sure: true}}, 100 * ms, false},
		{"due later, surely, and awaited", pace{quiet: 5 * ms, canIdle: true, awaited: true, beat: beat{in: 90 * ms, step: ms, sure: true}}, ms, false},
		{"overdue, and nothing is due any more", pace{quiet: 100 * ms, canIdle: true, beat: beat{sure: true}}, 5 * ms, false},
		{"due in seconds", pace{quiet: 6 * s, canIdle: true, beat: beat{in: 2 * s, step: ms}}, 2 * s, true},
	} {
		if wait, idle := test.pace.next(); wait != test.wait || idle != test.idle {
			t.Errorf("%s: wait %v, in IDLE %v, want %v, %v", test.name, wait, idle, test.wait, test.idle)
		}
	}
}

// arrival is a message: when it was sent, when it arrived, and from which publisher.
type arrival struct {
	sent, at time.Duration
	from     byte
}

// arrivals returns messages, over an hour or so, as they arrive.
type arrivals func(*rand.Rand) []arrival

// clocked are those of a publisher with a period, each late by a time that varies around what its mean is. One of so many,
// if any, takes up to straggle longer.
func clocked(period, jitter time.Duration, oneOf int, straggle time.Duration) arrivals {
	return func(random *rand.Rand) (messages []arrival) {
		for at := period; len(messages) < 2000; at += period {
			m := arrival{sent: at, at: at + time.Duration(random.ExpFloat64()*float64(jitter))}
			if oneOf > 0 && random.IntN(oneOf) == 0 {
				m.at += time.Duration(random.Float64() * float64(straggle))
			}
			messages = append(messages, m)
		}
		return inOrder(messages)
	}
}

func inOrder(messages []arrival) []arrival {
	slices.SortFunc(messages, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	return messages
}

// chance are those of many publishers.
func chance(mean time.Duration) arrivals {
	return func(random *rand.Rand) (messages []arrival) {
		for at := time.Duration(0); len(messages) < 2000; messages = append(messages, arrival{sent: at, at: at}) {
			at += time.Duration(random.ExpFloat64() * float64(mean))
		}
		return messages
	}
}

// mixed are those of several publishers, until the first of them ends.
func mixed(of ...arrivals) arrivals {
	return func(random *rand.Rand) (messages []arrival) {
		end := time.Duration(math.MaxInt64)
		for n, arrive := range of {
			some := arrive(random)
			end = min(end, some[len(some)-1].at)
			for _, m := range some {
				m.from = byte(n)
				messages = append(messages, m)
			}
		}
		messages = slices.DeleteFunc(messages, func(m arrival) bool { return m.at > end })
		return inOrder(messages)
	}
}

// bursts are 20 messages each time, 3 ms apart, after pauses by chance of this mean.
func bursts(pause time.Duration) arrivals {
	return func(random *rand.Rand) (messages []arrival) {
		for at := time.Duration(0); len(messages) < 2000; {
			at += time.Second + time.Duration(random.ExpFloat64()*float64(pause-time.Second))
			for range 20 {
				at += 3 * time.Millisecond
				messages = append(messages, arrival{sent: at, at: at})
			}
		}
		return messages
	}
}

// found is a message, and how late it was found.
type found struct {
	arrival
	late time.Duration
}

// simulate lets the receiver look for messages on a server that keeps silent in IDLE. It returns what it finds,
// and how many looks there are in a second.
func simulate(messages []arrival, cost time.Duration) (all []found, looks float64) {
	var last time.Duration // when one was found
	var rhythms rhythms
	begin := time.Now()
	clock := begin.Add(-time.Minute) // of the sender
	n := 0
	now := time.Duration(0)
	for len(messages) > 0 {
		wait, _ := pace{quiet: now - last, cost: cost, canIdle: true, beat: rhythms.next(begin.Add(now))}.next()
		now += wait + cost
		n++
		for len(messages) > 0 && messages[0].at <= now {
			m := messages[0]
			all = append(all, found{m, now - m.at})
			last = now
			rhythms.heard(transport.GID{m.from}, clock.Add(m.sent), begin.Add(now))
			messages = messages[1:]
		}
	}
	return all, float64(n) / now.Seconds()
}

// latenessOf returns by how much those of the messages are late for which of holds: the median, the 99th of 100, and the most.
func latenessOf(all []found, of func(found) bool) (median, most, worst time.Duration) {
	var late []time.Duration
	for _, f := range all {
		if of(f) {
			late = append(late, f.late)
		}
	}
	slices.Sort(late)
	return late[len(late)/2], late[len(late)*99/100], late[len(late)-1]
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
		{"10/s", clocked(100*ms, ms, 0, 0), 700 * µs, 2 * ms, 100},
		{"10/s, often late", clocked(100*ms, 3*ms, 0, 0), 700 * µs, 2 * ms, 130},
		{"10/s, stragglers", clocked(100*ms, ms, 20, 60*ms), 700 * µs, 4500 * µs, 130},
		{"10/s, and now and then others", mixed(clocked(100*ms, ms, 0, 0), chance(20*s)), 700 * µs, 2 * ms, 130},
		{"10/s, and often others", mixed(clocked(100*ms, ms, 0, 0), chance(s)), 700 * µs, 14 * ms, 350},
		{"10/s of four", mixed(clocked(400*ms, ms, 0, 0), clocked(401*ms, ms, 0, 0), clocked(403*ms, ms, 0, 0), clocked(407*ms, ms, 0, 0)), 700 * µs, 2 * ms, 100},
		{"10/s, and bursts", mixed(clocked(100*ms, ms, 0, 0), bursts(5*s)), 700 * µs, 16 * ms, 200},
		{"10/s by chance", chance(100 * ms), 2 * ms, 16 * ms, 550},
		{"1/s", clocked(s, 3*ms, 0, 0), 700 * µs, 3 * ms, 45},
		{"one in 5 s", clocked(5*s, 3*ms, 0, 0), 700 * µs, 8 * ms, 15},
	} {
		all, looks := simulate(test.arrive(rand.New(rand.NewPCG(1, 2))), 150*µs)
		median, most, _ := latenessOf(all, func(found) bool { return true })
		t.Logf("%-30s median %-10v 99%% %-10v %.0f looks/s", test.name, median, most, math.Round(looks))
		if median > test.median || most > test.most || looks > test.looks {
			t.Errorf("%s: median %v, 99%% %v, %.0f looks/s, want at most %v, %v, %.0f", test.name, median, most, looks, test.median, test.most, test.looks)
		}
	}
}

// TestPaceOfSurprise: among messages that keep to their rhythm, the first one that nobody expects is late by
// no more than mostSurprise, and those after it are found as if there had been no rhythm.
func TestPaceOfSurprise(t *testing.T) {
	const s, ms, µs = time.Second, time.Millisecond, time.Microsecond
	all, _ := simulate(mixed(clocked(100*ms, ms, 0, 0), bursts(5*s))(rand.New(rand.NewPCG(1, 2))), 150*µs)
	var before found // of the bursts
	first := make(map[found]bool)
	later := make(map[found]bool) // those that come when the first has been found
	var known time.Duration
	for _, f := range all {
		if f.from != 1 {
			continue
		}
		if f.sent-before.sent > 100*ms {
			first[f] = true
			known = f.at + f.late
		} else if f.at > known {
			later[f] = true
		}
		before = f
	}
	median, _, worst := latenessOf(all, func(f found) bool { return first[f] })
	t.Logf("the first of a burst: median %v, at most %v", median, worst)
	if worst > mostSurprise+shortestWait || worst < mostSurprise/2 {
		t.Errorf("the first of a burst is up to %v late, want at most %v, and some by nearly that", worst, mostSurprise)
	}
	median, _, worst = latenessOf(all, func(f found) bool { return later[f] })
	t.Logf("the others: median %v, at most %v", median, worst)
	if median > 700*µs || worst > 2*shortestWait {
		t.Errorf("the others of a burst are late by %v in the median and up to %v", median, worst)
	}
}
