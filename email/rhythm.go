package email

import (
	"maps"
	"time"

	"github.com/postbus/postbus/transport"
)

// Publishers that publish at regular times, as most programs that measure or control something do, say
// by that when their next message comes. So the mailbox is looked at often when it is due, and less often
// before.
const (
	// leastBeat is the shortest time between two messages that makes a rhythm. Where messages follow
	// each other faster, looks do so anyway; what comes together counts once.
	leastBeat = 10 * time.Millisecond
	// longestBeat is the longest. It is when IDLE is left alone, which is as good then.
	longestBeat = 10 * time.Second
	// stragglers is from how many deviations on a message is too far off to count as such.
	stragglers = 4
	// mostRhythms is of how many publishers the rhythm is known.
	mostRhythms = 64
	// surely is how many messages in a row have to come when they are due before it is relied on that the next one will.
	surely = 16
)

// rhythm is when a publisher's messages come: the mean of the times between the sending of two of them, the mean of the
// times that they take, and by how much the arrival differs from what both promise, in the mean, as TCP keeps them for its
// round trips (RFC 6298). A message that is late on its way says nothing of when the next one is sent, so
// it is when they were sent that counts. The clocks of both sides may differ by any constant.
type rhythm struct {
	sent, last            time.Time // of the last message: when it was sent, and when it arrived
	gap, delay, deviation time.Duration
	off                   bool // the last message was not sent when it was expected at all
}

// heard notes a message.
func (r *rhythm) heard(sent, now time.Time) {
	sample, delay := sent.Sub(r.sent), now.Sub(sent)
	switch {
	case sample > longestBeat || sample < -longestBeat:
		*r = rhythm{sent: sent, last: now, delay: delay}
		return
	case sample < leastBeat: // it came with the one before, or has been overtaken
		return
	case r.gap == 0:
		r.gap, r.deviation = sample, sample/2
	default:
		off := (sample - r.gap).Abs() > r.gap/2
		switch {
		case off && r.off: // another rhythm, or none
			r.gap, r.delay, r.deviation = sample, delay, sample/2
		case off: // one that is missing says nothing
		default:
			r.learn(sample, delay)
		}
		r.off = off
	}
	r.sent, r.last = sent, now
}

// learn takes a message into the means. One that is far off counts as if it were less so: mail servers let a few wait for long,
// which would hide when the others come.
func (r *rhythm) learn(sample, delay time.Duration) {
	most := stragglers * max(r.deviation, shortestWait)
	bounded := func(d time.Duration) time.Duration { return max(-most, min(d, most)) }
	early, slow := bounded(sample-r.gap), bounded(delay-r.delay)
	r.deviation += (bounded(early+slow).Abs() - r.deviation) / 4
	r.gap += early / 8
	r.delay += slow / 8
}

// due reports whether a message comes when it is due, which is when looks are frequent. One that was sent too early for that
// has been waiting for them.
func (r *rhythm) due(sent, now time.Time) bool {
	b := r.next(now)
	return b.step > 0 && b.in == 0 && sent.Sub(r.sent) >= r.gap-r.margin()
}

// margin is how long before its mean time a message is due.
func (r *rhythm) margin() time.Duration { return max(4*r.deviation, 2*shortestWait) }

// beat is when the next message is due.
type beat struct {
	in   time.Duration // until then; zero if it is now
	step time.Duration // the interval of looks then, or zero if nothing is due
	sure bool          // what has come lately has come when it was due
}

// next returns when the next message is due: from four deviations before the mean on. Looks at intervals of
// a quarter of the deviation find it with a delay that is small compared to how exactly it comes. When it
// is overdue they become longer in proportion, until the rhythm says no more than the quiet does.
func (r *rhythm) next(now time.Time) beat {
	step := r.deviation / 4
	if r.gap == 0 || step > part(r.gap, lateness) {
		return beat{}
	}
	due := r.sent.Add(r.gap).Add(r.delay)
	early := due.Add(-r.margin()).Sub(now)
	step = max(step, shortestWait, now.Sub(due)/8)
	if step > part(now.Sub(r.last), lateness) && early <= 0 {
		return beat{}
	}
	return beat{in: max(0, early), step: step}
}

// rhythms are those of the publishers that have been heard of lately. The zero value is empty.
type rhythms struct {
	of map[transport.GID]*rhythm
	// swept is when those that have stopped were last looked for to make room.
	swept time.Time
	// kept is how many messages in a row have come when they were due.
	kept int
}

// surprise notes that something has come that no rhythm promises. More may.
func (rs *rhythms) surprise() { rs.kept = 0 }

// heard notes a message of a publisher. If sent is not known, or by a clock that is wrong beyond belief, it was sent now.
func (rs *rhythms) heard(publisher transport.GID, sent, now time.Time) {
	if now.Sub(sent).Abs() > aDay {
		sent = now
	}
	if r := rs.of[publisher]; r != nil {
		switch {
		case r.due(sent, now):
			rs.kept = min(rs.kept+1, surely)
		case now.Sub(r.last) >= shortestWait: // else it was found with the one before
			rs.surprise()
		}
		r.heard(sent, now)
		return
	}
	rs.surprise()
	if rs.of == nil {
		rs.of = make(map[transport.GID]*rhythm)
	}
	if len(rs.of) >= mostRhythms && now.Sub(rs.swept) >= sweepPause {
		rs.swept = now
		maps.DeleteFunc(rs.of, func(_ transport.GID, r *rhythm) bool { return now.Sub(r.last) > 2*r.gap })
	}
	if len(rs.of) < mostRhythms {
		rs.of[publisher] = &rhythm{sent: sent, last: now, delay: now.Sub(sent)}
	}
}

// next returns when the next message of any publisher is due.
func (rs *rhythms) next(now time.Time) (first beat) {
	var later beat
	for _, r := range rs.of {
		switch b := r.next(now); {
		case b.step == 0:
		case b.in > 0:
			if later.step == 0 || b.in < later.in {
				later = b
			}
		case first.step == 0 || b.step < first.step:
			first = b
		}
	}
	switch {
	case first.step == 0:
		first = later
	case later.step > 0:
		first.step = min(first.step, later.in)
	}
	first.sure = rs.kept >= surely
	return first
}
