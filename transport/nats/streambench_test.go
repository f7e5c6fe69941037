package nats_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// onDisk starts a server with streams in files of the benchmark.
func onDisk(b *testing.B) *server.Server { return startServer(b, withJetStream(b)) }

// inFlight is how many messages are on their way to the stream at once: four senders with some each.
const (
	benchSenders = 4
	benchBatch   = 128
)

// BenchmarkPublishStream measures how fast messages are stored and confirmed: by the asynchronous publishing of nats.go, and by
// several senders of several messages.
func BenchmarkPublishStream(b *testing.B) {
	body := make([]byte, benchBody)
	b.Run("raw", func(b *testing.B) {
		js, err := jetstream.New(connect(b, onDisk(b)), jetstream.WithPublishAsyncMaxPending(benchSenders*benchBatch))
		check(b, err)
		_, err = js.CreateStream(limited(b), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"/.>"}})
		check(b, err)
		gid := transport.NewGID().String()
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			number := strconv.Itoa(i + 1)
			id := number + "." + gid + "@_INBOX.x4eLVFDTFuSdD2LmDR9LbP"
			_, err := js.PublishMsgAsync(&natsgo.Msg{Subject: "/.bench", Data: body, Header: natsgo.Header{
				"Message-ID":                      {id},
				"Nats-Msg-Id":                     {id},
				transport.HeaderPublisherGID:      {gid},
				transport.HeaderPublisherSequence: {number},
				transport.HeaderSourceTimestamp:   {strconv.FormatInt(time.Now().UnixNano(), 10)},
			}}, jetstream.WithStallWait(timeout))
			check(b, err)
		}
		<-js.PublishAsyncComplete()
		b.StopTimer()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
	b.Run("postbus", func(b *testing.B) {
		carrier := open(b, kept(onDisk(b)))
		b.ReportAllocs()
		b.ResetTimer()
		var senders sync.WaitGroup
		for range benchSenders {
			senders.Go(func() { sendBatches(b, carrier, b.N/benchSenders, body) })
		}
		sendBatches(b, carrier, b.N%benchSenders, body)
		senders.Wait()
		b.StopTimer()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
}

// sendBatches sends n messages of a publisher.
func sendBatches(b *testing.B, c *nats.Carrier, n int, body []byte) {
	gid := transport.NewGID()
	for sent := 0; sent < n; {
		var batch []*transport.Message
		for range min(benchBatch, n-sent) {
			sent++
			batch = append(batch, &transport.Message{
				Kind: transport.TopicMessage, Name: "/bench", Body: body, ID: transport.NewID(gid, uint64(sent), c.Address()),
				Info: transport.Info{PublisherGID: gid, Sequence: uint64(sent), SourceTime: time.Now()},
			})
		}
		if err := c.Send(context.Background(), batch...); err != nil {
			b.Error(err)
			return
		}
	}
}

// BenchmarkConsumeStream measures how fast a durable consumer hands out messages that are confirmed one by one.
func BenchmarkConsumeStream(b *testing.B) {
	body := make([]byte, benchBody)
	fill := func(b *testing.B, s *server.Server) *nats.Carrier {
		carrier := open(b, kept(s))
		for range benchSenders {
			sendBatches(b, carrier, b.N/benchSenders+1, body)
		}
		return carrier
	}
	b.Run("raw", func(b *testing.B) {
		s := onDisk(b)
		fill(b, s)
		consumer, err := jetStream(b, s).CreateConsumer(limited(b), "KEPT", jetstream.ConsumerConfig{Durable: "raw", AckPolicy: jetstream.AckExplicitPolicy})
		check(b, err)
		b.ReportAllocs()
		b.ResetTimer()
		w := make(chan struct{})
		var n int
		c, err := consumer.Consume(func(m jetstream.Msg) {
			if n++; n > b.N {
				return
			}
			check(b, m.DoubleAck(context.Background()))
			if n == b.N {
				close(w)
			}
		}, jetstream.PullMaxMessages(64))
		check(b, err)
		<-w
		b.StopTimer()
		c.Stop()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
	b.Run("postbus", func(b *testing.B) {
		s := onDisk(b)
		carrier := open(b, kept(s))
		in := transport.Interest{Kind: transport.TopicMessage, Name: "/bench", Durable: "d"}
		stop, err := carrier.Receive(in, func(transport.Delivery) {})
		check(b, err)
		stop()
		fill(b, s)
		all := make(chan transport.Delivery, transport.MaxInFlight)
		b.ReportAllocs()
		b.ResetTimer()
		stop, err = carrier.Receive(in, func(d transport.Delivery) { all <- d })
		check(b, err)
		for range b.N {
			check(b, (<-all).Ack())
		}
		b.StopTimer()
		stop()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
}
