package intraprocess_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topic = transport.Interest{Kind: transport.TopicMessage, Name: "/t"}

func receive(t *testing.T, c *intraprocess.Carrier, in transport.Interest, deliver func(*transport.Message)) (stop func()) {
	t.Helper()
	stop, err := c.Receive(in, func(d transport.Delivery) { deliver(d.Message) })
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

func send(t *testing.T, c *intraprocess.Carrier, m *transport.Message) {
	t.Helper()
	if err := c.Send(t.Context(), m); err != nil {
		t.Error(err)
	}
}

func closeCarrier(t *testing.T, c *intraprocess.Carrier) {
	t.Helper()
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	var bus intraprocess.Bus // the zero value is ready
	for _, want := range []string{"1@intraprocess", "2@intraprocess", "3@intraprocess"} {
		if got := bus.Attach().Address(); got != want {
			t.Errorf("the address is %q, want %q", got, want)
		}
	}
}

func TestBusesAreApart(t *testing.T) {
	a, b := intraprocess.New(), intraprocess.New()
	receive(t, a, topic, func(*transport.Message) { t.Error("a message came from another bus") })
	send(t, b, &transport.Message{Kind: transport.TopicMessage, Name: "/t"})
	closeCarrier(t, a)
	closeCarrier(t, b)
}

// The body is copied once, whoever gets it, and an empty one needs no memory.
func TestBodyIsCopiedOnce(t *testing.T) {
	c := intraprocess.New()
	var got [3][]byte
	for i := range got {
		receive(t, c, topic, func(m *transport.Message) { got[i] = m.Body })
	}
	body := []byte("hello")
	send(t, c, &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: body})
	for i := range got {
		if &got[i][0] == &body[0] {
			t.Error("a receiver got the sender's own body")
		}
		if &got[i][0] != &got[0][0] {
			t.Error("the receivers got different copies")
		}
		if !bytes.Equal(got[i], body) {
			t.Errorf("a receiver got %q, want %q", got[i], body)
		}
	}
	for _, empty := range [][]byte{nil, {}} {
		send(t, c, &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: empty})
		if len(got[0]) != 0 {
			t.Errorf("an empty body arrived as %q", got[0])
		}
	}
	closeCarrier(t, c)
}

// Recipients belong to other carriers: they make no difference here.
func TestRecipientsAreIgnored(t *testing.T) {
	bus := intraprocess.NewBus()
	a, b := bus.Attach(), bus.Attach()
	n := 0
	receive(t, b, topic, func(*transport.Message) { n++ })
	send(t, a, &transport.Message{Kind: transport.TopicMessage, Name: "/t", To: []string{"robot@example.com"}})
	if n != 1 {
		t.Errorf("%d messages arrived, want 1", n)
	}
	closeCarrier(t, a)
	closeCarrier(t, b)
}

func TestRequestGoesToEveryServer(t *testing.T) {
	bus := intraprocess.NewBus()
	a, b := bus.Attach(), bus.Attach()
	n := 0
	for _, c := range []*intraprocess.Carrier{a, b} {
		receive(t, c, transport.Interest{Kind: transport.Request, Name: "/add"}, func(m *transport.Message) {
			n++
			if m.ReplyTo != a.Address() {
				t.Errorf("ReplyTo is %q, want %q", m.ReplyTo, a.Address())
			}
		})
	}
	send(t, a, &transport.Message{Kind: transport.Request, Name: "/add"})
	if n != 2 {
		t.Errorf("%d servers got the request, want 2", n)
	}
	closeCarrier(t, a)
	closeCarrier(t, b)
}

// Of several messages those before the one that fails are delivered, those after it
// are not.
func TestSendStopsAtFailure(t *testing.T) {
	c := intraprocess.New()
	n := 0
	receive(t, c, topic, func(*transport.Message) { n++ })
	err := c.Send(t.Context(),
		&transport.Message{Kind: transport.TopicMessage, Name: "/t"},
		&transport.Message{Kind: transport.Request, Name: "/nobody"},
		&transport.Message{Kind: transport.TopicMessage, Name: "/t"})
	var sendErr *transport.SendError
	if !errors.As(err, &sendErr) || sendErr.Name != "/nobody" || sendErr.Outcome != transport.Permanent || !errors.Is(err, transport.ErrNoResponder) {
		t.Errorf("Send: %#v, want that /nobody has no responder, permanent", err)
	}
	if n != 1 {
		t.Errorf("%d topic messages were delivered, want 1", n)
	}
	closeCarrier(t, c)
}

func TestAfterClose(t *testing.T) {
	c := intraprocess.New()
	stop := receive(t, c, topic, func(*transport.Message) {})
	closeCarrier(t, c)
	stop() // is harmless
	var sendErr *transport.SendError
	err := c.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/t"})
	if !errors.Is(err, transport.ErrClosed) || !errors.As(err, &sendErr) || sendErr.Outcome != transport.Permanent {
		t.Errorf("Send: %v, want ErrClosed, permanent", err)
	}
	if _, err := c.Receive(topic, func(transport.Delivery) {}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Receive: %v, want ErrClosed", err)
	}
}

// A message that is on its way round the bus does not reach a participant that has
// closed meanwhile.
func TestNoDeliveryAfterClose(t *testing.T) {
	bus := intraprocess.NewBus()
	first, second := bus.Attach(), bus.Attach()
	n := 0
	receive(t, first, topic, func(*transport.Message) {
		n++
		closed := make(chan struct{})
		go func() { defer close(closed); closeCarrier(t, second) }()
		<-closed
	})
	receive(t, second, topic, func(*transport.Message) { t.Error("a message came after Close") })
	send(t, first, &transport.Message{Kind: transport.TopicMessage, Name: "/t"})
	if n != 1 {
		t.Errorf("%d messages reached the first, want 1", n)
	}
	closeCarrier(t, first)
}

// Close waits for every delivery under way, also of an interest that was stopped
// before.
func TestCloseWaitsForAllDeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		a, b := bus.Attach(), bus.Attach()
		resume := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		var stops []func()
		for i, name := range []string{"/0", "/1", "/2"} {
			stops = append(stops, receive(t, b, transport.Interest{Kind: transport.TopicMessage, Name: name},
				func(*transport.Message) { <-resume[i] }))
			go send(t, a, &transport.Message{Kind: transport.TopicMessage, Name: name})
		}
		synctest.Wait()
		stops[0]() // does not wait
		stops[0]()
		closed := make(chan error, 1)
		go func() { closed <- b.Close(t.Context()) }()
		for i := range resume {
			synctest.Wait()
			if len(closed) > 0 {
				t.Fatalf("Close returned during %d deliveries: %v", len(resume)-i, <-closed)
			}
			close(resume[i])
		}
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		closeCarrier(t, a)
	})
}

func TestCloseGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := intraprocess.New()
		resume := make(chan struct{})
		receive(t, c, topic, func(*transport.Message) { <-resume })
		go send(t, c, &transport.Message{Kind: transport.TopicMessage, Name: "/t"})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close past its deadline: %v", err)
		}
		closeCarrier(t, c) // does nothing, and does not wait
		close(resume)
	})
}

// When nothing is under way Close has nothing to give up.
func TestCloseWithEndedContext(t *testing.T) {
	c := intraprocess.New()
	receive(t, c, topic, func(*transport.Message) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}
