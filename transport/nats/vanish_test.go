package nats_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// text is a log that is read by a test.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// count returns how often the log says something.
func (l *text) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

// openRead returns a node and its log.
func openRead(t *testing.T, c nats.Config) (*nats.Carrier, *transport.Node, *text) {
	log := &text{}
	carrier, err := nats.Open(limited(t), c, nats.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	check(t, err)
	node, err := transport.NewNode(carrier, &transport.Options{Logger: quiet})
	check(t, err)
	t.Cleanup(func() { closeNode(t, node) })
	return carrier, node, log
}

// TestMemoryIsGone: a server that keeps a stream in memory is started again. The stream is created anew, and all goes on with it.
func TestMemoryIsGone(t *testing.T) {
	t.Parallel()
	options, address := withJetStream(t), freeAddress(t)
	start := func() *server.Server {
		return startServer(t, func(o *server.Options) {
			options(o)
			fixed(address)(o)
		})
	}
	s := start()
	c := kept(s)
	c.Streams[0].Storage = "memory"
	_, node, log := openRead(t, c)
	kept, _ := receive(t, node, durable())
	shared, _ := receive(t, node, inGroup())
	last, _ := receive(t, node, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 1})
	all := []*box{kept, shared, last}
	pub := newPublisher(node)
	pub.publish(t, 3)
	var held transport.Delivery
	for _, b := range all {
		for n := range 3 {
			d := b.next()
			if b == kept && n == 0 {
				held = d
				continue
			}
			ack(t, d)
		}
	}
	stopServer(s)
	s = start()
	js := jetStream(t, s)
	pub.publish(t, 1)
	await(t, "the consumers are there again", func() bool {
		stream, err := js.Stream(limited(t), "KEPT")
		if err != nil {
			return false
		}
		n := 0
		for name := range stream.ConsumerNames(limited(t)).Name() {
			if strings.HasPrefix(name, "durable-d") || strings.HasPrefix(name, "group-g-") {
				n++
			}
		}
		return n == 2 && stream.CachedInfo().State.Consumers >= len(all)
	})
	pub.publish(t, 1)
	for _, b := range all {
		for d := b.next(); ; d = b.next() { // those of before the consumers were there again may be missed
			ack(t, d)
			if d.Message.Info.Sequence == pub.n {
				break
			}
		}
	}
	if err := held.Ack(); err == nil || !held.Lost() {
		t.Errorf("a message that has vanished was settled: %v", err)
	}
	for _, name := range []string{"KEPT", "KEPT_DEAD", "KEPT_BOOK"} {
		if n := log.count("has vanished, and what it had with it; it is created anew\" stream=" + name + "\n"); n != 1 {
			t.Errorf("the log says %d times that %s has vanished", n, name)
		}
	}
}

// TestPartsAreGone: somebody deletes the streams beside a stream, and the bucket of bodies.
func TestPartsAreGone(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Objects.Bucket = "bodies"
	carrier, node, log := openRead(t, c)
	js := jetStream(t, s)
	got, _ := receive(t, node, durable())
	in := inGroup()
	in.Lease = 10 * time.Second
	shared, _ := receive(t, node, in)
	pub := newPublisher(node)
	for _, gone := range []string{"KEPT_DEAD", "KEPT_BOOK", "OBJ_bodies"} {
		check(t, js.DeleteStream(limited(t), gone))
		m := pub.message()
		m.Body = large()
		check(t, node.Send(limited(t), m))
		got.next().Term("no")
		letters(t, carrier, int(pub.n))
		ack(t, shared.next())
		if gone == "KEPT_DEAD" {
			_, err := carrier.PurgeDeadLetters(limited(t), nil)
			check(t, err)
			pub.n = 0
			pub.gid = transport.NewGID()
		}
	}
	if n := log.count("has vanished"); n != 3 {
		t.Errorf("the log says %d times that something has vanished", n)
	}
}

// TestIsGoneUnderListener: somebody deletes a stream while a program without it has subscribed to its subjects, so that
// the server does not say that nobody takes what is published.
func TestIsGoneUnderListener(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	_, node, log := openRead(t, kept(s))
	pub := newPublisher(node)
	pub.publish(t, 1)
	listener := connect(t, s)
	_, err := listener.SubscribeSync("/.>")
	check(t, err)
	check(t, listener.Flush())
	js := jetStream(t, s)
	check(t, js.DeleteStream(limited(t), "KEPT"))
	ctx, cancel := context.WithTimeout(context.Background(), 1100*time.Millisecond)
	defer cancel()
	err = node.Send(ctx, pub.message())
	if failed, ok := errors.AsType[*transport.SendError](err); !ok || failed.Outcome != transport.Unknown {
		t.Errorf("sending to a stream that is gone: %v", err)
	}
	pub.publish(t, 1)
	stream, err := js.Stream(limited(t), "KEPT")
	check(t, err)
	if n := stream.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("the stream has %d messages", n)
	}
	if n := log.count("has vanished"); n != 1 {
		t.Errorf("the log says %d times that the stream has vanished", n)
	}
}

// TestLetterOfAnother: a stream vanishes while a message is handled, and another message has its number when it is given up. That one does
// not become a dead letter.
func TestLetterOfAnother(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	carrier, node, log := openLogging(t, kept(s), false)
	got, stop := receive(t, node, durable())
	newPublisher(node).publish(t, 1)
	d := got.next()
	stop() // so nothing is asked for any more, and nothing noticed
	check(t, jetStream(t, s).DeleteStream(limited(t), "KEPT"))
	other := openNode(t, kept(s))
	newPublisher(other).publish(t, 1)
	d.Term("guilty")
	log.await(t, "has vanished before it became a dead letter")
	letters(t, carrier, 0)
}
