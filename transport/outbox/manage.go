package outbox

import (
	"iter"
	"slices"
	"time"
)

// Stats says how an outbox is doing.
type Stats struct {
	// Waiting and Bytes are what is to be sent, and Oldest when the first of it was accepted: zero if there is none.
	Waiting int
	Bytes   int64
	Oldest  time.Time
	// Dead and DeadBytes are the dead letters.
	Dead      int
	DeadBytes int64

	// The others count messages since the outbox was opened: those that came in, went
	// out, were refused for good or too old, and the dead letters deleted because there were too many.
	Accepted, Sent, Refused, Forgotten uint64
	// Dropped counts those that gave way to newer ones, Expired those whose deadline
	// had passed when their turn came.
	Dropped, Expired uint64
	// Failing says that the next hop could not be reached at the last attempt.
	Failing bool
}

// Stats returns how the outbox is doing. It may be called after Close.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	s.Waiting, s.Bytes = o.index.count, o.index.bytes
	s.Dead, s.DeadBytes = len(o.dead), o.buried
	s.Failing = o.pace.failed > 0
	if oldest := o.index.oldest(); oldest != nil {
		s.Oldest = time.Unix(0, oldest.accepted)
	}
	return s
}

// Waiting returns the messages that wait, in the order in which they were accepted. Those that have just
// been sent may be among them.
func (o *Outbox) Waiting() iter.Seq2[Entry, error] { return o.store.entries(false) }

// Dead returns the dead letters, in the order in which they were accepted.
func (o *Outbox) Dead() iter.Seq2[Entry, error] { return o.store.entries(true) }

// Retry makes the dead letters that selected says, or all if it is nil, wait once more, behind
// all others and whether there is room or not, and ends every pause between attempts. It returns how many there were.
func (o *Outbox) Retry(selected func(Entry) bool) (int, error) {
	_, dead, err := choose(o.store, selected, false)
	if err != nil {
		return 0, err
	}
	o.mu.Lock()
	next := o.next
	o.next += uint64(len(dead))
	o.mu.Unlock()
	var revived []stored
	if len(dead) > 0 {
		revived, err = o.store.revive(numbers(dead), next, time.Now())
	}
	if err != nil {
		return 0, err
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	for i, v := range revived {
		dead[i] = dead[v.number-next] // others have gone or are damaged
		h := decodeHead(v.value)
		o.index.reserve(len(v.value))
		o.index.add(h.lane, item{v.number, h.accepted, h.deadline, len(v.value)})
	}
	o.forget(dead[:len(revived)])
	o.index.wakeAll()
	o.pace = pace{}
	poke(o.wake)
	return len(revived), nil
}

// forget takes dead letters out of the books. o.mu is held.
func (o *Outbox) forget(dead []Entry) {
	gone := make(map[uint64]bool)
	for _, e := range dead {
		gone[e.Number] = true
	}
	o.dead = slices.DeleteFunc(o.dead, func(e item) bool {
		if gone[e.number] {
			o.buried -= int64(e.size)
		}
		return gone[e.number]
	})
}

// Purge deletes the messages that wait and the dead letters that selected says, or all if it
// is nil, save those that are being sent. It returns how many there were.
func (o *Outbox) Purge(selected func(Entry) bool) (int, error) {
	waiting, dead, err := choose(o.store, selected, true)
	if err != nil {
		return 0, err
	}
	o.mu.Lock()
	waiting = slices.DeleteFunc(waiting, func(e Entry) bool {
		l := o.index.lanes[e.lane]
		return l == nil || !o.index.drop(l, e.Number)
	})
	o.forget(dead)
	o.mu.Unlock()
	if len(waiting)+len(dead) == 0 {
		return 0, nil
	}
	if err := o.store.remove(numbers(waiting), numbers(dead)); err != nil {
		// They are not sent, and go when the file can be written to again.
		o.mu.Lock()
		defer o.mu.Unlock()
		o.gone, o.graves = append(o.gone, numbers(waiting)...), append(o.graves, numbers(dead)...)
		poke(o.removal)
		return 0, err
	}
	return len(waiting) + len(dead), nil
}

// choose returns the dead letters that selected says, and what waits if that is wanted, without
// the messages.
func choose(s *store, selected func(Entry) bool, alsoWaiting bool) (waiting, dead []Entry, err error) {
	collect := func(isDead bool) (chosen []Entry, err error) {
		for e, err := range s.entries(isDead) {
			if err != nil {
				return nil, err
			}
			if selected == nil || selected(e) {
				e.Message = nil
				chosen = append(chosen, e)
			}
		}
		return chosen, nil
	}
	if alsoWaiting {
		if waiting, err = collect(false); err != nil {
			return nil, nil, err
		}
	}
	dead, err = collect(true)
	return waiting, dead, err
}

func numbers(entries []Entry) []uint64 {
	n := make([]uint64, len(entries))
	for i, e := range entries {
		n[i] = e.Number
	}
	return n
}
