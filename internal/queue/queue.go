// Package queue is the bounded queue between a carrier and the readers of an entity:
// a subscription's messages, a server's requests.
package queue

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/internal/notify"
	"github.com/postbus/postbus/transport"
)

// Queue holds deliveries until they are taken, within the bounds of its QoS. All
// methods may be called concurrently. Make one with New.
//
// Readers take from out and writers add to in, each under a lock of their own: under one for both they
// would wait for each other with every message. A reader that finds out empty takes over all of in. So
// the oldest delivery is out[next] or, if out is empty, in[0]. Who needs both locks takes reading first.
type Queue struct {
	mu      sync.Mutex
	in      []transport.Delivery
	inBytes int
	// ahead and aheadBytes are what was in out when a writer last knew: at most so much still is.
	ahead, aheadBytes int
	watchers          notify.List

	// What both sides look at and seldom changes stands between what either changes all the time: those
	// are in different cache lines.
	closed  atomic.Bool // changed with both locks held
	tracked bool        // what can't be kept is given back, if it has a settler
	qos     transport.QoS
	depth   int
	work    background
	dropped atomic.Uint64
	// refused, if set, hears of each delivery that is somebody else's by now. It does not block.
	refused func(transport.Delivery)
	// wake has a token while there may be something for a waiting Pop to take, and for ever when the queue is
	// closed. The first Pop that waits makes it: of many queues most never have one.
	wake     chan struct{}
	wakeMade sync.Once
	waiting  atomic.Int32 // Pops that wait, or look once more before they do

	reading  sync.Mutex
	out      []transport.Delivery
	next     int
	outBytes int // of the bodies from next on
}

// New returns an empty queue.
func New(qos transport.QoS) *Queue {
	q := &Queue{qos: qos, depth: qos.Depth}
	if q.depth <= 0 {
		q.depth = transport.DefaultDepth
	}
	if qos.KeepAll {
		q.depth = transport.KeepAllMessages
	}
	return q
}

// NewTracked returns an empty queue of deliveries that wait for being settled. It drops nothing
// but what is older than lifespan, unless that is zero: the carrier keeps to the interest's
// InFlight, and what is beyond transport.MaxInFlight all the same, or in the queue when it is closed, is
// given back to the carrier. A delivery without a settler, as that of a group that the carrier only shares out among its
// members, can't be: it is dropped when there is no room for it, or its body is beyond
// transport.KeepAllBytes, and stays in the queue when that is closed.
func NewTracked(lifespan time.Duration) *Queue {
	q := New(transport.QoS{Depth: transport.MaxInFlight, Lifespan: lifespan})
	q.tracked = true
	return q
}

const (
	readerClosed = "the reader has been closed"
	// fullDelay is when a delivery that a tracked queue has no room for comes again.
	fullDelay = time.Second
)

// Push adds a delivery, unless the queue is closed, and reports whether nothing was
// dropped for it: not the oldest to make room, nor, in a queue that keeps all or the first and is full,
// the new one.
func (q *Queue) Push(d transport.Delivery) bool {
	q.mu.Lock()
	if q.closed.Load() || q.fullLocked(&d) {
		q.mu.Unlock()
		return q.pushFull(d)
	}
	q.addLocked(d)
	q.mu.Unlock()
	q.announce()
	return true
}

// pushFull is Push for a queue that seems to be full, or is closed.
func (q *Queue) pushFull(d transport.Delivery) bool {
	q.lock()
	if q.closed.Load() {
		q.unlock()
		d.Nack(-1, readerClosed) // whoever reads the name next is to have it
		return true
	}
	var expired []transport.Delivery
	full := q.reallyFullLocked(&d)
	if full {
		expired = q.refillLocked()
		full = q.reallyFullLocked(&d)
	}
	if full && q.tracked && d.Settler != nil {
		q.unlock()
		q.dismiss(expired)
		d.Nack(fullDelay, "queue full")
		return true
	}
	if full {
		q.dropped.Add(1)
		if q.qos.KeepAll || q.qos.KeepFirst || q.tracked {
			q.unlock()
			q.dismiss(expired)
			return false
		}
		q.take() // refillLocked has put it there
	}
	q.addLocked(d)
	q.unlock()

	q.dismiss(expired)
	q.announce()
	return !full
}

