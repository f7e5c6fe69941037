package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// from returns request n as it comes from a sender.
func from(sender string, n uint64) *transport.Message {
	m := request(n)
	m.From = sender
	return m
}

// early is a carrier that delivers a request twice, from two senders, and has its node closed, all before its Receive returns.
type early struct {
	transport.Carrier
	close func()
}

func (c *early) Receive(_ transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	deliver(transport.Delivery{Message: from("a@y", 1)})
	deliver(transport.Delivery{Message: from("b@y", 1)})
	go c.close()
	synctest.Wait()
	return func() {}, nil
}

// What has come to a server whose node is closed before there is one is turned away.
func TestServerThatIsClosedBeforeItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &early{Carrier: intraprocess.New()}
		node, err := transport.NewNode(c, &transport.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c.close = func() { node.Close(context.Background()) }
		if _, err := service.NewServer(node, "/s"); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// An untracked repetition is answered with the request, or counted as dropped if there are too many, from as many senders.
func TestTooManySendersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		s := newServer(t, node, "/s")
		for i := range 21 {
			carrier.deliver(transport.Delivery{Message: from(fmt.Sprintf("%d@y", i), 1)})
		}
		if err := next(t, s).Respond(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if sent, dropped := carrier.sent.Load(), s.Dropped(); sent != 17 || dropped != 4 {
			t.Errorf("%d answers, %d dropped", sent, dropped)
		}
	})
}

// lostLease is the settler of a delivery that is another's by now.
type lostLease struct{ settlement }

func (*lostLease) Lost() bool { return true }

// An untracked repetition of a request that is given back is counted as dropped.
func TestRepetitionOfALostRequestIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		s := newServer(t, node, "/s", service.Group("g"))
		var tracked settlement
		carrier.deliver(transport.Delivery{Message: from("a@y", 1), Settler: new(lostLease), Attempt: 1})
		carrier.deliver(transport.Delivery{Message: from("b@y", 1)})
		carrier.deliver(transport.Delivery{Message: from("c@y", 1), Settler: &tracked, Attempt: 1})
		if _, ok := s.TryNext(); ok {
			t.Error("got a request that is another's")
		}
		if dropped, back := s.Dropped(), tracked.nacks.Load(); dropped != 1 || back != 1 {
			t.Errorf("%d dropped, %d given back", dropped, back)
		}
	})
}
