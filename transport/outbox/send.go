package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// batchBytes limits, with Options.Batch, how much is given to the carrier in one call. What of it was
// taken before a crash is sent again.
const batchBytes = 4 << 20

// pace says when to try again after a failure that is about no message, but about the next hop.
type pace struct {
	failed int       // in a row
	until  time.Time // no attempt before it
	last   time.Time // the last attempt
	hurry  bool      // there is new work since
}

// wait returns how long to wait before the next attempt.
func (p *pace) wait(now time.Time) time.Duration {
	until := p.until
	if soon := p.last.Add(backoff.Least); p.hurry && soon.Before(until) {
		until = soon
	}
	return until.Sub(now)
}

// send sends what waits, until the outbox is closed and no more can be sent for now.
func (o *Outbox) send() {
	defer close(o.sender)
	for {
		batch, aged, wait := o.take()
		switch {
		case aged:
			o.release(batch)
			o.bury(batch, Death{Reason: fmt.Sprintf("it could not be sent in %v", o.options.MaxAge)})
		case len(batch) > 0:
			o.sendBatch(batch)
		case !o.rest(wait):
			return
		}
	}
}

// take returns what to send next. If that is nothing, it says how long to wait for more to
// do; negative means until there is something new.
func (o *Outbox) take() (batch []picked, aged bool, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if o.pace.failed > 0 {
		if wait = o.pace.wait(now); wait > 0 {
			return nil, false, wait
		}
	}
	if o.life.Err() != nil {
		return nil, false, -1
	}
	o.index.wake(now)
	batch, aged, expired := o.index.pick(now, selection{o.options.Batch, batchBytes, o.options.MaxAge})
	if len(expired) > 0 {
		o.stats.Expired += uint64(len(expired))
		for _, e := range expired {
			o.gone = append(o.gone, e.number)
		}
		poke(o.removal)
		o.log.Debug("messages have waited in the outbox until their deadline", "count", len(expired))
	}
	if len(batch) == 0 {
		wait = -1
		if resting := o.index.resting.lanes; len(resting) > 0 {
			wait = max(resting[0].until.Sub(now), 0)
		}
	}
	return batch, aged, wait
}

// rest waits for something to do. It returns false when there is nothing more to wait for: the outbox is
// closed.
func (o *Outbox) rest(wait time.Duration) bool {
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		return false
	}
	if wait < 0 {
		<-o.wake
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-o.wake:
	case <-timer.C:
	}
	return true
}

// sendBatch gives the carrier a batch, and draws the conclusions.
func (o *Outbox) sendBatch(batch []picked) {
	msgs, err := o.store.read(batch)
	if err != nil {
		o.putOff(batch, 0, err)
		return
	}
	readable := slices.Index(msgs, nil)
	switch readable {
	case 0:
		o.release(batch)
		o.bury(batch[:1], Death{Reason: "what is in the file has been damaged"})
		return
	case -1:
		readable = len(msgs)
	}
	err = o.carrier.Send(o.life, msgs[:readable]...)
	if err == nil {
		o.settle(batch, readable)
		return
	}
	failure, ok := errors.AsType[*transport.SendError](err)
	if !ok || failure.Taken < 0 || failure.Taken >= readable {
		o.putOff(batch, 0, err)
		return
	}
	failed := batch[failure.Taken:min(failure.Taken+1+max(failure.With, 0), readable)]
	switch {
	case aboutNextHop(o.life, failure):
		o.putOff(batch, failure.Taken, failure)
		o.suspect(failed, failure)
	case failure.Outcome == transport.Permanent:
		o.settle(batch, failure.Taken)
		o.refuse(failed, failure)
	default:
		o.settle(batch, failure.Taken)
		o.holdUp(failed, failure)
	}
}

// aboutNextHop reports whether an error says that the next hop can't be reached, or wants
// nothing from this account now, so that other messages need not be tried: besides those where the carrier
// says so, no reply, and 421 (RFC 5321 section 3.8).
func aboutNextHop(life context.Context, e *transport.SendError) bool {
	switch {
	case e.NextHop, errors.Is(e, transport.ErrClosed), life.Err() != nil:
		return true
	case e.Outcome == transport.Permanent:
		return false
	}
	return e.Code == 0 || e.Code == 421 || e.Outcome == transport.Unknown
}

// release says that a batch is not being sent after all.
func (o *Outbox) release(batch []picked) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.index.settle(batch, 0)
}

// settle says that the first taken of a batch have gone out, and the others have not. So
// the next hop can be reached.
func (o *Outbox) settle(batch []picked, taken int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settleLocked(batch, taken)
	if o.pace.failed > 0 {
		o.log.Info("the outbox can send again", "waiting", o.index.count)
	}
	o.pace = pace{}
}