// TryPop takes the oldest delivery that is not too old, nor somebody else's by now; ok is
// false when there is none.
func (q *Queue) TryPop() (d transport.Delivery, ok bool) {
	for {
		if d, ok = q.pop(); !ok || !d.Lost() {
			return d, ok
		}
		if q.refused != nil {
			q.refused(d)
		}
		d.Nack(-1, "its lease has ended")
	}
}

// pop takes the oldest delivery that is not too old.
func (q *Queue) pop() (d transport.Delivery, ok bool) {
	q.reading.Lock()
	expired, ok := q.look()
	if ok {
		d = q.take()
	}
	// The token may have been taken for this one: pass it on.
	more := q.waiting.Load() > 0 && q.someLeft()
	q.reading.Unlock()
	q.dismiss(expired)
	if more {
		q.signal()
	}
	return d, ok
}

// Pop is TryPop that waits until there is a delivery. It returns transport.ErrClosed
// when the queue is closed and empty, and transport.ContextError when ctx ends or has
// ended, also when there is something to take: so that loops of Pops end.
func (q *Queue) Pop(ctx context.Context) (transport.Delivery, error) {
	if ctx.Err() != nil {
		return transport.Delivery{}, transport.ContextError(ctx)
	}
	if d, ok := q.TryPop(); ok {
		return d, nil
	}
	q.wakeMade.Do(func() { q.wake = make(chan struct{}, 1) })
	// Whoever adds something from now on either sees that somebody waits, or has done it before
	// the next look.
	q.waiting.Add(1)
	defer q.waiting.Add(-1)
	for {
		// Not ctx first: a token that was taken for nothing would be missed by others.
		if d, ok := q.TryPop(); ok {
			return d, nil
		}
		if q.closed.Load() {
			// What was pushed before the close is still there to take.
			if d, ok := q.TryPop(); ok {
				return d, nil
			}
			return transport.Delivery{}, transport.ErrClosed
		}
		if err := q.await(ctx); err != nil {
			return transport.Delivery{}, err
		}
	}
}

// await waits for the token, or for the end of ctx. Once the queue is closed there is always a token: waiting
// for one thing takes half the time of waiting for any of several, and handlers wait with each message.
func (q *Queue) await(ctx context.Context) error {
	if end := ctx.Done(); end == nil {
		<-q.wake
	} else {
		select {
		case <-q.wake:
		case <-end:
			return transport.ContextError(ctx)
		}
	}
	if q.closed.Load() {
		q.signal()
	}
	return nil
}

// Ready reports whether Pop would return at once: there is something to take, or the
// queue is closed.
func (q *Queue) Ready() bool {
	q.reading.Lock()
	expired, ok := q.look()
	ready := ok || q.closed.Load()
	q.reading.Unlock()
	q.dismiss(expired)
	return ready
}

// Len returns how many deliveries are in the queue, including those that are too old.
func (q *Queue) Len() int {
	q.lock()
	defer q.unlock()
	return len(q.out) - q.next + len(q.in)
}

// Watch has wake called after every Push and after Close, until stop is called. See
// notify.List.
func (q *Queue) Watch(wake func()) (stop func()) { return q.watchers.Watch(wake) }

// Dropped returns how many deliveries were dropped: pushed out, refused or too old.
func (q *Queue) Dropped() uint64 { return q.dropped.Load() }

