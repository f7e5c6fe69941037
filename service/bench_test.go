package service_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
)

// payload is what the benchmarks send: 128 bytes.
var payload = bytes.Repeat([]byte("0123456789abcdef"), 8)

// latencies are the durations of single operations of a benchmark.
type latencies struct {
	took []time.Duration
	last time.Time
}

func newLatencies() *latencies {
	return &latencies{took: make([]time.Duration, 0, 1<<20), last: time.Now()}
}

// lap notes the end of an operation, which is the beginning of the next.
func (l *latencies) lap() {
	now := time.Now()
	l.took = append(l.took, now.Sub(l.last))
	l.last = now
}

func (l *latencies) report(b *testing.B) {
	slices.Sort(l.took)
	for _, p := range []struct {
		unit string
		rank float64
	}{{"p50-ns", 0.5}, {"p99-ns", 0.99}, {"p99.9-ns", 0.999}} {
		b.ReportMetric(float64(l.took[int(p.rank*float64(len(l.took)-1))]), p.unit)
	}
	b.ReportAllocs()
}

// mailbox is the least that can carry messages between two goroutines: a queue with a mutex and a
// token that wakes its reader.
type mailbox struct {
	mu    sync.Mutex
	queue [][]byte
	wake  chan struct{}
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) put(body []byte) {
	body = bytes.Clone(body)
	m.mu.Lock()
	m.queue = append(m.queue, body)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []byte {
	for {
		m.mu.Lock()
		if len(m.queue) > 0 {
			body := m.queue[0]
			m.queue = m.queue[:copy(m.queue, m.queue[1:])]
			m.mu.Unlock()
			return body
		}
		m.mu.Unlock()
		<-m.wake
	}
}

// BenchmarkFloor is the round trip of a payload through two mailboxes: what BenchmarkCall is measured by.
func BenchmarkFloor(b *testing.B) {
	there, back := newMailbox(), newMailbox()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for body := there.take(); len(body) > 0; body = there.take() {
			back.put(body)
		}
	}()
	l := newLatencies()
	for b.Loop() {
		there.put(payload)
		back.take()
		l.lap()
	}
	l.report(b)
	there.put(nil)
	<-done
}

// ends returns a client and a server of one service, on two nodes of one bus.
func ends(b *testing.B, options ...service.ServerOption) (*service.Client, *service.Server) {
	bus := intraprocess.NewBus()
	server := newServer(b, newNode(b, bus), "/s", options...)
	return newClient(b, newNode(b, bus), "/s"), server
}

func handle(b *testing.B, server *service.Server) {
	if err := server.Handle(echo); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCallCached is the round trip of a call that is answered with a result that the server has, beside one whose
// handler does nothing.
func BenchmarkCallCached(b *testing.B) {
	for _, kind := range []struct {
		name    string
		options []service.ServerOption
	}{{"hit", []service.ServerOption{service.Cache(time.Hour)}}, {"handler", nil}} {
		b.Run(kind.name, func(b *testing.B) {
			client, server := ends(b, kind.options...)
			handle(b, server)
			l := newLatencies()
			for b.Loop() {
				if _, err := client.Call(b.Context(), payload); err != nil {
					b.Fatal(err)
				}
				l.lap()
			}
			l.report(b)
		})
	}
}

// BenchmarkCall is the round trip of a call to a handler, with one call under way at a time.
func BenchmarkCall(b *testing.B) {
	for _, kind := range []string{"live", "durable", "group"} {
		b.Run(kind, func(b *testing.B) {
			client, server := ends(b, kinds[kind]...)
			handle(b, server)
			ctx := b.Context()
			l := newLatencies()
			for b.Loop() {
				if _, err := client.Call(ctx, payload); err != nil {
					b.Fatal(err)
				}
				l.lap()
			}
			l.report(b)
		})
	}
}

// A call costs a few allocations: the two messages with their bodies, and what stands for the call at either end.
func TestAllocationsOfACall(t *testing.T) {
	bus := intraprocess.NewBus()
	serve(t, newNode(t, bus), "/s", echo)
	client, ctx := newClient(t, newNode(t, bus), "/s"), t.Context()
	call := func() {
		if _, err := client.Call(ctx, payload); err != nil {
			t.Error(err)
		}
	}
	for range service.KeptAnswers {
		call() // so that what is kept is made of what was
	}
	if n := testing.AllocsPerRun(1000, call); n > 8 {
		t.Errorf("%v allocations a call, want 8 at most", n)
	}
}

// BenchmarkCallWithDeadline is BenchmarkCall with a context of its own for each call, as programs have.
func BenchmarkCallWithDeadline(b *testing.B) {
	client, server := ends(b)
	handle(b, server)
	l := newLatencies()
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		if _, err := client.Call(ctx, payload); err != nil {
			b.Fatal(err)
		}
		cancel()
		l.lap()
	}
	l.report(b)
}

// BenchmarkNextRespond is the receive path of a server without a handler, in the caller's goroutine:
// a request is sent, taken and answered, and the answer collected.
func BenchmarkNextRespond(b *testing.B) {
	client, server := ends(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		seq, err := client.Send(ctx, payload)
		if err != nil {
			b.Fatal(err)
		}
		r, err := server.Next(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Respond(ctx, payload); err != nil {
			b.Fatal(err)
		}
		if _, err := client.Response(ctx, seq); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSendResponse keeps many calls of one client under way.
func BenchmarkSendResponse(b *testing.B) {
	const underWay = 64
	client, server := ends(b)
	handle(b, server)
	ctx := b.Context()
	var oldest uint64
	b.ReportAllocs()
	for b.Loop() {
		seq, err := client.Send(ctx, payload)
		if oldest == 0 {
			oldest = seq
		}
		if err == nil && seq-oldest == underWay {
			_, err = client.Response(ctx, oldest)
			oldest++
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCallers is what a server gets through that has many callers at once, each of a client of
// its own or all of one.
func BenchmarkCallers(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(strconv.Itoa(clients)+"clients", func(b *testing.B) {
			const callers = 64
			bus := intraprocess.NewBus()
			handle(b, newServer(b, newNode(b, bus), "/s"))
			node := newNode(b, bus)
			all := make([]*service.Client, clients)
			for i := range all {
				all[i] = newClient(b, node, "/s")
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var running sync.WaitGroup
			for i := range callers {
				running.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := all[i%clients].Call(b.Context(), payload); err != nil {
							b.Error(err)
						}
					}
				})
			}
			running.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}
