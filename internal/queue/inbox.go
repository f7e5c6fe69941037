package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

// ErrHandled says that an inbox has a handler already.
var ErrHandled = errors.New("there is a handler already")

// Options say what an inbox is to do besides queueing. The zero value is useful.
type Options struct {
	// QoS bounds the queue. Of an interest that tracks its deliveries only the Lifespan counts.
	QoS transport.QoS
	// Leftover gets what is in the queue when the inbox is closed and no handler is there to
	// work it off, if it can't be given back to the carrier. The inbox may still be on its way out of Attach,
	// or may never come out of it.
	Leftover func(*Inbox, transport.Delivery)
	// Admit is asked about each delivery before it is queued; false says that it has been
	// taken care of. It does not block. The inbox may still be on its way out of Attach.
	Admit func(*Inbox, transport.Delivery) bool
	// Refused gets each admitted delivery that was dropped for want of room, or because its
	// lease ended in the queue. It does not block.
	Refused func(transport.Delivery)
	// Silence, if not zero, has Silent called after each such time without a delivery, one call at a
	// time, with the time since the last.
	Silence time.Duration
	Silent  func(time.Duration)
	// Shut is called when the inbox is closed or drained, perhaps more than once. It does not block.
	Shut func()
}

// Inbox is the receiving half that subscriptions and servers share: a queue that is
// attached to a node, with readers or a handler. It implements transport.Sink.
type Inbox struct {
	*Queue
	node     *transport.Node
	name     string // of the interest
	admit    func(*Inbox, transport.Delivery) bool
	leftover func(*Inbox, transport.Delivery)
	detach   func()
	shutting func()      // nil without Options.Shut
	silence  *silence    // nil without Options.Silence
	full     atomic.Bool // a delivery was dropped, and the queue has not been empty since

	mu      sync.Mutex
	closed  bool
	cancel  context.CancelFunc // ends the handlers' context; nil without a handler
	handled chan struct{}      // closed when the last handler has ended; nil without one
}

var _ transport.Sink = (*Inbox)(nil)

// Handler handles a delivery. It settles it, too.
type Handler func(context.Context, transport.Delivery)

// Attach states the interest and returns the inbox that is filled with what matches it. The
// interest's Gap is called from a goroutine of the inbox's own, and so may block.
func Attach(node *transport.Node, interest transport.Interest, options Options) (*Inbox, error) {
	in := &Inbox{node: node, name: interest.Name, admit: options.Admit, leftover: options.Leftover, shutting: options.Shut}
	if interest.Tracked() {
		in.Queue = NewTracked(options.QoS.Lifespan)
	} else {
		in.Queue = New(options.QoS)
	}
	in.Queue.refused = options.Refused
	if gap := interest.Gap; gap != nil {
		interest.Gap = func(g transport.Gap) { in.report(func() { gap(g) }) }
	}
	if options.Silence > 0 && options.Silent != nil {
		in.silence = &silence{period: options.Silence, report: in.reportSilence(options.Silent)}
	}
	detach, err := node.Receive(interest, in)
	if err != nil {
		return nil, err
	}
	in.detach = detach
	if in.silence != nil {
		in.silence.begin()
	}
	return in, nil
}

// report tells the program of something, unless the inbox has been closed meanwhile. It returns false if
// the program is too slow to be told.
func (in *Inbox) report(f func()) (ok bool) {
	ok = in.Background(func() {
		if !in.Closed() {
			f()
		}
	})
	if !ok {
		in.node.Logger().Warn("a report is dropped: the program is too slow to take them", "name", in.name)
	}
	return ok
}

// reportSilence returns what reports silences, leaving out those that come while one is being reported.
func (in *Inbox) reportSilence(silent func(time.Duration)) func(time.Duration) {
	var reporting atomic.Bool
	return func(quiet time.Duration) {
		if reporting.Swap(true) {
			return
		}
		ok := in.report(func() {
			defer reporting.Store(false)
			silent(quiet)
		})
		if !ok {
			reporting.Store(false)
		}
	}
}

