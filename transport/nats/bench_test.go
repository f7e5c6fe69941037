package nats_test

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
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

// BenchmarkPublish has the same subscriber, of nats.go, for a publisher of nats.go and one of ours.
func BenchmarkPublish(b *testing.B) {
	for _, publisher := range []string{"raw", "postbus"} {
		b.Run(publisher, func(b *testing.B) {
			s := startServer(b, nil)
			w := newWindow(b.N)
			rawSubscriber(b, s, w)
			publishAll(b, w, benchPublisher(b, s, publisher))
		})
	}
}

// BenchmarkTopic has a publisher and a subscriber of nats.go, and those of ours.
func BenchmarkTopic(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		s := startServer(b, nil)
		w := newWindow(b.N)
		rawSubscriber(b, s, w)
		publishAll(b, w, benchPublisher(b, s, "raw"))
	})
	b.Run("postbus", func(b *testing.B) {
		s := startServer(b, nil)
		w := newWindow(b.N)
		sub, err := pubsub.NewSubscription(openNode(b, config(s)), "bench", pubsub.KeepAll())
		check(b, err)
		check(b, sub.Handle(func(context.Context, *transport.Message) error { w.received(); return nil }))
		publishAll(b, w, benchPublisher(b, s, "postbus"))
	})
}

func rawSubscriber(b *testing.B, s *server.Server, w *window) {
	conn := connect(b, s)
	_, err := conn.Subscribe("bench", func(*natsgo.Msg) { w.received() })
	check(b, err)
	check(b, conn.Flush())
}

// benchPublisher returns what publishes the next message.
func benchPublisher(b *testing.B, s *server.Server, kind string) func(i int) error {
	body := make([]byte, benchBody)
	if kind == "postbus" {
		pub, err := pubsub.NewPublisher(openNode(b, config(s)), "bench")
		check(b, err)
		return func(int) error { return pub.Publish(context.Background(), body) }
	}
	conn, gid := connect(b, s), transport.NewGID().String()
	return func(i int) error {
		number := strconv.Itoa(i + 1)
		return conn.PublishMsg(&natsgo.Msg{Subject: "bench", Data: body, Header: natsgo.Header{
			"Message-ID":                      {number + "." + gid + "@_INBOX.x4eLVFDTFuSdD2LmDR9LbP"},
			transport.HeaderPublisherGID:      {gid},
			transport.HeaderPublisherSequence: {number},
			transport.HeaderSourceTimestamp:   {strconv.FormatInt(time.Now().UnixNano(), 10)},
		}})
	}
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
			text := strconv.Itoa(number)
			return natsgo.Header{
				"Message-ID":                      {text + "." + gid + "@_INBOX.x4eLVFDTFuSdD2LmDR9LbP"},
				transport.HeaderPublisherGID:      {gid},
				transport.HeaderPublisherSequence: {text},
				transport.HeaderClientGID:         {gid},
				transport.HeaderRequestSequence:   {text},
				transport.HeaderSourceTimestamp:   {strconv.FormatInt(time.Now().UnixNano(), 10)},
			}
		}
		gid, responder, answers := transport.NewGID().String(), transport.NewGID().String(), 0
		_, err := to.Subscribe("bench", func(m *natsgo.Msg) {
			answers++
			answer := &natsgo.Msg{Data: m.Data, Header: fields(responder, answers)}
			answer.Header[transport.HeaderClientGID] = m.Header[transport.HeaderClientGID]
			answer.Header[transport.HeaderRequestSequence] = m.Header[transport.HeaderRequestSequence]
			answer.Header["In-Reply-To"] = m.Header["Message-ID"]
			answer.Header["Subject"] = []string{"bench"}
			_ = m.RespondMsg(answer)
		})
		check(b, err)
		check(b, to.Flush())
		callAll(b, func(ctx context.Context, i int) error {
			header := fields(gid, i+1)
			header[transport.HeaderDeadline] = []string{strconv.FormatInt(time.Now().Add(time.Minute).UnixNano(), 10)}
			_, err := from.RequestMsgWithContext(ctx, &natsgo.Msg{Subject: "bench", Data: body, Header: header})
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
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1000, "p50-µs")
}
