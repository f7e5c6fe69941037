package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// events is a log whose messages a test waits for.
type events struct {
	slog.Handler
	messages chan string
}

func newEvents() events { return events{slog.DiscardHandler, make(chan string, 1000)} }

func (e events) Enabled(context.Context, slog.Level) bool { return true }

func (e events) Handle(_ context.Context, r slog.Record) error {
	e.messages <- r.Message
	return nil
}

// await waits for a message that contains text, and fails if another comes before.
func (e events) await(t *testing.T, text string) {
	t.Helper()
	select {
	case m := <-e.messages:
		if !strings.Contains(m, text) {
			t.Fatalf("the log says %q, want %q", m, text)
		}
	case <-time.After(timeout):
		t.Fatalf("the log does not say %q", text)
	}
}

// fixed lets a server have the address of one that has been stopped, or will be started.
func fixed(address string) func(*server.Options) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	return func(o *server.Options) {
		if err == nil {
			o.Port = tcp.Port
		}
	}
}

// freeAddress returns one at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, l.Close())
	return l.Addr().String()
}

// openLogging opens a node with a log.
func openLogging(t *testing.T, c nats.Config, offline bool) (*nats.Carrier, *transport.Node, events) {
	t.Helper()
	log := newEvents()
	carrier, err := nats.Open(limited(t), c, nats.Options{Logger: slog.New(log), Offline: offline})
	check(t, err)
	node, err := transport.NewNode(carrier, &transport.Options{Logger: quiet})
	check(t, err)
	t.Cleanup(func() { closeNode(t, node) })
	return carrier, node, log
}

// isTemporary sends two messages without a connection.
func isTemporary(t *testing.T, c *nats.Carrier) {
	t.Helper()
	gid := transport.NewGID()
	var msgs []*transport.Message
	for i := range uint64(2) {
		msgs = append(msgs, &transport.Message{Kind: transport.TopicMessage, Name: "t", ID: transport.NewID(gid, i+1, "x")})
	}
	err := c.Send(limited(t), msgs...)
	failed, ok := errors.AsType[*transport.SendError](err)
	if !ok || failed.Outcome != transport.Temporary || !failed.NextHop || failed.Taken != 0 || failed.Name != "t" {
		t.Errorf("send without a connection: %v", err)
	}
}

func TestReconnect(t *testing.T) {
	s := startServer(t, nil)
	address := s.Addr().String()
	carrier, node, log := openLogging(t, config(s), false)
	sub, err := pubsub.NewSubscription(node, "t")
	check(t, err)
	worker, err := pubsub.NewSubscription(node, "t", pubsub.Group("g"))
	check(t, err)
	pub, err := pubsub.NewPublisher(node, "t")
	check(t, err)
	serve(t, node, "u1.echo")
	client, err := service.NewClient(node, "u1.echo")
	check(t, err)
	exchange := func(body string) {
		t.Helper()
		check(t, pub.Publish(limited(t), []byte(body)))
		for _, s := range []*pubsub.Subscription{sub, worker} {
			m, err := s.Next(limited(t))
			check(t, err)
			if string(m.Body) != body {
				t.Errorf("got %q, want %q", m.Body, body)
			}
		}
		_, err := client.Call(limited(t), []byte(body))
		check(t, err)
	}
	exchange("before")
	for i := range 2 {
		stopServer(s)
		log.await(t, "no connection")
		isTemporary(t, carrier)
		published := make(chan error, 1)
		go func() { published <- pub.Publish(limited(t), []byte("meanwhile")) }() // the node tries again
		late, err := pubsub.NewSubscription(node, fmt.Sprint("late.", i))
		check(t, err)
		s = startServer(t, fixed(address))
		log.await(t, "connected again")
		check(t, <-published)
		for _, s := range []*pubsub.Subscription{sub, worker} {
			m, err := s.Next(limited(t))
			check(t, err)
			if string(m.Body) != "meanwhile" {
				t.Errorf("got %q", m.Body)
			}
		}
		exchange("after")
		check(t, connect(t, s).Publish(late.Name(), []byte("x")))
		_, err = late.Next(limited(t))
		check(t, err)
	}
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
}

func TestOffline(t *testing.T) {
	address := freeAddress(t)
	c := nats.Config{Servers: []string{"nats://" + address}}
	if _, err := nats.Open(limited(t), c, nats.Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("open without a server: %v", err)
	}
	carrier, node, log := openLogging(t, c, true)
	log.await(t, "no connection")
	isTemporary(t, carrier)
	serve(t, node, "u1.echo")
	startServer(t, fixed(address))
	log.await(t, "connected again")
	callEcho(t, node)
}

// TestCloseWithoutConnection closes a node whose server is gone.
func TestCloseWithoutConnection(t *testing.T) {
	s := startServer(t, nil)
	_, node, log := openLogging(t, config(s), false)
	serve(t, node, "u1.echo")
	stopServer(s)
	log.await(t, "no connection")
	check(t, node.Close(limited(t)))
}

// TestOpenGivesUpWithContext connects to what does not speak NATS.
func TestOpenGivesUpWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close() // which ends the attempt
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = nats.Open(ctx, nats.Config{Servers: []string{"nats://" + l.Addr().String()}}, nats.Options{Logger: quiet})
	if !errors.Is(err, transport.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got the error %v", err)
	}
}