// Background calls f soon, after the functions that it was given before, from a goroutine of the
// inbox's own that Drain waits for. A panic of f is logged. It returns false if f will not be called:
// the inbox has been drained, or too many others are waiting.
func (in *Inbox) Background(f func()) bool {
	return in.work.inOrder(func() {
		defer func() {
			if p := recover(); p != nil {
				in.node.Logger().Error("callback panicked", "name", in.name, "panic", p, "stack", string(debug.Stack()))
			}
		}()
		f()
	})
}

// AtOnce calls f in a goroutine of its own that Drain waits for. It returns false if f will not be called: the
// inbox has been drained. How many there are is up to the caller, and f does not panic.
func (in *Inbox) AtOnce(f func()) bool { return in.work.atOnce(f) }

// Deliver implements transport.Sink.
func (in *Inbox) Deliver(d transport.Delivery) {
	if in.silence != nil {
		in.silence.heard()
	}
	if in.admit != nil && !in.admit(in, d) {
		return
	}
	ok := in.Push(d)
	switch {
	case ok:
		if in.full.Load() && in.Len() <= 1 {
			in.full.Store(false)
		}
		return
	case (in.qos.KeepAll || in.tracked) && !in.full.Swap(true):
		in.node.Logger().Warn("queue full, messages are dropped: the reader is too slow",
			"name", in.name, "messages", in.depth, "bytes", transport.KeepAllBytes)
	}
	if in.refused != nil {
		in.refused(d)
	}
}

// Handle calls handler with each delivery, at most concurrency at a time, from
// goroutines of the inbox's own, until the inbox is closed and its queue empty. The
// context ends when Drain runs out of time. A panic of the handler is logged, and its message
// is to come again (see Retry). Errors are ErrHandled and transport.ErrClosed.
func (in *Inbox) Handle(concurrency int, handler Handler) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closed:
		return transport.ErrClosed
	case in.handled != nil:
		return ErrHandled
	}
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel, in.handled = cancel, make(chan struct{})
	w := &workers{in: in, ctx: ctx, handler: handler, limit: concurrency}
	w.start()
	return nil
}

// The delays of Retry.
const (
	firstRetry   = time.Second
	longestRetry = 30 * time.Second
)

// Retry has a delivery that could not be handled come again: after a second, and after twice as long
// each further time, up to half a minute.
func Retry(d transport.Delivery, reason string) {
	delay := longestRetry
	if failed := max(d.Attempt, 1); failed < 6 {
		delay = min(firstRetry<<(failed-1), longestRetry)
	}
	d.Nack(delay, reason)
}

// Drain implements transport.Sink: it closes the queue and waits for the handler to
// work off what is in it. When ctx ends first the handlers' context ends too, and
// they are not waited for.
func (in *Inbox) Drain(ctx context.Context) error {
	in.shut()
	in.mu.Lock()
	handled, cancel := in.handled, in.cancel
	in.mu.Unlock()
	in.Queue.Close()
	var err error
	if handled == nil {
		in.work.atOnce(in.letGo) // and another Drain waits for it, too
	} else {
		select {
		case <-handled:
		case <-ctx.Done():
			cancel()
			err = fmt.Errorf("handler of %s is still at work: %w", in.name, ctx.Err())
		}
	}
	if late := in.work.close(ctx); late != nil && err == nil {
		err = fmt.Errorf("callbacks of %s are still at work: %w", in.name, late)
	}
	return err
}

// shut notes that the inbox is closed, ends the reports, and tells who wants to know.
func (in *Inbox) shut() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	if in.silence != nil {
		in.silence.end()
	}
	if in.shutting != nil {
		in.shutting()
	}
}

// letGo hands what nobody will handle to Options.Leftover.
func (in *Inbox) letGo() {
	if in.leftover == nil {
		return
	}
	for d, ok := in.TryPop(); ok; d, ok = in.TryPop() {
		in.leftover(in, d)
	}
}

// Closed reports whether the inbox has been closed or drained.
func (in *Inbox) Closed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.closed
}

// Close ends the interest. Nothing more comes in and waiting readers return; the
// handler works off what is in the queue, if that has not been given back (see NewTracked). It does
// not wait for that: handlers may call it. The Close of the node does.
func (in *Inbox) Close() {
	in.shut()
	in.detach() // first: what the queue gives back is not to come to it again
	in.Queue.Close()
}
