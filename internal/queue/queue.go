// Package queue is the bounded queue between a carrier and the readers of an entity:
// a subscription's messages, a server's requests.
package queue

import (
	"context"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/notify"
	"github.com/postbus/postbus/transport"
)

// Queue holds deliveries until they are taken, within the bounds of its QoS. All
// methods may be called concurrently. Make one with New.
type Queue struct {
	qos      transport.QoS
	depth    int
	tracked  bool // nothing is dropped: what can't be kept is given back
	watchers notify.List
	work     background
	// wake has a token while there may be something for a waiting Pop to take.
	wake chan struct{}
	// done is closed by Close.
	done chan struct{}
	// lost, if set, hears of each delivery that is somebody else's by now. It does not block.
	lost func(transport.Delivery)

	mu      sync.Mutex
	ring    []transport.Delivery // grows up to depth; ring[head] is the oldest
	head    int
	count   int
	bytes   int // of the bodies held
	dropped uint64
	closed  bool
}

// New returns an empty queue.
func New(qos transport.QoS) *Queue {
	q := &Queue{qos: qos, depth: qos.Depth, wake: make(chan struct{}, 1), done: make(chan struct{})}
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
// given back to the carrier.
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
	if q.closed {
		q.mu.Unlock()
		d.Nack(-1, readerClosed) // whoever reads the name next is to have it
		return true
	}
	size := len(d.Message.Body)
	var expired []transport.Delivery
	if q.fullLocked(size) {
		expired = q.expireLocked()
	}
	full := q.fullLocked(size)
	if full && q.tracked {
		q.mu.Unlock()
		q.dismiss(expired)
		d.Nack(fullDelay, "queue full")
		return true
	}
	if full {
		q.dropped++
		if q.qos.KeepAll || q.qos.KeepFirst {
			q.mu.Unlock()
			return false
		}
		q.takeLocked()
	}
	if q.count == len(q.ring) {
		q.growLocked()
	}
	q.ring[(q.head+q.count)%len(q.ring)] = d
	q.count++
	q.bytes += size
	q.mu.Unlock()

	q.dismiss(expired)
	q.signal()
	q.watchers.Notify()
	return !full
}

// TryPop takes the oldest delivery that is not too old, nor somebody else's by now; ok is
// false when there is none.
func (q *Queue) TryPop() (d transport.Delivery, ok bool) {
	for {
		if d, ok = q.pop(); !ok || !d.Lost() {
			return d, ok
		}
		if q.lost != nil {
			q.lost(d)
		}
		d.Nack(-1, "its lease has ended")
	}
}

// pop takes the oldest delivery that is not too old.
func (q *Queue) pop() (d transport.Delivery, ok bool) {
	q.mu.Lock()
	expired := q.expireLocked()
	if ok = q.count > 0; ok {
		d = q.takeLocked()
	}
	more := q.count > 0
	q.mu.Unlock()
	q.dismiss(expired)
	if more {
		q.signal() // the token may have been taken for this one: pass it on
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
	for {
		// Not ctx first: a token that was taken for nothing would be missed by others.
		if d, ok := q.TryPop(); ok {
			return d, nil
		}
		select {
		case <-q.wake:
		case <-q.done:
			// What was pushed before the close is still there to take.
			if d, ok := q.TryPop(); ok {
				return d, nil
			}
			return transport.Delivery{}, transport.ErrClosed
		case <-ctx.Done():
			return transport.Delivery{}, transport.ContextError(ctx)
		}
	}
}

// Ready reports whether Pop would return at once: there is something to take, or the
// queue is closed.
func (q *Queue) Ready() bool {
	q.mu.Lock()
	expired := q.expireLocked()
	ready := q.count > 0 || q.closed
	q.mu.Unlock()
	q.dismiss(expired)
	return ready
}

// Len returns how many deliveries are in the queue, including those that are too old.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

// Watch has wake called after every Push and after Close, until stop is called. See
// notify.List.
func (q *Queue) Watch(wake func()) (stop func()) { return q.watchers.Watch(wake) }

// Dropped returns how many deliveries were dropped: pushed out, refused or too old.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Close makes Pop return once the queue is empty, and further Pushes do nothing. A tracked queue is
// empty at once: what is in it is given back.
func (q *Queue) Close() {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	q.closed = true
	var left []transport.Delivery
	for q.tracked && q.count > 0 {
		left = append(left, q.takeLocked())
	}
	q.mu.Unlock()
	for _, d := range left {
		d.Nack(-1, readerClosed)
	}
	close(q.done)
	q.watchers.Notify()
}

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

func (q *Queue) fullLocked(size int) bool {
	return q.count == q.depth || q.qos.KeepAll && q.bytes+size > transport.KeepAllBytes
}

// expireLocked takes out the deliveries at the head that are too old.
func (q *Queue) expireLocked() (expired []transport.Delivery) {
	for q.count > 0 && q.tooOld(q.ring[q.head].Message) {
		expired = append(expired, q.takeLocked())
		q.dropped++
	}
	return expired
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

func (q *Queue) takeLocked() transport.Delivery {
	d := q.ring[q.head]
	q.ring[q.head] = transport.Delivery{} // let go of the message
	q.head = (q.head + 1) % len(q.ring)
	q.count--
	q.bytes -= len(d.Message.Body)
	return d
}

func (q *Queue) growLocked() {
	size := min(max(2*len(q.ring), 4), q.depth)
	ring := make([]transport.Delivery, size)
	n := copy(ring, q.ring[q.head:])
	copy(ring[n:], q.ring[:q.head])
	q.ring, q.head = ring, 0
}
