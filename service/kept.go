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
)

// requestKey is what a request is recognised by.
type requestKey struct {
	client transport.GID
	number uint64
	id     transport.ID // without a client; its short form is not enough
}

func keyOf(m *transport.Message) requestKey {
	if c := m.Info.ClientGID; !c.IsZero() && c != c.Short() && m.Info.RequestSequence != 0 {
		return requestKey{client: c, number: m.Info.RequestSequence}
	}
	return requestKey{id: m.ID}
}

// kept is what a server remembers of its requests. The zero value is ready to use.
type kept struct {
	mu       sync.Mutex
	requests map[requestKey]*keptRequest
	answered []*keptRequest // the oldest first
	bytes    int
}

// keptRequest is a request that has arrived.
type keptRequest struct {
	key requestKey
	// repetitions are further deliveries of the request, which wait for its outcome.
	repetitions []transport.Delivery
	since       time.Time          // when it was answered; zero before
	answer      *transport.Message // nil if it was not kept
}

// arrival says what is to be done about a request that arrives.
type arrival uint8

const (
	isNew      arrival = iota // handle it
	isOpen                    // it is being handled already, and the delivery held if it is to be settled
	isAnswered                // send the answer again
	isTooMany                 // as isOpen, but there are too many deliveries to be held
)

// arrive notes the arrival of a request. The answer is a copy, and nil if it has not been kept.
func (k *kept) arrive(d transport.Delivery) (arrival, *transport.Message) {
	key := keyOf(d.Message)
	if key == (requestKey{}) {
		return isNew, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetOldLocked()
	r := k.requests[key]
	switch {
	case r == nil && d.Repeated:
		return isAnswered, nil
	case r == nil:
		if len(k.requests) < maxOpen+KeptAnswers {
			if k.requests == nil {
				k.requests = make(map[requestKey]*keptRequest)
			}
			k.requests[key] = &keptRequest{key: key}
		}
		return isNew, nil
	case r.answer != nil:
		return isAnswered, copyAnswer(r.answer)
	case !r.since.IsZero():
		return isAnswered, nil
	case d.Settler == nil:
		return isOpen, nil
	case len(r.repetitions) == maxRepetitions:
		return isTooMany, nil
	}
	r.repetitions = append(r.repetitions, d)
	return isOpen, nil
}

// forget drops a request that will not be handled, and gives back its repetitions.
func (k *kept) forget(m *transport.Message) {
	k.mu.Lock()
	r := k.requests[keyOf(m)]
	delete(k.requests, keyOf(m))
	k.mu.Unlock()
	if r == nil {
		return
	}
	for _, d := range r.repetitions {
		d.Nack(-1, "the request was given back")
	}
}

// keep notes the answer to a request, and returns the repetitions that have been held.
func (k *kept) keep(request, answer *transport.Message) []transport.Delivery {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.requests[keyOf(request)]
	if r == nil || !r.since.IsZero() {
		return nil
	}
	r.since, r.answer = time.Now(), answer
	k.answered = append(k.answered, r)
	k.bytes += len(answer.Body)
	for i := 0; k.bytes > KeptBytes; i++ {
		k.dropAnswerLocked(k.answered[i])
	}
	k.forgetOldLocked()
	held := r.repetitions
	r.repetitions = nil
	return held
}

// forgetOldLocked drops what is too old or too much.
func (k *kept) forgetOldLocked() {
	n := 0
	for _, r := range k.answered {
		if len(k.answered)-n <= KeptAnswers && time.Since(r.since) < KeptAge {
			break
		}
		k.dropAnswerLocked(r)
		delete(k.requests, r.key)
		n++
	}
	clear(k.answered[:n])
	k.answered = k.answered[n:]
}

// dropAnswerLocked lets go of an answer, not of the fact that there was one.
func (k *kept) dropAnswerLocked(r *keptRequest) {
	if r.answer != nil {
		k.bytes -= len(r.answer.Body)
		r.answer = nil
	}
}

// copyAnswer returns a message of its own: what is sent belongs to the carrier.
func copyAnswer(m *transport.Message) *transport.Message {
	c := *m
	c.Body, c.Header, c.To = bytes.Clone(m.Body), slices.Clone(m.Header), slices.Clone(m.To)
	return &c
}
