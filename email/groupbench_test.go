package email_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// BenchmarkGroup is how fast members in one process handle messages that are there already.
func BenchmarkGroup(b *testing.B) {
	for _, members := range []int{1, 3} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			x, _ := embeddedTeam(b)
			benchmarkGroup(b, x, members)
		})
	}
}

func benchmarkGroup(b *testing.B, x *team, members int) {
	seen := make(map[uint64]bool)
	first := x.join("first")
	x.publish(1)
	x.once(seen)
	if err := first.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	x.publish(b.N)
	b.ResetTimer()
	for i := range members {
		x.join(fmt.Sprint(i))
	}
	x.once(seen)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkGroupLatency is the time from publishing to delivery to a member, and, as "live", to
// an interest outside of any group.
func BenchmarkGroupLatency(b *testing.B) {
	x, _ := embeddedTeam(b)
	benchmarkGroupLatency(b, x)
}

func benchmarkGroupLatency(b *testing.B, x *team) {
	member := open(b, x.config)
	b.Cleanup(func() { member.Close(context.Background()) })
	grouped, lived := make(chan struct{}, 1), make(chan struct{}, 1)
	if _, err := member.Receive(x.interest, func(d transport.Delivery) { grouped <- struct{}{}; go d.Ack() }); err != nil {
		b.Fatal(err)
	}
	if _, err := member.Receive(transport.Interest{Kind: transport.TopicMessage, Name: x.interest.Name}, func(transport.Delivery) { lived <- struct{}{} }); err != nil {
		b.Fatal(err)
	}
	var live, group []time.Duration
	for b.Loop() {
		start := time.Now()
		x.publish(1)
		<-lived
		live = append(live, time.Since(start))
		<-grouped
		group = append(group, time.Since(start))
	}
	reportPercentiles(b, group)
	slices.Sort(live)
	b.ReportMetric(float64(live[len(live)/2].Microseconds()), "live-p50-µs")
}
