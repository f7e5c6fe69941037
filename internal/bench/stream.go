package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/transport"
)

// credits is how many portions of a publisher's messages may be waiting for a subscriber.
const credits = 8

// window is how many messages may be waiting for a subscriber in all: half of what a queue that keeps everything
// has room for, of so many bytes each.
func window(payload int) int {
	return min(transport.KeepAllMessages, transport.KeepAllBytes/max(1, payload)) / 2
}

// Point is one message of a timed load: when it was sent, counted from the first, and how
// long it took.
type Point struct{ At, Took time.Duration }

// Sample is what one run of a load has shown.
type Sample struct {
	// Elapsed is the time from the first message's publishing to the last one's arrival.
	Elapsed time.Duration
	// Points are the messages or calls of a timed load, in the order in which they arrived.
	Points []Point
	// Received is how many messages have arrived; a message counts for each subscriber.
	Received int
	// Lost have not arrived, Repeated more than once, and Disordered after a later one of
	// their publisher.
	Lost, Repeated, Disordered int
	// Late were published more than an interval behind the schedule of the rate.
	Late int
	// AnyOrder says that Disordered is nothing to complain about.
	AnyOrder bool
	// Used is what the process has used meanwhile.
	Used Usage
}

// Rate returns how many messages have arrived in a second.
func (s *Sample) Rate() float64 { return float64(s.Received) / s.Elapsed.Seconds() }

// Broken returns an error if messages were lost, repeated or out of order.
func (s *Sample) Broken() error {
	if s.Lost+s.Repeated == 0 && (s.AnyOrder || s.Disordered == 0) {
		return nil
	}
	return fmt.Errorf("%d messages lost, %d repeated, %d out of their publisher's order", s.Lost, s.Repeated, s.Disordered)
}

// closeTimeout is how long a system may take to close.
const closeTimeout = 30 * time.Second

// errQuiet ends a load whose messages do not come.
var errQuiet = errors.New("nothing arrives any more")

// Stream puts a load through a system. That messages are lost is no error, but see
// Sample.Broken.
func Stream(ctx context.Context, system System, load Load) (*Sample, error) {
	if err := load.Check(); err != nil {
		return nil, err
	}
	session, err := system.Open(ctx, load)
	if err != nil {
		return nil, err
	}
	sample, err := stream(ctx, session, load)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if closeErr := session.Close(closing); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	return sample, nil
}

func stream(ctx context.Context, session Session, load Load) (*Sample, error) {
	s := &streaming{session: session, load: load, body: payload(load.Payload)}
	for i := range load.Subscribers {
		s.ends = append(s.ends, newEnd(i, load))
	}
	if load.WarmUp > 0 {
		sample, err := s.phase(ctx, load.WarmUp, load.Lockstep || load.Rate == 0 && load.Timed)
		if err != nil {
			return nil, fmt.Errorf("warm up: %w", err)
		}
		if err := sample.Broken(); err != nil {
			return nil, fmt.Errorf("warm up: %w", err)
		}
	}
	s.paced, s.timed = load.Rate > 0, load.Timed
	return s.phase(ctx, load.Count, load.Lockstep)
}

// payload returns a body of so many bytes that a person could read.
func payload(size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[i%36]
	}
	return body
}

// streaming is a load under way.
type streaming struct {
	session      Session
	load         Load
	body         []byte
	paced, timed bool
	published    uint64 // by each publisher, in the phases before
	ends         []*end
}

// phase publishes count messages and receives them.
func (s *streaming) phase(ctx context.Context, count int, lockstep bool) (*Sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	perPublisher := shares(count, s.load.Publishers)
	steps := make(chan struct{}, len(s.ends))
	portion := max(1, window(s.load.Payload)/credits/s.load.Publishers)
	for _, e := range s.ends {
		e.begin(s.published, perPublisher, portion, steps, lockstep)
	}
	var progress atomic.Int64
	stopWatching := s.watch(&progress, cancel)
	before := readUsage()
	start := time.Now()

	var late atomic.Int64
	var sending, receiving sync.WaitGroup
	for _, e := range s.ends {
		e.start = start
		receiving.Go(func() { e.receive(ctx, s, &progress, cancel) })
	}
	if lockstep {
		sending.Go(func() { s.sendInStep(ctx, perPublisher, steps, cancel) })
	} else {
		for p, n := range perPublisher {
			s.sendAll(ctx, p, n, portion, start, &late, &sending, cancel)
		}
	}
	sending.Wait()
	receiving.Wait()
	stopWatching()

	sample := &Sample{Used: readUsage().since(before), Late: int(late.Load()), AnyOrder: s.load.AnyOrder}
	for _, e := range s.ends {
		e.add(sample)
	}
	s.published += uint64(slices.Max(perPublisher))
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errQuiet) {
		return nil, cause
	}
	return sample, nil
}

// shares divides count among n.
func shares(count, n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = count / n
		if i < count%n {
			all[i]++
		}
	}
	return all
}

// watch ends the phase when nothing has arrived for a while.
func (s *streaming) watch(progress *atomic.Int64, cancel context.CancelCauseFunc) (stop func()) {
	patience := s.load.patience()
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(patience)
		defer tick.Stop()
		seen := int64(-1)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := progress.Load()
			if now == seen {
				cancel(errQuiet)
			}
			seen = now
		}
	})
	return func() { close(done); watching.Wait() }
}

// sendAll publishes the messages of one publisher, at the pace of the load.
func (s *streaming) sendAll(ctx context.Context, publisher, count, portion int, start time.Time, late *atomic.Int64, sending *sync.WaitGroup, cancel context.CancelCauseFunc) {
	var next atomic.Int64
	senders := s.load.InFlight
	if _, ok := s.session.(Ahead); ok {
		senders = 1
	}
	for range min(senders, count) {
		sending.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				if i%portion == 0 && !s.takeCredit(ctx, publisher) {
					return
				}
				if s.paced && !s.load.await(ctx, start, publisher, i, late) {
					return
				}
				if err := s.session.Publish(ctx, publisher, s.published+uint64(i)+1, s.body); err != nil {
					cancel(fmt.Errorf("message %d of publisher %d: %w", i+1, publisher, err))
					return
				}
			}
		})
	}
}

// takeCredit waits until every subscriber has room for another portion.
func (s *streaming) takeCredit(ctx context.Context, publisher int) bool {
	for _, e := range s.ends {
		select {
		case <-e.publishers[publisher].credit:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// await waits until it is time for message i of a publisher.
func (l Load) await(ctx context.Context, start time.Time, publisher, i int, late *atomic.Int64) bool {
	interval := float64(time.Second) / l.Rate
	due := start.Add(time.Duration(float64(i*l.Publishers+publisher) * interval))
	left := time.Until(due)
	if left <= 0 {
		if left < -time.Duration(interval) {
			late.Add(1)
		}
		return ctx.Err() == nil
	}
	return rest(ctx, left) == nil
}

// sendInStep publishes the messages of all publishers in turn, each when the one before has
// arrived everywhere.
func (s *streaming) sendInStep(ctx context.Context, counts []int, steps <-chan struct{}, cancel context.CancelCauseFunc) {
	for i := range slices.Max(counts) {
		for p, count := range counts {
			if i >= count {
				continue
			}
			if err := s.session.Publish(ctx, p, s.published+uint64(i)+1, s.body); err != nil {
				cancel(fmt.Errorf("message %d of publisher %d: %w", i+1, p, err))
				return
			}
			for range s.ends {
				select {
				case <-steps:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}
