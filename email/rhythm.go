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
	// mostRhythms is of how many publishers the rhythm is known.
	mostRhythms = 64
)

// rhythm is when a publisher's messages come: the mean of the times between two of them, and its mean
// deviation, as TCP keeps them for its round trips (RFC 6298).
type rhythm struct {
	last           time.Time
	gap, deviation time.Duration
}

// heard notes a message.
func (r *rhythm) heard(now time.Time) {
	sample := now.Sub(r.last)
	switch {
	case sample < leastBeat:
		return
	case sample > longestBeat:
		*r = rhythm{last: now}
		return
	case r.gap == 0:
		r.gap, r.deviation = sample, sample/2
	default:
		r.deviation += ((sample - r.gap).Abs() - r.deviation) / 4
		r.gap += (sample - r.gap) / 8
	}
	r.last = now
}

// beat is when the next message is due.
type beat struct {
	in   time.Duration // until then; zero if it is now
	step time.Duration // the interval of looks then, or zero if nothing is due
}

// next returns when the next message is due: from four deviations before the mean on. Looks at intervals of
// half a deviation find it with a delay that is small compared to how exactly it comes. When it
// is overdue they become longer in proportion, until the rhythm says no more than the quiet does.
func (r *rhythm) next(now time.Time) beat {
	step := r.deviation / 2
	if r.gap == 0 || step > part(r.gap, lateness) {
		return beat{}
	}
	due := r.last.Add(r.gap)
	early := due.Add(-max(4*r.deviation, 2*shortestWait)).Sub(now)
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
}

// heard notes a message of a publisher.
func (rs *rhythms) heard(publisher transport.GID, now time.Time) {
	if r := rs.of[publisher]; r != nil {
		r.heard(now)
		return
	}
	if rs.of == nil {
		rs.of = make(map[transport.GID]*rhythm)
	}
	if len(rs.of) >= mostRhythms && now.Sub(rs.swept) >= sweepPause {
		rs.swept = now
		maps.DeleteFunc(rs.of, func(_ transport.GID, r *rhythm) bool { return now.Sub(r.last) > 2*r.gap })
	}
	if len(rs.of) < mostRhythms {
		rs.of[publisher] = &rhythm{last: now}
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
	if first.step == 0 {
		return later
	}
	if later.step > 0 {
		first.step = min(first.step, later.in)
	}
	return first
}
