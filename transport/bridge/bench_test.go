package bridge_test

import (
	"testing"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
)

// BenchmarkTopic is the way of a message across a bridge in process, one at a time.
func BenchmarkTopic(b *testing.B) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	join(b, "a", busA, "b", busB, "topics -> /x")
	sub, pub := subscribe(b, newNode(b, busB), "/x", pubsub.KeepAll()), publisher(b, newNode(b, busA), "/x")
	b.ReportAllocs()
	for b.Loop() {
		publish(b, pub, "a message")
		next(b, sub)
	}
}

// BenchmarkCall is a call across a bridge in process, one at a time.
func BenchmarkCall(b *testing.B) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	join(b, "a", busA, "b", busB, "services -> /x")
	serve(b, newNode(b, busB), "/x", echo)
	client := newClient(b, newNode(b, busA), "/x")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Call(b.Context(), []byte("a request")); err != nil {
			b.Fatal(err)
		}
	}
}
