package email

import "time"

// The pace of looking into the mailbox. A look costs the server little (Dovecot:
// 0.15 ms) but not nothing, and IDLE costs nothing but may be slow: stock Dovecot holds
// back its notifications by 500 ms. So after a sign of life the mailbox is looked at
// often, then ever less, and when IDLE is as good, IDLE is left alone.
const (
	// lateness is the greatest part of a time of quiet by which the message that ends
	// it may be found late. It gives the intervals their geometric growth: each quiet
	// phase costs some 130 looks in its first ten seconds and none after.
	lateness = 1.0 / 20
	// shortestWait keeps the cost of a steady stream below a tenth of a core.
	shortestWait = 2 * time.Millisecond
	// idleWorth is the wait from which on it is spent in IDLE. Below, entering IDLE
	// costs more than it can bring, unless the server notifies promptly.
	idleWorth = 5 * time.Millisecond
	// idleDelay is the delay of IDLE notifications to reckon with: waits that would
	// be longer are left to IDLE alone.
	idleDelay = 500 * time.Millisecond
	// waitPerCost is how much longer than a look takes to wait after it: the share
	// of the time that a busy or distant server is left in peace.
	waitPerCost = 4

	// safetyPeriod is the longest wait in IDLE. Servers lose notifications, and
	// connections die without a word.
	safetyPeriod = time.Minute
	// pollPeriod is the longest wait without IDLE.
	pollPeriod = time.Second
)

// pace is what the time of the next look depends on.
type pace struct {
	quiet   time.Duration // since the last sign of life: an interest, a request, a delivery
	cost    time.Duration // of the last look that found nothing
	canIdle bool
	prompt  bool          // IDLE has not been seen to be late
	period  time.Duration // the configured period, or zero
}

// next says how long to wait before the next look, and whether to do so in IDLE.
func (p pace) next() (wait time.Duration, idle bool) {
	longest := p.period
	if longest == 0 {
		longest = pollPeriod
		if p.canIdle {
			longest = safetyPeriod
		}
	}
	wait = max(shortestWait, time.Duration(float64(p.quiet)*lateness), waitPerCost*p.cost)
	if p.canIdle && wait >= idleDelay {
		wait = longest
	}
	wait = min(wait, max(longest, shortestWait))
	return wait, p.canIdle && (p.prompt || wait >= idleWorth)
}

// refusedDelay is that between attempts to reconnect with an account that is refused.
const refusedDelay = time.Minute
