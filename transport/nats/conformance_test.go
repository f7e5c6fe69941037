package nats_test

import (
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
	"github.com/postbus/postbus/transport/transporttest"
)

func TestConformance(t *testing.T) {
	var servers sync.Map // of *server.Server by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			s, ok := servers.Load(t)
			if !ok {
				s = startServer(t, func(o *server.Options) { o.MaxPayload = 2 * transport.DefaultMaxBody })
				servers.Store(t, s)
			}
			carrier, err := nats.Open(limited(t), config(s.(*server.Server)), nats.Options{Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			return carrier
		},
		Features: transporttest.Features{NoResponder: true, ListenersRespond: true, Ordered: true, Shares: true},
	})
}
