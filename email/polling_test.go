package email

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, test := range []struct {
		name string
		pace pace
		wait time.Duration
		idle bool
	}{
		{"just now", pace{quiet: 0, canIdle: true, prompt: true}, 2 * ms, true},
		{"just now, IDLE is late", pace{quiet: 0, canIdle: true}, 2 * ms, false},
		{"a moment ago, IDLE is late", pace{quiet: 200 * ms, canIdle: true}, 10 * ms, true},
		{"a second ago", pace{quiet: s, canIdle: true}, 50 * ms, true},
		{"seconds ago", pace{quiet: 9 * s, canIdle: true}, 450 * ms, true},
		{"long ago", pace{quiet: 10 * s, canIdle: true}, 60 * s, true},
		{"never", pace{quiet: 1 << 62, canIdle: true}, 60 * s, true},
		{"far away", pace{quiet: s, cost: 50 * ms, canIdle: true}, 200 * ms, true},
		{"very far away", pace{quiet: s, cost: 150 * ms, canIdle: true}, 60 * s, true},
		{"own period", pace{quiet: 100 * s, canIdle: true, period: 5 * s}, 5 * s, true},
		{"short own period", pace{quiet: 100 * s, canIdle: true, period: ms}, ms, false},
		{"no IDLE, just now", pace{quiet: 0}, 2 * ms, false},
		{"no IDLE, long ago", pace{quiet: 100 * s}, s, false},
		{"no IDLE, own period", pace{quiet: 100 * s, period: 5 * s}, 5 * s, false},
	} {
		if wait, idle := test.pace.next(); wait != test.wait || idle != test.idle {
			t.Errorf("%s: wait %v, in IDLE %v, want %v, %v", test.name, wait, idle, test.wait, test.idle)
		}
	}
}