// Close makes Pop return once the queue is empty, and further Pushes do nothing. What can be given back to
// the carrier is, at once.
func (q *Queue) Close() {
	q.lock()
	if q.closed.Swap(true) {
		q.unlock()
		return
	}
	var left []transport.Delivery
	if q.tracked {
		all := slices.Concat(q.out[q.next:], q.in)
		q.out, q.next, q.outBytes, q.in, q.inBytes = nil, 0, 0, nil, 0
		for _, d := range all {
			if d.Settler != nil {
				left = append(left, d)
			} else {
				q.addLocked(d)
			}
		}
	}
	q.unlock()
	for _, d := range left {
		d.Nack(-1, readerClosed)
	}
	q.announce()
}

// announce lets readers and watchers know that something has been added, or that the queue has been closed.
func (q *Queue) announce() {
	if q.waiting.Load() > 0 {
		q.signal()
	}
	q.watchers.Notify()
}

// signal is called when somebody waits, or has.
func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *Queue) tooOld(m *transport.Message) bool {
	// A request past its deadline is not dropped here: its server still owes an answer.
	expires := m.Kind == transport.TopicMessage && !m.Deadline.IsZero()
	if q.qos.Lifespan == 0 && !expires {
		return false
	}
	now := time.Now()
	return expires && m.Expired(now) ||
		q.qos.Lifespan > 0 && now.Sub(m.Info.SourceTime) > q.qos.Lifespan
}

// dismiss settles deliveries that were too old. Settlers are strangers: they are not
// called with the lock held, and Ack may block. Should one fail, the message comes again and is too old
// again.
func (q *Queue) dismiss(expired []transport.Delivery) {
	if len(expired) == 0 || !q.tracked {
		return
	}
	q.work.atOnce(func() {
		for _, d := range expired {
			_ = d.Ack()
		}
	})
}

// ---- Under the locks

func (q *Queue) lock() {
	q.reading.Lock()
	q.mu.Lock()
}

func (q *Queue) unlock() {
	q.mu.Unlock()
	q.reading.Unlock()
}

// fullLocked reports whether there may be no room for a delivery. q.mu is held.
func (q *Queue) fullLocked(d *transport.Delivery) bool {
	return q.ahead+len(q.in) >= q.depth ||
		(q.qos.KeepAll || q.tracked && d.Settler == nil) && q.aheadBytes+q.inBytes+len(d.Message.Body) > transport.KeepAllBytes
}

// reallyFullLocked reports whether there is no room for a delivery. Both locks are held.
func (q *Queue) reallyFullLocked(d *transport.Delivery) bool {
	q.ahead, q.aheadBytes = len(q.out)-q.next, q.outBytes
	return q.fullLocked(d)
}

// addLocked adds a delivery. q.mu is held.
func (q *Queue) addLocked(d transport.Delivery) {
	q.in = append(q.in, d)
	q.inBytes += len(d.Message.Body)
}

// look makes out[next] the oldest delivery that is not too old, and reports whether there is one. It
// takes out those that are. q.reading is held.
func (q *Queue) look() (expired []transport.Delivery, ok bool) {
	if q.next == len(q.out) || q.tooOld(q.out[q.next].Message) {
		q.mu.Lock()
		expired = q.refillLocked()
		q.mu.Unlock()
	}
	return expired, q.next < len(q.out)
}

// refillLocked is look with both locks held.
func (q *Queue) refillLocked() (expired []transport.Delivery) {
	for {
		if q.next == len(q.out) {
			q.out, q.in = q.in, q.out[:0]
			q.outBytes, q.inBytes, q.next = q.inBytes, 0, 0
			q.ahead, q.aheadBytes = len(q.out), q.outBytes
		}
		if len(q.out) == 0 || !q.tooOld(q.out[q.next].Message) {
			return expired
		}
		expired = append(expired, q.take())
		q.dropped.Add(1)
	}
}

// take takes out[next]. q.reading is held.
func (q *Queue) take() transport.Delivery {
	d := q.out[q.next]
	q.out[q.next] = transport.Delivery{} // let go of the message
	q.next++
	q.outBytes -= len(d.Message.Body)
	return d
}

// someLeft reports whether the queue is not empty. q.reading is held.
func (q *Queue) someLeft() bool {
	if q.next < len(q.out) {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.in) > 0
}
