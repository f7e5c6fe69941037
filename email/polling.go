package email

import "time"

// The pace of looking into the mailbox. A look costs the server little (Dovecot:
// 0.15 ms) and this process some 0.3 ms, most of it for waking threads, and IDLE costs nothing but may be slow: stock Dovecot holds
// back its notifications by 500 ms. So after a sign of life the mailbox is looked at
// often, then ever less, and when IDLE is as good, IDLE is left alone. docs/performance.md has
// the measurements behind the figures.
const (
	// lateness is the greatest part of a time of quiet by which the message that ends
	// it may be found late. It gives the intervals their geometric growth: each quiet
	// phase costs some 145 looks in its first ten seconds and none after.
	lateness = 1.0 / 20
	// calmLateness is the same before the time for which the rhythm of the messages promises the next
	// one: looks are saved for then.
	calmLateness = 1.0 / 10
	// mostSurprise is the wait before that time, if it is not a greater part, when all that has come lately has come when it
	// was due. The first message that nobody expects may be so late; those after it find looks as close as ever.
	mostSurprise = 25 * time.Millisecond
	// shortestWait makes a message at most 1 ms late where traffic is dense.
	shortestWait = time.Millisecond
	// idleWorth is the wait from which on it is spent in IDLE by a server that is not prompt. Below,
	// entering IDLE can bring nothing.
	idleWorth = 200 * time.Millisecond
	// idleDelay is the delay of IDLE notifications to reckon with: waits that would
	// be longer are left to IDLE alone.
	idleDelay = 500 * time.Millisecond
	// provenWait and provenLateness are instead of shortestWait and lateness when IDLE has been
	// proven to be prompt: looks are only for notifications that get lost.
	provenWait     = 20 * time.Millisecond
	provenLateness = 1.0 / 2
	// awaitedWait is the longest wait while an answer is awaited: ten looks a second, for as long as
	// calls last.
	awaitedWait = 100 * time.Millisecond
	// waitPerCost is how much longer than a look takes to wait after it: a busy or distant server is left
	// in peace for half of the time.
	waitPerCost = 1

	// safetyPeriod is the longest wait in IDLE. Servers lose notifications, and
	// connections die without a word. A FETCH and an IDLE in that time leave a command a minute for the
	// log of a group.
	safetyPeriod = 2 * time.Minute
	// pollPeriod is the longest wait without IDLE.
	pollPeriod = time.Second
)

// trust is how far IDLE can be relied on. It grows by one with each mail that is announced before a look finds it,
// and falls by two with each that a look finds first. Looks may be the faster ones by chance when they are as dense
// as they are without trust, in a busy machine often; but not twice as often as not.
type trust int

const (
	distrusted  trust = -6 // three mails in a row were late
	trusted     trust = 8
	mostTrusted trust = 16
)

func (t *trust) prompt() { *t = min(*t+1, mostTrusted) }
func (t *trust) late()   { *t = max(*t-2, distrusted) }

// pace is what the time of the next look depends on.
type pace struct {
	quiet   time.Duration // since the last sign of life: an interest, a request, a delivery
	cost    time.Duration // of the last look that found nothing
	canIdle bool
	prompt  bool          // IDLE has not been seen to be late
	proven  bool          // and has been seen not to be, often
	awaited bool          // somebody waits for the answer to a call
	beat    beat          // what the rhythm of the messages promises
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
	least := max(shortestWait, waitPerCost*p.cost)
	switch p.proven = p.proven && p.canIdle; {
	case p.proven:
		wait = max(provenWait, least, part(p.quiet, provenLateness))
	case p.beat.in > 0:
		wait = max(least, min(p.calm(), p.beat.in))
	case p.beat.step > 0:
		wait = max(least, min(part(p.quiet, lateness), p.beat.step))
	default:
		wait = max(least, part(p.quiet, lateness))
	}
	if p.canIdle && wait >= idleDelay {
		wait = longest
		if p.beat.in > 0 && !p.proven {
			wait = min(wait, p.beat.in)
		}
	}
	if p.awaited && !p.proven {
		wait = min(wait, max(awaitedWait, least))
	}
	wait = min(wait, max(longest, shortestWait))
	return wait, p.canIdle && (p.prompt || wait >= idleWorth)
}

// calm is the wait before the time for which the next message is promised.
func (p pace) calm() time.Duration {
	wait := part(p.quiet, calmLateness)
	if p.beat.sure && !p.awaited {
		wait = max(wait, mostSurprise)
	}
	return wait
}

// part returns a part of a time.
func part(d time.Duration, share float64) time.Duration { return time.Duration(float64(d) * share) }

// refusedDelay is that between attempts to reconnect with an account that is refused.
const refusedDelay = time.Minute