// The connection that Open did not wait for comes up after all: it is closed without a word.
func TestConnectionAfterOpen(t *testing.T) {
	s := startServer(t, nil)
	p, c := through(t, s)
	c.Streams = nil
	p.Set(proxy.ToClient, proxy.Rule{Hold: true})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	log := newEvents()
	if _, err := nats.Open(ctx, c, nats.Options{Logger: slog.New(log)}); !errors.Is(err, transport.ErrTimeout) {
		t.Errorf("got the error %v", err)
	}
	p.Heal()
	await(t, "the connection has come and gone", func() bool {
		v, err := s.Varz(nil)
		return err == nil && v.TotalConnections > 0 && s.NumClients() == 0
	})
	if len(log.messages) > 0 {
		t.Errorf("the log says %q", <-log.messages)
	}
}

// TestTooSlow lets more messages come than are kept for a process that does not take them.
func TestTooSlow(t *testing.T) {
	s := startServer(t, nil)
	carrier, _, log := openLogging(t, config(s), false)
	resume := make(chan struct{})
	delivered := make(chan string, 1<<18)
	_, err := carrier.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "t"}, func(d transport.Delivery) {
		<-resume
		delivered <- string(d.Message.Body)
	})
	check(t, err)
	plain := connect(t, s)
	const n = 1<<16 + 5000
	for range n {
		check(t, plain.Publish("t", []byte("x")))
	}
	log.await(t, "messages are dropped")
	close(resume)
	log.await(t, "messages are taken again")
	check(t, plain.Publish("t", []byte("last")))
	taken := uint64(0)
	for body := range delivered {
		if body == "last" {
			break
		}
		taken++
	}
	if dropped := carrier.Dropped(); dropped == 0 || dropped+taken != n {
		t.Errorf("%d messages were dropped and %d taken of %d", dropped, taken, n)
	}
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
}

// Answers that come faster than the process takes them are counted and logged like other messages.
func TestTooSlowForAnswers(t *testing.T) {
	s := startServer(t, nil)
	carrier, node, log := openLogging(t, config(s), false)
	resume := make(chan struct{})
	client := transport.NewGID()
	taken := make(chan struct{}, 1<<18)
	_, err := carrier.Receive(transport.Interest{Kind: transport.Response, Name: "x", Client: client}, func(transport.Delivery) {
		<-resume
		taken <- struct{}{}
	})
	check(t, err)
	roundTrip(t, node)
	plain := connect(t, s)
	const n = 1<<16 + 5000
	for range n {
		check(t, plain.Publish(carrier.Address()+"."+client.String()+".1", []byte("x")))
	}
	log.await(t, "answers are dropped")
	close(resume)
	log.await(t, "answers are taken again")
	if carrier.Dropped() == 0 || uint64(len(taken))+carrier.Dropped() > n {
		t.Errorf("%d answers were dropped and %d taken of %d", carrier.Dropped(), len(taken), n)
	}
}

// What a server says of each message is logged once for a connection.
func TestComplaintsAreLoggedOnce(t *testing.T) {
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"secret.>"}}}}}
	})
	c := config(s)
	c.User, c.Password = "u", "p"
	_, node, log := openLogging(t, c, false)
	for _, name := range []string{"secret.x", "secret.y"} {
		pub, err := pubsub.NewPublisher(node, name)
		check(t, err)
		for range 100 {
			check(t, pub.Publish(limited(t), nil))
		}
	}
	roundTrip(t, node)
	log.await(t, "complains")
	log.await(t, "complains")
	check(t, node.Close(limited(t)))
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
}

func TestTooLarge(t *testing.T) {
	s := startServer(t, func(o *server.Options) { o.MaxPayload = 4096 })
	node := openNode(t, config(s))
	pub, err := pubsub.NewPublisher(node, "t")
	check(t, err)
	check(t, pub.Publish(limited(t), make([]byte, 3072)))
	err = pub.Publish(limited(t), make([]byte, 4096))
	failed, ok := errors.AsType[*transport.SendError](err)
	if !ok || failed.Outcome != transport.Permanent || !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "4096") {
		t.Errorf("got the error %v", err)
	}
	// An answer that is too large is an error for the caller, who waits.
	server, err := service.NewServer(node, "large")
	check(t, err)
	check(t, server.Handle(func(context.Context, *transport.Message) ([]byte, error) { return make([]byte, 4096), nil }))
	client, err := service.NewClient(node, "large")
	check(t, err)
	if _, err := client.Call(limited(t), nil); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("call: %v", err)
	}
}

// TestCloseWhileAnswerIsRead closes a node whose network stalls in the middle of an answer with a large body.
func TestCloseWhileAnswerIsRead(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	c.Streams, c.Objects.Bucket = nil, "bodies"
	carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
	check(t, err)
	node, err := transport.NewNode(carrier, &transport.Options{Logger: quiet})
	check(t, err)
	direct := config(s)
	direct.Objects.Bucket = "bodies"
	server, err := service.NewServer(openNode(t, direct), "/large")
	check(t, err)
	check(t, server.Handle(func(context.Context, *transport.Message) ([]byte, error) { return large(), nil }))
	client, err := service.NewClient(node, "/large")
	check(t, err)
	p.HoldAfter(proxy.ToClient, 300<<10)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := client.Call(ctx, nil); !errors.Is(err, transport.ErrTimeout) {
		t.Errorf("call: %v", err)
	}
	const most = 6 * time.Second // much less than a body may take, and enough for a busy machine
	began := time.Now()
	ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = node.Close(ctx) // it may say that not all was sent
	if took := time.Since(began); took > most {
		t.Errorf("Close took %v", took)
	}
}
