package email_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// The payload of the benchmarks.
var payload = string(make([]byte, 128))

// BenchmarkLatency is the time from publishing to delivery, one message at a time.
func BenchmarkLatency(b *testing.B) {
	for name, config := range map[string]mailserver.Config{"plaintext": {}, "TLS": {TLS: true}} {
		b.Run(name, func(b *testing.B) {
			bench := newBench(b, config, quiet)
			var times []time.Duration
			for b.Loop() {
				start := time.Now()
				if err := bench.carrier.Send(b.Context(), bench.message(payload)); err != nil {
					b.Fatal(err)
				}
				<-bench.got
				times = append(times, time.Since(start))
			}
			reportPercentiles(b, times)
		})
	}
}

// BenchmarkLatencyAtRest is the time from publishing to delivery to a subscriber that is in IDLE, and what that costs
// the server in commands.
func BenchmarkLatencyAtRest(b *testing.B) {
	bench := newBench(b, mailserver.Config{}, quiet)
	var times []time.Duration
	before := bench.server.Stats().IMAPCommands
	for b.Loop() {
		time.Sleep(15 * time.Millisecond)
		start := time.Now()
		if err := bench.carrier.Send(b.Context(), bench.message(payload)); err != nil {
			b.Fatal(err)
		}
		<-bench.got
		times = append(times, time.Since(start))
	}
	reportPercentiles(b, times)
	b.ReportMetric(float64(bench.server.Stats().IMAPCommands-before)/float64(len(times)), "commands/op")
}

// BenchmarkRoundTrip is the time from a request to its answer by another node.
func BenchmarkRoundTrip(b *testing.B) {
	bench := newBench(b, mailserver.Config{}, quiet)
	config, account := bench.config(), bench.server.Accounts()[1]
	config.Username, config.Password = account.Address, account.Password
	server := open(b, config)
	defer server.Close(context.Background())
	requests := make(chan *transport.Message, 1)
	if _, err := server.Receive(transport.Interest{Kind: transport.Request, Name: "/s"}, func(d transport.Delivery) { requests <- d.Message }); err != nil {
		b.Fatal(err)
	}
	answers := make(chan *transport.Message, 1)
	if _, err := bench.carrier.Receive(transport.Interest{Kind: transport.Response, Client: bench.gid}, func(d transport.Delivery) { answers <- d.Message }); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		gid := transport.NewGID()
		for n := uint64(1); ; n++ {
			select {
			case r := <-requests:
				m := &transport.Message{Kind: transport.Response, Name: r.Name, To: []string{r.ReplyTo}, InReplyTo: r.ID, ID: transport.NewID(gid, n, "test")}
				m.Info.SourceTime, m.Info.ClientGID, m.Info.RequestSequence = time.Now(), r.Info.ClientGID, r.Info.RequestSequence
				if err := server.Send(ctx, m); err != nil {
					b.Error(err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	var times []time.Duration
	for b.Loop() {
		m := bench.message(payload)
		m.Kind, m.Name, m.To = transport.Request, "/s", []string{account.Address}
		m.Info.ClientGID, m.Info.RequestSequence = m.Info.PublisherGID, m.Info.Sequence
		start := time.Now()
		if err := bench.carrier.Send(ctx, m); err != nil {
			b.Fatal(err)
		}
		<-answers
		times = append(times, time.Since(start))
	}
	reportPercentiles(b, times)
}

// BenchmarkThroughput sends as fast as it can, until all has been delivered.
func BenchmarkThroughput(b *testing.B) {
	bench := newBench(b, mailserver.Config{}, quiet)
	n := 0
	for b.Loop() {
		if err := bench.carrier.Send(b.Context(), bench.message(payload)); err != nil {
			b.Fatal(err)
		}
		n++
	}
	for range n {
		<-bench.got
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkBatched sends from many goroutines at once, in batches, until all has been delivered.
func BenchmarkBatched(b *testing.B) {
	for _, senders := range []int{16, 256, 4096} {
		b.Run(fmt.Sprint(senders, " senders"), func(b *testing.B) {
			bench := newBench(b, mailserver.Config{}, quiet)
			config := bench.config()
			config.Batch.On = true
			carrier := open(b, config)
			defer closeCarrier(b, carrier)
			var sending sync.WaitGroup
			var number atomic.Int64
			b.ResetTimer()
			for range senders {
				gid := transport.NewGID()
				sending.Go(func() {
					for n := uint64(1); number.Add(1) <= int64(b.N); n++ {
						m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte(payload), ID: transport.NewID(gid, n, "test")}
						m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = gid, n, time.Now()
						if err := carrier.Send(b.Context(), m); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for range b.N {
				<-bench.got
			}
			sending.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

func reportPercentiles(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	for name, share := range map[string]float64{"p50-µs": 0.5, "p99-µs": 0.99} {
		b.ReportMetric(float64(times[int(share*float64(len(times)-1))].Microseconds()), name)
	}
}

// BenchmarkDurable is what a durable interest costs that acknowledges each message, one after the other or
// many at once, with what is on record when Ack returns. Compare with BenchmarkThroughput.
func BenchmarkDurable(b *testing.B) {
	for name, workers := range map[string]int{"one worker": 1, "64 workers": 64} {
		b.Run(name, func(b *testing.B) {
			bench := newBench(b, mailserver.Config{}, quiet)
			config := bench.config()
			config.State = filepath.Join(b.TempDir(), "state")
			c := open(b, config)
			defer closeCarrier(b, c)
			got, _ := receive(b, c, durableOnT)
			var working sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			for range workers {
				working.Go(func() {
					for left.Add(-1) >= 0 {
						ack(b, <-got)
					}
				})
			}
			for range b.N {
				if err := bench.carrier.Send(b.Context(), bench.message(payload)); err != nil {
					b.Fatal(err)
				}
			}
			working.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