func (o *Outbox) settleLocked(batch []picked, taken int) {
	o.index.settle(batch, taken)
	if taken == 0 {
		return
	}
	for _, p := range batch[:taken] {
		o.gone = append(o.gone, p.item.number)
	}
	poke(o.removal)
	o.stats.Sent += uint64(taken)
	o.refused = false
	if o.index.count <= o.options.MaxEntries/10*9 && o.index.bytes <= o.options.MaxBytes/10*9 {
		o.noteFull(false)
	}
}

// putOff says that the next hop can't be reached after it has taken so many of the batch.
func (o *Outbox) putOff(batch []picked, taken int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settleLocked(batch, taken)
	if o.pace.failed == 0 && o.life.Err() == nil {
		o.log.Warn("messages can't be sent now; they wait in the outbox", "waiting", o.index.count, "error", err)
	}
	if taken > 0 {
		o.pace.failed = 0
	}
	now := time.Now()
	o.pace.failed++
	o.pace.last, o.pace.until, o.pace.hurry = now, now.Add(backoff.Delay(o.pace.failed)), false
}

// suspect notes that the connection broke with these messages. The first stands for all of them: suspicion of each would have
// them sent one by one after every outage.
func (o *Outbox) suspect(failed []picked, failure *transport.SendError) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if failure.Outcome == transport.Unknown {
		for _, p := range failed {
			p.lane.doubtful = max(p.lane.doubtful, p.item.number)
		}
	}
	p := failed[0]
	l := p.lane
	if !l.begins(p.item.number) {
		return
	}
	l.attempts++
	o.index.unfile(l)
	l.suspect++
	o.index.refile(l)
}

// holdUp says that the next hop does not want these messages now. Their lanes wait, the others do
// not.
func (o *Outbox) holdUp(failed []picked, failure *transport.SendError) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := failed[0]; p.lane.attempts == 0 {
		o.log.Warn("a message is put off by the next hop; it waits in the outbox",
			"name", failure.Name, "entry", p.item.number, "error", failure)
	}
	for _, p := range failed {
		o.restLocked(p)
	}
}

// restLocked makes the lane of a message that could not be sent wait, if it is still there.
func (o *Outbox) restLocked(p picked) {
	l := p.lane
	if !l.begins(p.item.number) {
		return
	}
	o.index.unfile(l)
	l.attempts++
	l.failed++
	l.rests, l.until = true, time.Now().Add(backoff.Delay(l.failed))
	o.index.refile(l)
}

// refuse makes dead letters of messages.
func (o *Outbox) refuse(failed []picked, failure *transport.SendError) {
	o.mu.Lock()
	before := o.refused
	o.refused = true
	o.mu.Unlock()
	if !before {
		o.log.Warn("a message was refused for good and is a dead letter now",
			"name", failure.Name, "entry", failed[0].item.number, "with", len(failed)-1, "error", failure)
	}
	for len(failed) > 0 {
		d, n := o.death(failed[0], failure), 1
		for n < len(failed) && o.death(failed[n], failure) == d {
			n++
		}
		o.bury(failed[:n], d)
		failed = failed[n:]
	}
}

// death returns what a message died of.
func (o *Outbox) death(p picked, failure *transport.SendError) Death {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := Death{Reason: failure.Err.Error(), Code: failure.Code, Attempts: 1}
	if p.lane.begins(p.item.number) {
		d.Attempts += p.lane.attempts
	}
	if p.item.number <= p.lane.doubtful {
		d.Reason += " (an earlier attempt may have got it through)"
	}
	return d
}

// bury makes dead letters of messages that are not being sent. If the file can't be written to, they wait.
func (o *Outbox) bury(batch []picked, d Death) {
	d.Time = time.Now()
	dead, msgs, err := o.store.bury(batch, d)
	o.noteDead(batch, dead, err)
	for _, m := range msgs {
		o.tell(m, d)
	}
}

// noteDead keeps the books on what was to become dead letters.
func (o *Outbox) noteDead(batch []picked, dead []item, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.log.Warn("dead letters could not be written to the outbox; their messages are tried again", "error", err)
		for _, p := range batch {
			o.restLocked(p)
		}
		return
	}
	for _, p := range batch {
		o.index.drop(p.lane, p.item.number)
	}
	for _, e := range dead {
		o.buried += int64(e.size)
	}
	o.dead = append(o.dead, dead...)
	o.stats.Refused += uint64(len(dead))
	for len(o.dead) > o.options.MaxDead || o.buried > o.options.MaxBytes {
		o.stats.Forgotten++
		o.graves = append(o.graves, o.dead[0].number)
		o.buried -= int64(o.dead[0].size)
		o.dead = o.dead[1:]
	}
	if len(o.graves) > 0 {
		poke(o.removal)
	}
}
