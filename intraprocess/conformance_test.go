package intraprocess_test

import (
	"sync"
	"testing"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/transporttest"
)

func TestConformance(t *testing.T) {
	var buses sync.Map // of *intraprocess.Bus by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			bus, _ := buses.LoadOrStore(t, &intraprocess.Bus{History: 100})
			return bus.(*intraprocess.Bus).Attach()
		},
		Features: transporttest.Features{NoResponder: true, Ordered: true, Durable: true, Group: true, Last: true},
	})
}
