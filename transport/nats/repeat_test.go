package nats_test

import (
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
)

func servers() transport.Interest {
	return transport.Interest{Kind: transport.Request, Name: "/t", Group: "g", Lease: transport.MinLease, InFlight: 1}
}

func request(client transport.GID, n uint64) *transport.Message {
	return &transport.Message{
		Kind: transport.Request, Name: "/t", ID: transport.NewID(client, n, "test"),
		Info: transport.Info{ClientGID: client, Sequence: n, RequestSequence: n},
	}
}

// TestRepeatedRequestComesAnywhere: a request that a member has given back is handled by another one. When its client sends it again, it
// may come to the first.
func TestRepeatedRequestComesAnywhere(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	client, first := openNode(t, kept(s)), openNode(t, kept(s))
	gid := transport.NewGID()
	got, stop := receive(t, first, servers())
	check(t, client.Send(limited(t), request(gid, 1)))
	got.next().Nack(0, "busy")
	stop()
	other, stop := receive(t, openNode(t, kept(s)), servers())
	ack(t, other.next())
	stop()
	got, _ = receive(t, first, servers())
	check(t, client.Send(limited(t), request(gid, 1)))
	ack(t, got.next())
}

// TestRequestIsStoredOnce: the word that a request has been taken is lost, so it is sent again, and no second member gets it.
func TestRequestIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	client := openNode(t, c)
	first, _ := receive(t, openNode(t, kept(s)), servers())
	second, _ := receive(t, openNode(t, kept(s)), servers())
	conn := connect(t, s)
	var seen atomic.Int32
	_, err := conn.Subscribe("/.t", func(*natsgo.Msg) {
		if seen.Add(1) == 1 {
			p.Cut()
		}
	})
	check(t, err)
	check(t, conn.Flush())
	p.Set(proxy.ToClient, proxy.Rule{Delay: 200 * time.Millisecond})
	check(t, client.Send(limited(t), request(transport.NewGID(), 1)))
	if n := seen.Load(); n < 2 {
		t.Fatalf("the request was sent %d times", n)
	}
	held, idle := first, second
	select {
	case d := <-first.all:
		first.all <- d
	case d := <-second.all:
		second.all <- d
		held, idle = second, first
	case <-time.After(timeout):
		t.Fatal("the request does not come")
	}
	held.next()
	idle.empty(300 * time.Millisecond)
}

// TestForeignResponder: a program without postbus answers whatever has a reply subject. That is not the word of a stream.
func TestForeignResponder(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	carrier := open(t, kept(s))
	conn := connect(t, s)
	for _, answer := range []string{"", "pong", `{}`, `{"stream":"OTHER"}`, `{"error":{"code":400}}`} {
		_, err := conn.Subscribe("/.t", func(m *natsgo.Msg) { _ = m.Respond([]byte(answer)) })
		check(t, err)
	}
	check(t, conn.Flush())
	gid := transport.NewGID()
	for n := range uint64(20) {
		check(t, carrier.Send(limited(t), request(gid, n+1)))
	}
	stream, err := jetStream(t, s).Stream(limited(t), "KEPT")
	check(t, err)
	if n := stream.CachedInfo().State.Msgs; n != 20 {
		t.Errorf("the stream has %d messages, want 20", n)
	}
}
