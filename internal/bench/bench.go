// Package bench measures carriers beside the floor of what they run on, in the same run: a
// mutex queue for memory, a minimal SMTP and IMAP client for mail, nats.go alone for NATS. The absolute figures say
// much about the machine; the ratios say what postbus costs.
//
// A [Bed] is what is measured, a [Load] what it has to carry. [Stream] puts one-way loads through
// a [System], [Calls] round trips; both check what arrives. [Run] repeats that, in turn with
// the floor, and makes a [Report] of medians. Package bench/peers measures other libraries
// with the same loads.
package bench

import (
	"context"
	"fmt"
	"time"
)

// Load is what a system has to carry.
type Load struct {
	// Publishers and Subscribers are the ends. Every subscriber gets the messages of all publishers.
	Publishers  int `json:"publishers"`
	Subscribers int `json:"subscribers"`
	// InFlight is how many messages of a publisher may be under way to the next hop at once.
	InFlight int `json:"in_flight"`
	// Count is how many messages are published, by all publishers together, after WarmUp
	// that do not count.
	Count  int `json:"count"`
	WarmUp int `json:"warm_up"`
	// Payload is the size of each in bytes.
	Payload int `json:"payload"`
	// Rate is how many are published in a second, by all together; 0 means as fast as they are
	// taken.
	Rate float64 `json:"rate"`
	// Lockstep publishes each message when all have received the one before.
	Lockstep bool `json:"lockstep"`
	// Timed records the latency of every message. It costs two looks at the clock.
	Timed bool `json:"timed"`
	// AnyOrder allows messages of one publisher that are under way at once to overtake each other.
	AnyOrder bool `json:"-"`
}

// Check returns what is wrong with a load.
func (l Load) Check() error {
	for _, v := range []struct {
		name  string
		value int
		least int
	}{
		{"publishers", l.Publishers, 1}, {"subscribers", l.Subscribers, 1}, {"messages in flight", l.InFlight, 1},
		{"messages", l.Count, 1}, {"messages to warm up", l.WarmUp, 0}, {"bytes of payload", l.Payload, 0},
	} {
		if v.value < v.least {
			return fmt.Errorf("bench: the number of %s is %d, and must be at least %d", v.name, v.value, v.least)
		}
	}
	if l.Rate < 0 {
		return fmt.Errorf("bench: the rate is %v, and must not be negative", l.Rate)
	}
	return nil
}

// patience is how long nothing may arrive before what is missing counts as lost.
func (l Load) patience() time.Duration {
	patience := 30 * time.Second
	if l.Rate > 0 {
		patience += time.Duration(3 / l.Rate * float64(time.Second))
	}
	return patience
}

// System is something that carries messages.
type System interface {
	// Open makes publishers and subscribers.
	Open(ctx context.Context, load Load) (Session, error)
}

// Session is a system with its publishers and subscribers, which are numbered from 0.
type Session interface {
	// Publish sends a message; body is free for other use when it has returned. It is not called
	// concurrently for one publisher unless the load has more than one in flight.
	// number counts the messages of the publisher from 1; a system that numbers them itself need not
	// look at it.
	Publish(ctx context.Context, publisher int, number uint64, body []byte) error
	// Next waits for the next message of a subscriber. It is not called concurrently for one
	// subscriber.
	Next(ctx context.Context, subscriber int) (Arrival, error)
	// Close ends all.
	Close(ctx context.Context) error
}

// Ahead is a Session whose Publish does not wait until the next hop has the message: it needs no more than one
// goroutine for each publisher, and sees to it itself that no more messages are under way than the load allows.
type Ahead interface {
	Session
	// PublishesAhead says so.
	PublishesAhead()
}

// Arrival is what a subscriber got.
type Arrival struct {
	Publisher int
	Number    uint64
	Bytes     int       // of the payload
	Sent      time.Time // when it was published; only needed if the load is timed
}

// Caller is something that answers requests.
type Caller interface {
	// Call sends a request and waits for the answer, which has the same body. It is not called concurrently for
	// one client; they are numbered from 0.
	Call(ctx context.Context, client int, body []byte) ([]byte, error)
	// Close ends all.
	Close(ctx context.Context) error
}

// Bed is what can be measured: one carrier, with what it runs on.
type Bed interface {
	// Name says what it is.
	Name() string
	// Start prepares a run, with everything that is to be measured in it: the load is for all of them.
	Start(ctx context.Context) (Ground, error)
}

// Ground is a bed in a run. What a bed can't do is nil.
type Ground struct {
	// Ours is postbus, and Floor the least that what it runs on can do it with.
	Ours, Floor System
	// FloorName is what the floor is called in tables; empty means "floor".
	FloorName string
	// Numbered says that postbus keeps the order of the numbers also of messages that are published at
	// once.
	Numbered bool
	// OpenCaller and OpenFloorCaller are the same for round trips.
	OpenCaller, OpenFloorCaller func(ctx context.Context, load Load) (Caller, error)
	// OpenIdle opens a node with a subscription on which nothing happens, and returns what closes it.
	OpenIdle func(ctx context.Context) (closeNode func(context.Context) error, err error)
	// Counted has the traffic of what is opened from now on counted, and returns the counter.
	Counted func() (*Counter, error)
	// Close removes all traces of the run.
	Close func(ctx context.Context) error
}
