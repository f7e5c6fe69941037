package nats_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// The benchmarks measure postbus beside nats.go alone, on one server in this process, over TCP, with
// the same body and the same header fields. A publisher and a subscriber have a connection each.

const benchBody = 128

// window bounds how many messages are between a publisher and its subscriber.
type window struct {
	tokens chan struct{}
	left   atomic.Int64
	done   chan struct{}
}

func newWindow(n int) *window {
	w := &window{tokens: make(chan struct{}, 1<<12), done: make(chan struct{})}
	w.left.Store(int64(n))
	return w
}

func (w *window) received() {
	<-w.tokens
	if w.left.Add(-1) == 0 {
		close(w.done)
	}
}

func BenchmarkPublish(b *testing.B) {
	body := make([]byte, benchBody)
	b.Run("raw", func(b *testing.B) {
		s := startServer(b, nil)
		from, to := connect(b, s), connect(b, s)
		w := newWindow(b.N)
		_, err := to.Subscribe("bench", func(*natsgo.Msg) { w.received() })
		check(b, err)
		check(b, to.Flush())
		gid := transport.NewGID().String()
		publishAll(b, w, func(i int) error {
			number := strconv.Itoa(i + 1)
			return from.PublishMsg(&natsgo.Msg{Subject: "bench", Data: body, Header: natsgo.Header{
				"Message-ID":                      {number + "." + gid + "@_INBOX.x4eLVFDTFuSdD2LmDR9LbP"},
				transport.HeaderPublisherGID:      {gid},
				transport.HeaderPublisherSequence: {number},
				transport.HeaderSourceTimestamp:   {strconv.FormatInt(time.Now().UnixNano(), 10)},
			}})
		})
	})
	b.Run("postbus", func(b *testing.B) {
		s := startServer(b, nil)
		from, to := openNode(b, config(s)), openNode(b, config(s))
		w := newWindow(b.N)
		sub, err := pubsub.NewSubscription(to, "bench", pubsub.KeepAll())
		check(b, err)
		check(b, sub.Handle(func(context.Context, *transport.Message) error { w.received(); return nil }))
		pub, err := pubsub.NewPublisher(from, "bench")
		check(b, err)
		publishAll(b, w, func(int) error { return pub.Publish(context.Background(), body) })
	})
}

// publishAll publishes b.N messages and waits until they have been received.
func publishAll(b *testing.B, w *window, publish func(i int) error) {
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		w.tokens <- struct{}{}
		if err := publish(i); err != nil {
			b.Fatal(err)
		}
	}
	select {
	case <-w.done:
	case <-time.After(timeout):
		b.Fatalf("%d messages did not come", w.left.Load())
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func BenchmarkRequest(b *testing.B) {
	body := make([]byte, benchBody)
	b.Run("raw", func(b *testing.B) {
		s := startServer(b, nil)
		from, to := connect(b, s), connect(b, s)
		fields := func(gid string, number int) natsgo.Header {
			return natsgo.Header{
				"Message-ID":                      {fmt.Sprint(number) + "." + gid + "@_INBOX.x4eLVFDTFuSdD2LmDR9LbP"},
				transport.HeaderPublisherGID:      {gid},
				transport.HeaderPublisherSequence: {strconv.Itoa(number)},
				transport.HeaderClientGID:         {gid},
				transport.HeaderRequestSequence:   {strconv.Itoa(number)},
				transport.HeaderSourceTimestamp:   {strconv.FormatInt(time.Now().UnixNano(), 10)},
				transport.HeaderDeadline:          {strconv.FormatInt(time.Now().UnixNano(), 10)},
			}
		}
		gid, server := transport.NewGID().String(), transport.NewGID().String()
		_, err := to.Subscribe("bench", func(m *natsgo.Msg) {
			answer := &natsgo.Msg{Data: m.Data, Header: fields(server, 1)}
			answer.Header["In-Reply-To"] = m.Header["Message-ID"]
			answer.Header["Subject"] = []string{"bench"}
			_ = m.RespondMsg(answer)
		})
		check(b, err)
		check(b, to.Flush())
		callAll(b, func(ctx context.Context, i int) error {
			_, err := from.RequestMsgWithContext(ctx, &natsgo.Msg{Subject: "bench", Data: body, Header: fields(gid, i+1)})
			return err
		})
	})
	b.Run("postbus", func(b *testing.B) {
		s := startServer(b, nil)
		from, to := openNode(b, config(s)), openNode(b, config(s))
		server, err := service.NewServer(to, "bench")
		check(b, err)
		check(b, server.Handle(func(_ context.Context, m *transport.Message) ([]byte, error) { return m.Body, nil }))
		client, err := service.NewClient(from, "bench")
		check(b, err)
		callAll(b, func(ctx context.Context, _ int) error {
			_, err := client.Call(ctx, body)
			return err
		})
	})
}

// callAll makes b.N calls, one after the other.
func callAll(b *testing.B, call func(ctx context.Context, i int) error) {
	times := make([]time.Duration, 0, b.N)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b.ReportAllocs()
	for i := range b.N {
		begin := time.Now()
		if err := call(ctx, i); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(begin))
	}
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
}
