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
	for _, mode := range []struct {
		name   string
		listen bool
		config nats.Config
	}{
		{"TCP", true, nats.Config{}},
		{"in process, inboxes elsewhere", false, nats.Config{InboxPrefix: "answers.robot"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			var servers sync.Map // of *server.Server by testing.TB
			transporttest.Run(t, transporttest.Harness{
				Leftover: []string{leftover},
				Open: func(t testing.TB) transport.Carrier {
					found, ok := servers.Load(t)
					if !ok {
						found = startServer(t, func(o *server.Options) { o.MaxPayload, o.DontListen = 2*transport.DefaultMaxBody, !mode.listen })
						servers.Store(t, found)
					}
					s, c, o := found.(*server.Server), mode.config, nats.Options{Logger: quiet}
					if mode.listen {
						c.Servers = config(s).Servers
					} else {
						o.InProcess = s
					}
					carrier, err := nats.Open(limited(t), c, o)
					if err != nil {
						t.Fatal(err)
					}
					return carrier
				},
				Features: transporttest.Features{NoResponder: true, ListenersRespond: true, Ordered: true, Shares: true},
			})
		})
	}
}
