package nats_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
	"github.com/postbus/postbus/transport/transporttest"
)

// withJetStream makes a server keep streams in a directory of the test.
func withJetStream(t testing.TB) func(*server.Options) {
	dir := t.TempDir()
	return func(o *server.Options) { o.JetStream, o.StoreDir = true, dir }
}

// kept returns the configuration of a node whose messages are kept.
func kept(s *server.Server) nats.Config {
	c := config(s)
	c.Streams = []nats.Stream{{Name: "KEPT", Names: []string{"/>"}}}
	return c
}

func TestConformanceJetStream(t *testing.T) {
	var servers sync.Map // of *server.Server by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Leftover: []string{leftover},
		Open: func(t testing.TB) transport.Carrier {
			s, ok := servers.Load(t)
			if !ok {
				s = startServer(t, withJetStream(t))
				servers.Store(t, s)
			}
			c := kept(s.(*server.Server))
			c.Objects.Bucket = "bodies"
			carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			return carrier
		},
		Features: transporttest.Features{Ordered: true, Durable: true, Group: true, Last: true},
		Timeout:  10 * time.Second,
	})
}
