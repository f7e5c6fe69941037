package service

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

// The bounds of what a server keeps of the requests that it has answered, so that it can
// answer one that comes again. What is beyond them is forgotten, the oldest first.
const (
	// KeptAnswers is how many answers are kept.
	KeptAnswers = 1 << 12
	// KeptBytes is the most bytes of bodies of answers that are kept. A repetition whose answer was
	// dropped for that is not answered.
	KeptBytes = 64 << 20
	// KeptAge is how long an answer is kept, from when it was first sent.
	KeptAge = time.Hour
)

const (
	// maxOpen is how many unanswered requests are remembered: as many as can wait in the queue, and more.
	maxOpen = 2 * transport.KeepAllMessages
	// maxRepetitions is how many deliveries of an unanswered request are held.
	maxRepetitions = 16
	// maxSpare is how many forgotten requests are used again: as many as may come before the next is forgotten.
	maxSpare = DefaultConcurrency
	// maxRoom is the size of the largest body whose room is used again.
	maxRoom = 1 << 10
)

// kept is what a server remembers of its requests. The zero value is ready to use.
type kept struct {
	mu       sync.Mutex
	requests requestTable
	answered []*keptRequest // the oldest first
	dropped  int            // of the oldest, that have no answer any more
	bytes    int
	spare    []*keptRequest // that have been forgotten, empty
}

// newLocked returns an empty keptRequest, one that has been forgotten if there is one: a server that is busy
// forgets a request with each that comes.
func (k *kept) newLocked() *keptRequest {
	last := len(k.spare) - 1
	if last < 0 {
		return new(keptRequest)
	}
	r := k.spare[last]
	k.spare = k.spare[:last]
	return r
}

// keptRequest is a request that has arrived.
type keptRequest struct {
	hash  uint64
	next  *keptRequest // in its chain
	since time.Time    // when it was answered; zero before
	kept  bool         // answer is what it was answered with
	key   requestKey
	// answer has, if none is kept, an empty body with room for another.
	answer answer
	from   string // its sender
	// repetitions are further deliveries of the request, which wait for its outcome.
	repetitions []transport.Delivery
}

// arrival says what is to be done about a request that arrives.
type arrival uint8

const (
	isNew      arrival = iota // handle it
	isOpen                    // it is being handled already, and the delivery held if it is to be settled, or from another sender
	isAnswered                // send the answer again
	isTooMany                 // as isOpen, but there are too many deliveries to be held
)

// arrive notes the arrival of a request. The answer, of one that has been answered, is nil if it has not been kept.
func (k *kept) arrive(d transport.Delivery) (arrival, *answer) {
	key := keyOf(d.Message)
	if key == (requestKey{}) {
		return isNew, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r, hash := k.requests.find(&key)
	if r != nil && !r.since.IsZero() {
		k.forgetOldLocked(time.Now())
		r, hash = k.requests.find(&key)
	}
	switch {
	case r == nil && d.Repeated:
		return isAnswered, nil
	case r == nil:
		if k.requests.count < maxOpen+KeptAnswers {
			r = k.newLocked()
			r.key, r.hash, r.from = key, hash, d.Message.From
			k.requests.add(r)
		}
		return isNew, nil
	case r.kept:
		again := r.answer
		if len(again.body) <= maxRoom {
			again.body = bytes.Clone(again.body)
		}
		return isAnswered, &again
	case !r.since.IsZero():
		return isAnswered, nil
	case d.Settler == nil && r.answersLocked(d.Message.From):
		return isOpen, nil
	case len(r.repetitions) == maxRepetitions:
		return isTooMany, nil
	}
	r.repetitions = append(r.repetitions, d)
	return isOpen, nil
}

// answersLocked reports whether a sender gets the answer already: the first, or one of a repetition. Another one has taken the call
// over, as a bridge does that has been started again, and wants the answer at an address of its own.
func (r *keptRequest) answersLocked(from string) bool {
	return r.from == from || slices.ContainsFunc(r.repetitions, func(d transport.Delivery) bool { return d.Message.From == from })
}

// forget drops a request that will not be handled, and returns its repetitions.
func (k *kept) forget(m *transport.Message) []transport.Delivery {
	key := keyOf(m)
	k.mu.Lock()
	defer k.mu.Unlock()
	r, _ := k.requests.find(&key)
	if r == nil {
		return nil
	}
	k.requests.remove(r)
	return r.repetitions
}

// keep notes the answer to a request, with a copy of what is borrowed, and returns the repetitions that have
// been held.
func (k *kept) keep(request *transport.Message, a *answer) []transport.Delivery {
	body, options := a.body, slices.Clone(a.options)
	if len(body) > maxRoom {
		body = bytes.Clone(body) // not with the lock held
	}
	key := keyOf(request)
	k.mu.Lock()
	defer k.mu.Unlock()
	r, _ := k.requests.find(&key)
	if r == nil || !r.since.IsZero() {
		return nil
	}
	room := r.answer.body
	r.answer, r.kept = *a, true
	r.answer.options = options
	if r.answer.body = body; len(body) <= maxRoom {
		r.answer.body = append(room, body...)
	}
	r.since = a.time
	if last := len(k.answered) - 1; last >= 0 && k.answered[last].since.After(r.since) {
		r.since = k.answered[last].since
	}
	k.answered = append(k.answered, r)
	k.bytes += len(body)
	for ; k.bytes > KeptBytes; k.dropped++ {
		k.dropAnswerLocked(k.answered[k.dropped])
	}
	k.forgetOldLocked(r.since)
	held := r.repetitions
	r.repetitions = nil
	return held
}

// forgetOldLocked drops what is too old or too much.
func (k *kept) forgetOldLocked(now time.Time) {
	n := 0
	for _, r := range k.answered {
		if len(k.answered)-n <= KeptAnswers && now.Sub(r.since) < KeptAge {
			break
		}
		k.dropAnswerLocked(r)
		k.requests.remove(r)
		if len(k.spare) < maxSpare {
			*r = keptRequest{answer: answer{body: r.answer.body}}
			k.spare = append(k.spare, r)
		}
		n++
	}
	clear(k.answered[:n])
	k.answered = k.answered[n:]
	k.dropped = max(k.dropped-n, 0)
}

// dropAnswerLocked lets go of an answer, not of the fact that there was one.
func (k *kept) dropAnswerLocked(r *keptRequest) {
	if !r.kept {
		return
	}
	k.bytes -= len(r.answer.body)
	room := r.answer.body[:0]
	if cap(room) > maxRoom {
		room = nil
	}
	r.answer, r.kept = answer{body: room}, false
}
