package intraprocess

import (
	"context"
	"testing"

	"github.com/postbus/postbus/transport"
)

// A carrier that lives long forgets the interests that come and go.
func TestStoppedInterestIsForgotten(t *testing.T) {
	c := New()
	stop, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if n, m := len(c.interests), c.bus.dispatcher.Len(); n != 0 || m != 0 {
		t.Errorf("the carrier keeps %d interests and its bus %d", n, m)
	}
}

func BenchmarkSend(b *testing.B) {
	for _, bench := range []struct {
		name      string
		receivers int
	}{{"receivers=1", 1}, {"receivers=10", 10}} {
		b.Run(bench.name, func(b *testing.B) {
			c := New()
			n := 0
			for range bench.receivers {
				_, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) { n++ })
				if err != nil {
					b.Fatal(err)
				}
			}
			body := make([]byte, 128)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: body}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}
