package outbox_test

import (
	"sync"
	"testing"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
	"github.com/postbus/postbus/transport/transporttest"
)

func TestConformance(t *testing.T) {
	var buses sync.Map // of *intraprocess.Bus by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			bus, _ := buses.LoadOrStore(t, &intraprocess.Bus{History: 100})
			o, err := outbox.Open(bus.(*intraprocess.Bus).Attach(), outbox.Options{File: newFile(t), Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			return o
		},
		Features: transporttest.Features{Ordered: true, Durable: true, Group: true, Last: true},
	})
}
