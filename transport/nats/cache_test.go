package nats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// caching returns the configuration of a node whose results are shared.
func caching(c nats.Config) nats.Config {
	c.Cache.Bucket = "results"
	return c
}

// watchBucket returns the changes of the bucket from now on.
func watchBucket(t *testing.T, s *server.Server) <-chan jetstream.KeyValueEntry {
	t.Helper()
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.KeyValue(limited(t), "results")
	if err != nil {
		t.Fatal(err)
	}
	changes, err := bucket.WatchAll(limited(t), jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { changes.Stop() })
	return changes.Updates()
}

func TestCacheKeepsValuesForAWhile(t *testing.T) {
	s := startServer(t, withJetStream(t))
	cache := open(t, caching(config(s))).Cache()
	other := open(t, caching(config(s))).Cache()
	ctx := limited(t)
	if value, err := other.Get(ctx, "key"); err != nil || value != nil {
		t.Fatalf("before: %q, %v", value, err)
	}
	changes := watchBucket(t, s)
	const key = "aZ09_-"
	for _, value := range []string{"first", "second"} {
		if err := cache.Put(ctx, key, []byte(value), time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if got, err := other.Get(ctx, key); err != nil || string(got) != value {
			t.Fatalf("got %q, %v, want %q", got, err, value)
		}
	}
	for e := range changes {
		if e.Key() == key && e.Operation() != jetstream.KeyValuePut {
			break // the server has dropped it
		}
	}
	if value, err := other.Get(ctx, key); err != nil || value != nil {
		t.Errorf("afterwards: %q, %v", value, err)
	}
	if err := cache.Put(ctx, key, []byte("third"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Get(ctx, key); err != nil || string(got) != "third" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := startServer(t, withJetStream(t))
	c := caching(config(s))
	c.Cache.MaxBytes = 10_000
	cache := open(t, c).Cache()
	ctx := limited(t)
	for _, value := range [][]byte{make([]byte, 2<<20), make([]byte, 20_000)} { // more than a message may have, and more than the bucket
		if err := cache.Put(ctx, "large", value, time.Hour); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("%d bytes: %v", len(value), err)
		}
	}
	body := bytes.Repeat([]byte("x"), 4000)
	var err error
	for i := 0; err == nil; i++ {
		if err = cache.Put(ctx, fmt.Sprint(i), body, time.Hour); err == nil && i == 3 {
			t.Fatal("there is room for more than the limit")
		}
	}
	if !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("when it is full: %v", err)
	}
	if value, err := cache.Get(ctx, "0"); err != nil || !bytes.Equal(value, body) {
		t.Errorf("%d bytes, %v", len(value), err)
	}
}

// The bucket is created anew when somebody has deleted it, or its server kept it in memory.
func TestCacheThatIsGone(t *testing.T) {
	s := startServer(t, withJetStream(t))
	c := caching(config(s))
	c.Cache.Storage = "memory"
	cache := open(t, c).Cache()
	ctx := limited(t)
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, access := range []func() error{
		func() error { return cache.Put(ctx, "key", []byte("value"), time.Hour) },
		func() error { _, err := cache.Get(ctx, "key"); return err },
	} {
		if err := js.DeleteKeyValue(ctx, "results"); err != nil {
			t.Fatal(err)
		}
		if err := access(); err == nil || !strings.Contains(err.Error(), "bucket results") {
			t.Errorf("without it: %v", err)
		}
		if err := access(); err != nil {
			t.Errorf("after that: %v", err)
		}
	}
}

func TestCacheThatIsNotAsItShouldBe(t *testing.T) {
	s := startServer(t, withJetStream(t))
	open(t, caching(config(s)))
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(limited(t), jetstream.KeyValueConfig{Bucket: "plain", MaxBytes: nats.DefaultCacheBytes}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cache nats.Cache
		want  string
	}{
		{nats.Cache{Bucket: "results", Storage: "memory"}, "bucket results: storage: the server has File, and it has to be Memory"},
		{nats.Cache{Bucket: "results", MaxBytes: 5}, "bucket results: max-bytes: the server has 268435456, and it has to be 5"},
		{nats.Cache{Bucket: "plain"}, "bucket plain: values with an age of their own (limit marker): the server has false"},
		{nats.Cache{Bucket: "a b"}, `configuration: cache: bucket: "a b" is not allowed`},
		{nats.Cache{MaxBytes: 5}, "configuration: cache: bucket: there is no name"},
		{nats.Cache{Bucket: "b", MaxBytes: -5}, "configuration: cache: max-bytes"},
		{nats.Cache{Bucket: "b", Storage: "disk"}, `configuration: cache: storage: "disk"`},
		{nats.Cache{Bucket: "b", Replicas: 6}, "configuration: cache: replicas: 6"},
	} {
		c := config(s)
		c.Cache = test.cache
		if carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, %v, want %q", test.cache, carrier, err, test.want)
		}
	}
	without := startServer(t, nil)
	if _, err := nats.Open(limited(t), caching(config(without)), nats.Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), "bucket results: the server has no JetStream") {
		t.Errorf("without JetStream: %v", err)
	}
	if open(t, config(s)).Cache() != nil {
		t.Error("there is a cache that the configuration does not know")
	}
}

// Two servers of a service, in nodes of their own, share what a handler has returned.
func TestServersShareResults(t *testing.T) {
	s := startServer(t, withJetStream(t))
	var runs [2]atomic.Int64
	var clients [2]*service.Client
	for i := range runs {
		node, err := transport.NewNode(open(t, caching(config(s))), &transport.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { node.Close(context.Background()) })
		server, err := service.NewServer(node, "lookup", service.Group("all"), service.Cache(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		err = server.Handle(func(_ context.Context, m *transport.Message) ([]byte, error) {
			return fmt.Appendf(nil, "%d: %s", runs[i].Add(1), m.Body), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if clients[i], err = service.NewClient(node, "lookup"); err != nil {
			t.Fatal(err)
		}
	}
	shared := watchBucket(t, s)
	for n := range 40 { // whichever member of the group gets it
		answer, err := clients[n%2].Call(limited(t), []byte("q"))
		if err != nil || string(answer.Body) != "1: q" {
			t.Fatalf("call %d: %v, %v", n, answer, err)
		}
		if n == 0 {
			<-shared
		}
	}
	if a, b := runs[0].Load(), runs[1].Load(); a+b != 1 {
		t.Errorf("the handlers have run %d and %d times", a, b)
	}
}
