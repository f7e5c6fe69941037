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
	// KeptAge is how long an answer is kept.
	KeptAge = time.Hour
)

const (
	// maxOpen is how many unanswered requests are remembered: as many as can wait in the queue, and more.
	maxOpen = 2 * transport.KeepAllMessages
	// maxRepetitions is how many deliveries of an unanswered request are held.
	maxRepetitions = 16
	// maxSpare is how many forgotten requests are used again: as many as may come before the next is forgotten.
	maxSpare = DefaultConcurrency
)

// callKey is what a request is recognised by. Without a client, whose short form is not enough, it is zero:
// then the request's ID counts.
type callKey struct {
	client transport.GID
	number uint64
}

func keyOf(m *transport.Message) callKey {
	if c := m.Info.ClientGID; !c.IsZero() && c != c.Short() && m.Info.RequestSequence != 0 {
		return callKey{client: c, number: m.Info.RequestSequence}
	}
	return callKey{}
}

// kept is what a server remembers of its requests. The zero value is ready to use.
type kept struct {
	mu       sync.Mutex
	calls    map[callKey]*keptRequest
	others   map[transport.ID]*keptRequest // those without a callKey
	answered []*keptRequest                // the oldest first
	dropped  int                           // of the oldest, that have no answer any more
	bytes    int
	spare    []*keptRequest // that have been forgotten, empty
}

// len returns how many requests are remembered.
func (k *kept) len() int { return len(k.calls) + len(k.others) }

// findLocked returns what is remembered of a request, or nil.
func (k *kept) findLocked(m *transport.Message) *keptRequest {
	if key := keyOf(m); key != (callKey{}) {
		return k.calls[key]
	}
	return k.others[m.ID]
}

// addLocked remembers a request, unless there are too many, or it can't be recognised.
func (k *kept) addLocked(m *transport.Message) {
	key := keyOf(m)
	switch {
	case k.len() >= maxOpen+KeptAnswers || key == (callKey{}) && m.ID.IsZero():
	case key == (callKey{}):
		if k.others == nil {
			k.others = make(map[transport.ID]*keptRequest)
		}
		r := k.newLocked()
		r.id = m.ID
		k.others[m.ID] = r
	default:
		if k.calls == nil {
			k.calls = make(map[callKey]*keptRequest)
		}
		r := k.newLocked()
		r.key = key
		k.calls[key] = r
	}
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

func (k *kept) removeLocked(r *keptRequest) {
	if r.key == (callKey{}) {
		delete(k.others, r.id)
	} else {
		delete(k.calls, r.key)
	}
}

// keptRequest is a request that has arrived.
type keptRequest struct {
	key   callKey
	since time.Time // when it was answered; zero before
	size  int       // of the answer's body
	// answer is zero before, and when it was not kept.
	answer answer
	// repetitions are further deliveries of the request, which wait for its outcome.
	repetitions []transport.Delivery
	id          transport.ID // if the key is zero
}

// arrival says what is to be done about a request that arrives.
type arrival uint8

const (
	isNew      arrival = iota // handle it
	isOpen                    // it is being handled already, and the delivery held if it is to be settled
	isAnswered                // send the answer again
	isTooMany                 // as isOpen, but there are too many deliveries to be held
)

// arrive notes the arrival of a request. The answer, of one that has been answered, is zero if it has not been kept.
func (k *kept) arrive(d transport.Delivery) (arrival, answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.findLocked(d.Message)
	if r != nil && !r.since.IsZero() {
		k.forgetOldLocked(time.Now())
		r = k.findLocked(d.Message)
	}
	switch {
	case r == nil && d.Repeated:
		return isAnswered, answer{}
	case r == nil:
		k.addLocked(d.Message)
		return isNew, answer{}
	case !r.since.IsZero():
		return isAnswered, r.answer
	case d.Settler == nil:
		return isOpen, answer{}
	case len(r.repetitions) == maxRepetitions:
		return isTooMany, answer{}
	}
	r.repetitions = append(r.repetitions, d)
	return isOpen, answer{}
}

// forget drops a request that will not be handled, and gives back its repetitions.
func (k *kept) forget(m *transport.Message) {
	k.mu.Lock()
	r := k.findLocked(m)
	if r != nil {
		k.removeLocked(r)
	}
	k.mu.Unlock()
	if r == nil {
		return
	}
	for _, d := range r.repetitions {
		d.Nack(-1, "the request was given back")
	}
}

// keep notes the answer to a request, with a copy of what is borrowed, and returns the repetitions that have
// been held.
func (k *kept) keep(request *transport.Message, a answer) []transport.Delivery {
	a.body, a.options = bytes.Clone(a.body), slices.Clone(a.options)
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.findLocked(request)
	if r == nil || !r.since.IsZero() {
		return nil
	}
	r.answer, r.size, r.since = a, len(a.body), time.Now()
	k.answered = append(k.answered, r)
	k.bytes += r.size
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
		k.removeLocked(r)
		if len(k.spare) < maxSpare {
			*r = keptRequest{}
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
	if r.answer.sequence != 0 {
		k.bytes -= r.size
		r.answer = answer{}
	}
}
