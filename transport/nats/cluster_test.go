package nats_test

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// startCluster starts three servers that keep what they are told together, until the test ends.
func startCluster(t testing.TB) []*server.Server {
	servers, _ := startParted(t)
	return servers
}

// startParted is startCluster. part parts a server from the others, or has it come back.
func startParted(t testing.TB) (servers []*server.Server, part func(i int, away bool)) {
	t.Helper()
	const size = 3
	var addresses [size]string
	for i := range addresses { // they have to know each other from the beginning
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		addresses[i] = l.Addr().String()
		check(t, l.Close())
	}
	var between [size][]*proxy.Proxy // by server
	for i, address := range addresses {
		options := withJetStream(t)
		servers = append(servers, startServer(t, func(o *server.Options) {
			options(o)
			o.ServerName = fmt.Sprintf("s%d", i+1)
			// No server finds another but by its routes.
			o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Advertise: "127.0.0.1:1", ConnectRetries: 1000}
			fmt.Sscan(address[strings.LastIndexByte(address, ':')+1:], &o.Cluster.Port)
			for j := range size {
				if j == i {
					continue
				}
				p, err := proxy.Listen(addresses[j])
				check(t, err)
				t.Cleanup(func() { p.Close() })
				between[i], between[j] = append(between[i], p), append(between[j], p)
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: p.Addr()})
			}
		}))
	}
	part = func(i int, away bool) {
		for _, p := range between[i] {
			p.Refuse(away)
			if away {
				p.Cut()
			}
		}
	}
	await(t, "the servers find a leader", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() {
				return len(s.JetStreamClusterPeers()) == size
			}
		}
		return false
	})
	return servers, part
}

// await waits for something that nobody tells.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, timeout)
		}
	}
}

// Of three servers the one that leads the stream is stopped. Nothing is lost, handled twice or out of order.
func TestClusterWithoutOneServer(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	c := nats.Config{Streams: []nats.Stream{{Name: "KEPT", Names: []string{"/>"}, Replicas: 3}}}
	for _, s := range servers {
		c.Servers = append(c.Servers, s.ClientURL())
	}
	pub, sub := newPublisher(openNode(t, c)), openNode(t, c)
	got, _ := receive(t, sub, durable())
	in := inGroup()
	in.Lease = 5 * time.Second // longer than an election takes
	shared, _ := receive(t, sub, in)

	const n = 400
	var publishing sync.WaitGroup
	publishing.Go(func() { pub.publish(t, n) })
	defer publishing.Wait()
	seen := make(map[uint64]bool)
	for want := uint64(1); want <= n; want++ {
		if want == n/4 {
			stopServer(leader(t, servers))
		}
		d := got.next()
		if seq := d.Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came to the durable interest in attempt %d, want %d", seq, d.Attempt, want)
		}
		ack(t, d)
		d = shared.next()
		if seq := d.Message.Info.Sequence; seen[seq] {
			t.Errorf("message %d came to the group twice", seq)
		} else {
			seen[seq] = true
		}
		ack(t, d)
	}
	got.empty(50 * time.Millisecond)
	shared.empty(50 * time.Millisecond)
}

func ack(t testing.TB, d transport.Delivery) {
	t.Helper()
	if err := d.Ack(); err != nil {
		t.Errorf("ack message %d: %v", d.Message.Info.Sequence, err)
	}
}

// leader returns the server that leads the stream.
func leader(t testing.TB, servers []*server.Server) *server.Server {
	t.Helper()
	js, err := jetstream.New(connect(t, servers[0]))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(limited(t), "KEPT")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s.Name() == stream.CachedInfo().Cluster.Leader {
			return s
		}
	}
	t.Fatal("the stream has no leader")
	return nil
}
