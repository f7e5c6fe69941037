package queue

import (
	"context"
	"runtime/debug"
	"sync"

	"github.com/postbus/postbus/transport"
)

// maxResting is how many workers wait for the next delivery at most, once there was work for more.
const maxResting = 2

// workers hand the deliveries of an inbox to its handler. Each is a goroutine that handles one delivery
// after the other: it has been started before a delivery comes, and its stack has grown to what
// handling takes. While fewer than may be are at work, there is always one that waits for the next.
type workers struct {
	in      *Inbox
	ctx     context.Context
	handler Handler
	limit   int

	mu      sync.Mutex
	all     int
	resting int // those that wait for a delivery, or are about to say that they have one
}

// start adds a worker. w.mu is held, or w not yet used.
func (w *workers) start() {
	w.all++
	w.resting++
	go w.run()
}

// run is a worker that rests.
func (w *workers) run() {
	done := false
	defer func() {
		if !done && w.rest() {
			go w.run() // the handler has ended its goroutine (runtime.Goexit)
		}
	}()
	for w.next() {
	}
	done = true
}

// next handles one delivery. It returns false when the worker is not needed any more.
func (w *workers) next() bool {
	if w.ctx.Err() != nil {
		w.leave()
		return false
	}
	// A context that can't end costs less to wait with. The queue is closed before w.ctx ends.
	d, err := w.in.Pop(context.Background())
	if err != nil {
		w.leave()
		return false
	}
	w.work()
	w.call(d)
	return w.rest()
}

// work says that a worker has a delivery. Another waits for the next.
func (w *workers) work() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting--
	if w.resting == 0 && w.all < w.limit {
		w.start()
	}
}

// rest says that a worker has done its work. It returns false, and the worker is no more, if enough
// others wait for the next delivery.
func (w *workers) rest() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.resting >= maxResting {
		w.all--
		return false
	}
	w.resting++
	return true
}

// leave says that there will be no more deliveries, or no time to handle them.
func (w *workers) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting--
	w.all--
	if w.all == 0 {
		w.in.cancel()
		close(w.in.handled)
	}
}

func (w *workers) call(d transport.Delivery) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			w.in.node.Logger().Error("handler panicked", "name", d.Message.Name,
				"message_id", d.Message.ID.String(), "panic", p, "stack", string(debug.Stack()))
		}
		Retry(d, "the handler panicked or ended its goroutine")
	}()
	w.handler(w.ctx, d)
	returned = true
}
