package pubsub_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// payload is the size of the bodies in the benchmarks.
const payload = 128

// ahead is how many messages a publisher of the benchmarks may be ahead of the slowest reader, so
// that nothing is dropped: half of what a queue that keeps all has room for.
const ahead = transport.KeepAllMessages / 2

// pace lets a publisher not get too far ahead of readers. Both sides look at it once in a while
// only, so that it costs next to nothing.
type pace struct {
	readers []paceReader
}

type paceReader struct {
	taken atomic.Int64
	_     [56]byte // a cache line each
}

const paceEvery = 256

// waitBefore waits until message i may be published.
func (p *pace) waitBefore(i int) {
	if i%paceEvery != 0 {
		return
	}
	for r := range p.readers {
		for int64(i)-p.readers[r].taken.Load() > ahead {
			runtime.Gosched()
		}
	}
}

// took notes that a reader has taken i messages.
func (p *pace) took(reader, i int) {
	if i%paceEvery == 0 {
		p.readers[reader].taken.Store(int64(i))
	}
}

// BenchmarkThroughput is one publisher and one or ten readers, each in a goroutine: "floor" through the least
// that can do it, a queue under a mutex; "message" through the same queue, but as a transport.Message with the time;
// "pubsub" through all of postbus. The time of an operation is that of a message.
func BenchmarkThroughput(b *testing.B) {
	for _, readers := range []int{1, 10} {
		b.Run(fmt.Sprintf("readers=%d/floor", readers), func(b *testing.B) { floorThroughput(b, readers, bytes.Clone) })
		b.Run(fmt.Sprintf("readers=%d/message", readers), func(b *testing.B) { floorThroughput(b, readers, bareMessage) })
		b.Run(fmt.Sprintf("readers=%d/pubsub", readers), func(b *testing.B) { throughput(b, readers) })
	}
}

func throughput(b *testing.B, readers int) {
	node := newNode(b, intraprocess.NewBus())
	pub := newPublisher(b, node, "/t")
	var done sync.WaitGroup
	p := pace{make([]paceReader, readers)}
	for r := range readers {
		sub := newSubscription(b, node, "/t", pubsub.KeepAll())
		done.Go(func() {
			for i := range b.N {
				if _, err := sub.Next(context.Background()); err != nil {
					b.Error(err)
				}
				p.took(r, i+1)
			}
		})
	}
	body := make([]byte, payload)
	ctx := b.Context()
	cpu := start(b)
	for i := range b.N {
		p.waitBefore(i)
		if err := pub.Publish(ctx, body); err != nil {
			b.Fatal(err)
		}
	}
	done.Wait()
	stop(b, readers, cpu)
}

// bareMessage makes a message as it is when it has been published.
func bareMessage(body []byte) *transport.Message {
	now := time.Now()
	return &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: bytes.Clone(body),
		Info: transport.Info{SourceTime: now, ReceivedTime: now}}
}

func floorThroughput[T any](b *testing.B, readers int, message func(body []byte) T) {
	var done sync.WaitGroup
	p := pace{make([]paceReader, readers)}
	queues := make([]*floorQueue[T], readers)
	for r := range queues {
		q := &floorQueue[T]{notify: make(chan struct{}, 1)}
		queues[r] = q
		done.Go(func() {
			for i := 0; i < b.N; {
				for range q.drain() {
					i++
					p.took(r, i)
				}
			}
		})
	}
	body := make([]byte, payload)
	cpu := start(b)
	for i := range b.N {
		p.waitBefore(i)
		m := message(body)
		for _, q := range queues {
			q.push(m)
		}
	}
	done.Wait()
	stop(b, readers, cpu)
}

func start(b *testing.B) (cpu time.Duration) {
	b.ReportAllocs()
	b.ResetTimer()
	return cpuTime(b)
}

func stop(b *testing.B, readers int, cpu time.Duration) {
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)*float64(readers)/b.Elapsed().Seconds(), "deliveries/s")
}

// cpuTime returns the time that all cores have spent on the process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// floorQueue is a queue under a mutex whose reader takes all there is at once.
type floorQueue[T any] struct {
	notify  chan struct{}
	mu      sync.Mutex
	waiting []T
	drained []T // the reader's
}

func (q *floorQueue[T]) push(message T) {
	q.mu.Lock()
	q.waiting = append(q.waiting, message)
	q.mu.Unlock()
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// drain waits until something is there and takes it all.
func (q *floorQueue[T]) drain() []T {
	for {
		clear(q.drained)
		q.mu.Lock()
		q.drained, q.waiting = q.waiting, q.drained[:0]
		q.mu.Unlock()
		if len(q.drained) > 0 {
			return q.drained
		}
		<-q.notify
	}
}

// BenchmarkPublishTake is a message's way through everything in one goroutine: what it costs without
// anybody to wait for or to get in the way.
func BenchmarkPublishTake(b *testing.B) {
	for _, name := range []string{"/t", "/robots/12/arm/left/joint_states"} {
		b.Run(fmt.Sprintf("name=%d", len(name)), func(b *testing.B) {
			node := newNode(b, intraprocess.NewBus())
			publishAndTake(b, newPublisher(b, node, name), newSubscription(b, node, name))
		})
	}
}

// BenchmarkDispatch is a message that one subscription wants, beside others of other topics and, in "patterns",
// of other patterns: how many there are is to make no difference.
func BenchmarkDispatch(b *testing.B) {
	for _, kind := range []struct{ name, others, wanted string }{
		{"topics", "/robots/%d/position", "/robots/wanted/position"},
		{"patterns", "/robots/%d/*", "/robots/wanted/*"},
	} {
		for _, n := range []int{1, 1000, 100_000} {
			b.Run(fmt.Sprintf("%s=%d", kind.name, n), func(b *testing.B) { dispatch(b, n, kind.others, kind.wanted) })
		}
	}
}

func dispatch(b *testing.B, n int, others, wanted string) {
	node := newNode(b, intraprocess.NewBus())
	for i := range n - 1 {
		newSubscription(b, node, fmt.Sprintf(others, i))
	}
	pub := newPublisher(b, node, "/robots/wanted/position")
	sub := newSubscription(b, node, wanted)
	runtime.GC() // of what is left of making so many
	publishAndTake(b, pub, sub)
}

// publishAndTake measures a message's way through everything in one goroutine.
func publishAndTake(b *testing.B, pub *pubsub.Publisher, sub *pubsub.Subscription) {
	body := make([]byte, payload)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := pub.Publish(ctx, body); err != nil {
			b.Fatal(err)
		}
		if _, err := sub.Next(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
