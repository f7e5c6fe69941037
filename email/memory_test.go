package email_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// A live subscription by mail that gets nothing is small, its queue and all.
func TestBytesOfAnIdleMailSubscription(t *testing.T) {
	node, err := transport.NewNode(newBench(t, mailserver.Config{}, quiet).carrier, nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("/robots/%d/position", i)
	}
	subs := make([]*pubsub.Subscription, n)
	before := heapBytes()
	for i, name := range names {
		if subs[i], err = pubsub.NewSubscription(node, name); err != nil {
			t.Fatal(err)
		}
	}
	each := (heapBytes() - before) / n
	runtime.KeepAlive(subs)
	if each > 1280 {
		t.Errorf("a subscription has %d bytes, want at most 1280", each)
	}
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
