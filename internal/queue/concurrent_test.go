package queue_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

// Messages that come in a burst while readers are about to wait reach them all. The
// moment in which one could be overlooked is short, so there are many tries.
func TestNoWakeUpIsLost(t *testing.T) {
	const rounds, readers = 10_000, 3
	for range rounds {
		synctest.Test(t, func(t *testing.T) {
			q := queue.New(transport.QoS{})
			var popped atomic.Int32
			for range readers {
				go func() {
					if _, err := q.Pop(t.Context()); err == nil {
						popped.Add(1)
					}
				}()
			}
			go func() {
				for seq := range uint64(readers) {
					q.Push(numbered(seq))
				}
			}()
			synctest.Wait()
			q.Close()
			if n := popped.Load(); n != readers {
				t.Fatalf("%d of %d readers got a message", n, readers)
			}
		})
	}
}

// Whatever the mixture of readers that wait, readers that look and readers that give
// up: as long as a message is there, no reader is left waiting.
func TestNoWakeUpIsLostInACrowd(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			q := queue.New(transport.QoS{Depth: 1000})
			var popped, waiting atomic.Int64
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			pushed := int64(0)
			for range 20 {
				for range random.IntN(5) {
					waiting.Add(1)
					// Some readers lose their patience at the very moment.
					own, cancelOwn := context.WithCancel(ctx)
					go func() {
						defer cancelOwn()
						if _, err := q.Pop(own); err == nil {
							popped.Add(1)
						}
						waiting.Add(-1)
					}()
					if random.IntN(4) == 0 {
						go cancelOwn()
					}
				}
				for range random.IntN(5) {
					pushed++
					go q.Push(numbered(uint64(pushed)))
				}
				for range random.IntN(2) {
					go func() {
						if _, ok := q.TryPop(); ok {
							popped.Add(1)
						}
					}()
				}
				synctest.Wait()
				if left := pushed - popped.Load(); left > 0 && waiting.Load() > 0 {
					t.Fatalf("seed %d: %d readers wait although %d messages are there", seed, waiting.Load(), left)
				}
			}
		})
	}
}

// Each message is taken once, and each reader sees each sender's messages in order.
func TestConcurrentPushAndPop(t *testing.T) {
	const senders, readers, each = 4, 4, 5000
	q := queue.New(transport.QoS{KeepAll: true})
	gids := make([]transport.GID, senders)
	var sending, reading sync.WaitGroup
	var seen sync.Map
	for range readers {
		reading.Go(func() {
			last := make(map[transport.GID]uint64)
			for {
				d, err := q.Pop(t.Context())
				if err != nil {
					return
				}
				info := d.Message.Info
				if info.Sequence <= last[info.PublisherGID] {
					t.Errorf("a reader got message %d after %d", info.Sequence, last[info.PublisherGID])
				}
				last[info.PublisherGID] = info.Sequence
				type key struct {
					gid transport.GID
					seq uint64
				}
				if _, twice := seen.LoadOrStore(key{info.PublisherGID, info.Sequence}, true); twice {
					t.Errorf("message %d was taken twice", info.Sequence)
				}
			}
		})
	}
	for i := range gids {
		gids[i] = transport.NewGID()
		sending.Go(func() {
			for seq := uint64(1); seq <= each; seq++ {
				d := numbered(seq)
				d.Message.Info.PublisherGID = gids[i]
				if !q.Push(d) {
					t.Errorf("message %d was dropped", seq)
				}
			}
		})
	}
	sending.Wait()
	q.Close()
	reading.Wait()
	n := 0
	seen.Range(func(any, any) bool { n++; return true })
	if n != senders*each {
		t.Errorf("%d messages were taken, want %d", n, senders*each)
	}
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	q := queue.New(transport.QoS{Depth: 3})
	var busy, reading sync.WaitGroup
	for range 3 {
		busy.Go(func() {
			for seq := range uint64(300) {
				q.Push(numbered(seq))
				q.Watch(func() { q.Ready() })()
				q.Dropped()
				q.TryPop()
			}
		})
		reading.Go(func() {
			for {
				if _, err := q.Pop(t.Context()); err != nil {
					return
				}
			}
		})
	}
	busy.Wait()
	q.Close()
	reading.Wait()
	checkContents(t, q)
}

func BenchmarkPushTryPop(b *testing.B) {
	q := queue.New(transport.QoS{})
	d := numbered(1)
	b.ReportAllocs()
	for b.Loop() {
		q.Push(d)
		q.TryPop()
	}
}

// BenchmarkStream sends from one goroutine to another that waits in Pop.
func BenchmarkStream(b *testing.B) {
	q := queue.New(transport.QoS{KeepAll: true})
	d := numbered(1)
	b.ReportAllocs()
	done := make(chan int)
	go func() {
		n := 0
		for {
			if _, err := q.Pop(context.Background()); err != nil {
				done <- n
				return
			}
			n++
		}
	}()
	for b.Loop() {
		q.Push(d)
	}
	q.Close()
	n := <-done
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "taken/s")
	b.ReportMetric(float64(q.Dropped())/float64(b.N), "dropped/op")
}

// BenchmarkFloor is what a slice under a mutex with a wake channel costs: no bounds,
// no lifespan, no watchers.
func BenchmarkFloor(b *testing.B) {
	var mu sync.Mutex
	var items []transport.Delivery
	wake := make(chan struct{}, 1)
	d := numbered(1)
	b.ReportAllocs()
	for b.Loop() {
		mu.Lock()
		items = append(items, d)
		mu.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
		mu.Lock()
		items = items[:0]
		mu.Unlock()
	}
}

// Close wakes all who wait, whatever they wait with, and also if some of them get what is left.
func TestCloseWakesAll(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			q := queue.New(transport.QoS{KeepAll: true})
			var taken, closed atomic.Int32
			for i := range 6 {
				ctx := context.Background()
				if i%2 == 0 {
					ctx = t.Context()
				}
				go func() {
					switch _, err := q.Pop(ctx); {
					case err == nil:
						taken.Add(1)
					case errors.Is(err, transport.ErrClosed):
						closed.Add(1)
					}
				}()
			}
			if rand.IntN(2) == 0 {
				synctest.Wait()
			}
			q.Push(numbered(1))
			q.Push(numbered(2))
			q.Close()
			synctest.Wait()
			if taken.Load() != 2 || closed.Load() != 4 {
				t.Errorf("%d got something, %d heard of the close; want 2 and 4", taken.Load(), closed.Load())
			}
		})
	}
}
