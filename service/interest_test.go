package service_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

func TestOptionsBecomeTheInterest(t *testing.T) {
	base := transport.Interest{Kind: transport.Request, Name: "/s"}
	for name, c := range map[string]struct {
		options []service.ServerOption
		want    func(*transport.Interest)
	}{
		"none":    {nil, func(*transport.Interest) {}},
		"live":    {[]service.ServerOption{service.Concurrency(3)}, func(*transport.Interest) {}},
		"durable": {[]service.ServerOption{service.Durable("d")}, func(i *transport.Interest) { i.Durable, i.InFlight = "d", service.DefaultConcurrency }},
		"group": {[]service.ServerOption{service.Concurrency(3), service.Group("g"), service.Lease(time.Minute)},
			func(i *transport.Interest) { i.Group, i.Lease, i.InFlight = "g", time.Minute, 3 }},
		"very many": {[]service.ServerOption{service.Group("g"), service.Concurrency(1 << 20)},
			func(i *transport.Interest) { i.Group, i.InFlight = "g", transport.MaxInFlight }},
	} {
		carrier, node := newScripted(t)
		newServer(t, node, "/s", c.options...)
		want := base
		c.want(&want)
		if !reflect.DeepEqual(carrier.interest, want) {
			t.Errorf("%s: the interest is %+v, want %+v", name, carrier.interest, want)
		}
	}
}

// A repetition whose answer can't be sent again is not settled: it comes another time.
func TestRepetitionCannotBeAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		s := newServer(t, node, "/s", service.Durable("d"))
		var first, again settlement
		carrier.deliver(transport.Delivery{Message: request(1), Settler: &first, Attempt: 1})
		if err := next(t, s).Respond(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		carrier.answer = unreachable
		carrier.deliver(transport.Delivery{Message: request(1), Settler: &again, Attempt: 1, Repeated: true})
		time.Sleep(time.Minute)
		if again.nacks.Load() != 1 || again.acks.Load() != 0 {
			t.Errorf("to come again %d times, acknowledged %d times", again.nacks.Load(), again.acks.Load())
		}
	})
}

// lostAck is a delivery of which it can't be put on record that it has been handled.
type lostAck struct{ settlement }

func (*lostAck) Ack() error { return errors.New("disk full") }

// The answer is out: what can't be put on record is a matter for the log.
func TestAcknowledgementFails(t *testing.T) {
	carrier, node := newScripted(t)
	s := newServer(t, node, "/s", service.Durable("d"))
	carrier.deliver(transport.Delivery{Message: request(1), Settler: new(lostAck), Attempt: 1})
	r := next(t, s)
	if err := r.Respond(context.Background(), nil); err != nil {
		t.Error(err)
	}
	if err := r.Respond(context.Background(), nil); !errors.Is(err, service.ErrAnswered) {
		t.Errorf("a second answer: %v", err)
	}
}
