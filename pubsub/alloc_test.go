//go:build !race

package pubsub_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
)

// A message in the process costs two allocations: itself, and the copy of its body. (Not with the race detector,
// under which pools forget at random.)
func TestAllocationsOfAMessage(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	pub := newPublisher(t, node, "/t")
	sub := newSubscription(t, node, "/t")
	body := make([]byte, payload)
	ctx := t.Context()
	allocations := testing.AllocsPerRun(1000, func() {
		if err := pub.Publish(ctx, body); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.Next(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 2 {
		t.Errorf("%v allocations, want at most 2", allocations)
	}
}

// A subscription that gets nothing is small.
func TestBytesOfAnIdleSubscription(t *testing.T) {
	for _, test := range []struct {
		what string
		name func(i int) string
	}{
		{"one topic", func(int) string { return "/robots/position" }},
		{"a topic each", numberedName("/robots/%d/position")},
		{"a pattern each", numberedName("/robots/%d/*")},
	} {
		t.Run(test.what, func(t *testing.T) {
			node := newNode(t, intraprocess.NewBus())
			const n = 10_000
			names := make([]string, n)
			for i := range names {
				names[i] = test.name(i)
			}
			subs := make([]*pubsub.Subscription, n)
			before := heapBytes()
			for i, name := range names {
				subs[i] = newSubscription(t, node, name)
			}
			each := (heapBytes() - before) / n
			runtime.KeepAlive(subs)
			if each > 1<<10 {
				t.Errorf("a subscription has %d bytes, want at most 1024", each)
			}
		})
	}
}

// numberedName returns a function that puts numbers into a name.
func numberedName(format string) func(int) string {
	return func(i int) string { return fmt.Sprintf(format, i) }
}

// heapBytes returns how many bytes of the heap are in use.
func heapBytes() int64 {
	for range 2 { // what pools keep survives the first
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
