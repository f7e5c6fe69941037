package pubsub_test

import (
	"context"
	"errors"
	"testing"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport/codec"
)

type pose struct{ X, Y float64 }

func TestTyped(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	pub, err := pubsub.NewTypedPublisher(node, "/pose", codec.JSON[pose]())
	if err != nil {
		t.Fatal(err)
	}
	sub, err := pubsub.NewTypedSubscription(node, "/pose", codec.JSON[pose]())
	if err != nil {
		t.Fatal(err)
	}
	want := pose{1, 2.5}
	if err := pub.Publish(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := sub.Next(t.Context())
	if err != nil || got.Value != want {
		t.Errorf("got %v, %v", got.Value, err)
	}
	if got.Message.ContentType != "application/json" {
		t.Errorf("content type %q", got.Message.ContentType)
	}

	// What can't be decoded is told apart, and does not stop what is behind it.
	raw := newPublisher(t, node, "/pose")
	if err := raw.Publish(t.Context(), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := sub.TryNext(); !ok || !errors.Is(err, codec.ErrDecode) || string(got.Message.Body) != "{" {
		t.Errorf("got %v, %v, %v", got, ok, err)
	}
	if got, ok, err := sub.TryNext(); !ok || err != nil || got.Value != want {
		t.Errorf("got %v, %v, %v", got, ok, err)
	}
	if _, ok, err := sub.TryNext(); ok || err != nil {
		t.Errorf("empty subscription: %v, %v", ok, err)
	}
}

func TestTypedPublishRefusesWhatItCannotEncode(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	pub, err := pubsub.NewTypedPublisher(node, "/text", codec.Text())
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(t.Context(), "\xff"); err == nil {
		t.Error("text that is not UTF-8 was published")
	}
}

func TestTypedAllAndHandle(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	pub := newPublisher(t, node, "/pose")
	iterated, err := pubsub.NewTypedSubscription(node, "/pose", codec.JSON[int]())
	if err != nil {
		t.Fatal(err)
	}
	handled, err := pubsub.NewTypedSubscription(node, "/pose", codec.JSON[int]())
	if err != nil {
		t.Fatal(err)
	}
	values := make(chan int, 2)
	err = handled.Handle(func(_ context.Context, v pubsub.Typed[int]) error {
		values <- v.Value
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"1", "oops", "3"} {
		if err := pub.Publish(t.Context(), []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := <-values, <-values; a != 1 || b != 3 {
		t.Errorf("handled %d and %d", a, b)
	}
	sum, failed := 0, 0
	for v, err := range iterated.All(t.Context()) {
		if err != nil {
			failed++
			continue
		}
		if sum += v.Value; sum == 4 {
			break
		}
	}
	if failed != 1 {
		t.Errorf("%d messages could not be decoded, want 1", failed)
	}
}
