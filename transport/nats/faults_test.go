package nats_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// box is the upper end of an interest: it keeps what is delivered.
type box struct {
	t   testing.TB
	all chan transport.Delivery
}

func newBox(t testing.TB) *box { return &box{t, make(chan transport.Delivery, 1<<16)} }

func (b *box) Deliver(d transport.Delivery) { b.all <- d }

func (b *box) Drain(context.Context) error { return nil }

// next waits for a delivery.
func (b *box) next() transport.Delivery {
	b.t.Helper()
	select {
	case d := <-b.all:
		return d
	case <-time.After(timeout):
		b.t.Fatalf("nothing came within %v", timeout)
		panic("unreachable")
	}
}

// empty checks that nothing comes for a while.
func (b *box) empty(d time.Duration) {
	b.t.Helper()
	select {
	case d := <-b.all:
		b.t.Errorf("message %d came in attempt %d, when none should", d.Message.Info.Sequence, d.Attempt)
	case <-time.After(d):
	}
}

// receive states an interest until the test ends.
func receive(t testing.TB, node *transport.Node, in transport.Interest) (*box, func()) {
	t.Helper()
	b := newBox(t)
	stop, err := node.Receive(in, b)
	if err != nil {
		t.Fatal(err)
	}
	return b, stop
}

// publisher numbers its messages.
type publisher struct {
	node *transport.Node
	gid  transport.GID
	n    uint64
}

func newPublisher(node *transport.Node) *publisher {
	return &publisher{node: node, gid: transport.NewGID()}
}

// message returns the next message to /t.
func (p *publisher) message() *transport.Message {
	p.n++
	return &transport.Message{
		Kind: transport.TopicMessage, Name: "/t", Body: fmt.Append(nil, p.n),
		Info: transport.Info{PublisherGID: p.gid, Sequence: p.n},
	}
}

// publish sends the next n messages to /t.
func (p *publisher) publish(t testing.TB, n int) {
	t.Helper()
	for range n {
		if err := p.node.Send(limited(t), p.message()); err != nil {
			t.Errorf("publish message %d: %v", p.n, err)
			return
		}
	}
}

// through starts a proxy in front of a server, and returns it with the configuration of a node behind it.
func through(t testing.TB, s *server.Server) (*proxy.Proxy, nats.Config) {
	t.Helper()
	u, err := url.Parse(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.Listen(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c := kept(s)
	c.Servers = []string{"nats://" + p.Addr()}
	return p, c
}

// A Close that waits for the server to have everything ends when the connection does, and not only when its patience is over.
func TestCloseWhileConnectionBreaks(t *testing.T) {
	t.Parallel()
	p, c := through(t, startServer(t, nil))
	c.Streams = nil
	carrier := open(t, c)
	p.Set(proxy.ToClient, proxy.Rule{Hold: true})
	before := p.Passed(proxy.ToServer)
	closed := make(chan error, 1)
	go func() { closed <- carrier.Close(limited(t)) }()
	await(t, "the server is asked", func() bool { return p.Passed(proxy.ToServer) > before })
	select {
	case err := <-closed:
		t.Fatalf("closed before there was an answer: %v", err)
	default:
	}
	begin := time.Now()
	p.Refuse(true)
	p.Cut()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 4*time.Second { // its patience is 5 s
		t.Errorf("it took %v", took)
	}
}

// durable is an interest in /t.
func durable() transport.Interest {
	return transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}
}

func inGroup() transport.Interest {
	return transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g", Lease: transport.MinLease}
}

// Connections of a publisher and of the reader of a durable name are cut at random bytes. Everything arrives
// once and in order.
func TestDurableAcrossCuts(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	near, nearConfig := through(t, s)
	far, farConfig := through(t, s)
	pub, sub := newPublisher(openNode(t, nearConfig)), openNode(t, farConfig)
	got, _ := receive(t, sub, durable())

	const n, cuts = 600, 5
	var faults sync.WaitGroup
	done := make(chan struct{})
	faults.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for range cuts {
			p := []*proxy.Proxy{near, far}[r.IntN(2)]
			p.CutAfter(proxy.Direction(r.IntN(2)), int64(1+r.IntN(30_000)))
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			p.Cut()
		}
	})
	defer faults.Wait()
	defer close(done)
	faults.Go(func() { pub.publish(t, n) })
	for want := uint64(1); want <= n; want++ {
		d := got.next()
		if seq := d.Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came in attempt %d, want message %d", seq, d.Attempt, want)
		}
		if err := d.Ack(); err != nil {
			t.Logf("ack %d: %v", want, err)
		}
	}
	got.empty(100 * time.Millisecond)
}

// A server that keeps its streams in files is stopped and started again.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	options := withJetStream(t)
	s := startServer(t, options)
	port := s.Addr().String()[strings.LastIndexByte(s.Addr().String(), ':')+1:]
	pub, sub := newPublisher(openNode(t, kept(s))), openNode(t, kept(s))
	got, _ := receive(t, sub, durable())
	in := inGroup()
	in.Lease = 5 * time.Second // longer than the server takes to start again
	shared, _ := receive(t, sub, in)

	const n = 300
	var publishing sync.WaitGroup
	publishing.Go(func() { pub.publish(t, n) })
	defer publishing.Wait()
	seen := make(map[uint64]bool)
	for want := uint64(1); want <= n; want++ {
		if want == n/3 || want == n/2 {
			stopServer(s)
			s = startServer(t, func(o *server.Options) {
				options(o)
				fmt.Sscan(port, &o.Port)
			})
		}
		d := got.next()
		if seq := d.Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came to the durable interest, want %d", seq, want)
		}
		if err := d.Ack(); err != nil {
			t.Errorf("ack %d: %v", want, err)
		}
		d = shared.next()
		if seq := d.Message.Info.Sequence; seen[seq] {
			t.Errorf("message %d came to the group twice", seq)
		} else {
			seen[seq] = true
		}
		if err := d.Ack(); err != nil {
			t.Errorf("ack %d: %v", want, err)
		}
	}
	got.empty(50 * time.Millisecond)
	shared.empty(50 * time.Millisecond)
}

// TestMuchAtOnce: more waits for the reader of a durable name than the server keeps for a slow connection.
func TestMuchAtOnce(t *testing.T) {
	t.Parallel()
	options := withJetStream(t)
	s := startServer(t, func(o *server.Options) {
		options(o)
		o.MaxPending = 12 << 20
		o.WriteDeadline = time.Minute // a busy machine is no slow connection
	})
	p, c := through(t, s)
	node := openNode(t, c)
	in := durable()
	in.InFlight = 256 // in pulls that end by number, and by size
	_, stop := receive(t, node, in)
	stop()
	pub := newPublisher(openNode(t, kept(s)))
	const n = 500
	for range n {
		m := pub.message()
		m.Body = append(m.Body, make([]byte, 64<<10)...)
		if err := pub.node.Send(limited(t), m); err != nil {
			t.Fatal(err)
		}
	}
	p.Set(proxy.ToClient, proxy.Rule{Rate: 40 << 20})
	got, _ := receive(t, node, in)
	for want := uint64(1); want <= n; want++ {
		d := got.next()
		if seq := d.Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came, want %d", seq, want)
		}
		ack(t, d)
	}
	if slow := s.NumSlowConsumers(); slow != 0 {
		t.Errorf("the server has closed %d connections that were too slow", slow)
	}
}

// The reader of a durable name loses its connection, as when its process dies. Another one takes the name over at once, and gets
// what was not settled first, in order; the first one has lost it.
func TestDurableNamePassesOn(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	first, second := openNode(t, c), openNode(t, kept(s))
	pub := newPublisher(second)
	in := durable()
	in.InFlight = 4
	got, _ := receive(t, first, in)
	pub.publish(t, 6)
	var held []transport.Delivery
	for range 4 {
		held = append(held, got.next())
	}
	if err := held[1].Ack(); err != nil {
		t.Fatal(err)
	}
	got.next() // message 5
	if _, err := second.Receive(in, newBox(t)); !errors.Is(err, transport.ErrInUse) {
		t.Fatalf("the name of another node was given away: %v", err)
	}
	p.Refuse(true)
	p.Cut()
	taken, _ := receive(t, second, in)
	for _, want := range []uint64{1, 3, 4, 5, 6} {
		d := taken.next()
		if seq := d.Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came to the second node, want %d", seq, want)
		}
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	p.Refuse(false)
	deadline := time.Now().Add(timeout)
	for !held[0].Lost() && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := held[0].Ack(); err == nil {
		t.Error("a message of a name that has been passed on could be acknowledged")
	}
	pub.publish(t, 1)
	if d := taken.next(); d.Message.Info.Sequence != 7 {
		t.Errorf("message %d came to the second node, want 7", d.Message.Info.Sequence)
	}
	got.empty(50 * time.Millisecond)
}

// A member of a group loses its connection for longer than its lease. Another one gets what it had, and it knows.
func TestGroupPassesOnAfterLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	first, second := openNode(t, c), openNode(t, kept(s))
	pub := newPublisher(second)
	got, stop := receive(t, first, inGroup())
	pub.publish(t, 2)
	held := []transport.Delivery{got.next(), got.next()}
	other, _ := receive(t, second, inGroup())
	other.empty(transport.MinLease + 500*time.Millisecond) // while it is renewed it is not passed on
	p.Refuse(true)
	p.Cut()
	for range 2 {
		d := other.next()
		if d.Attempt < 2 {
			t.Errorf("message %d came in attempt %d, want 2 at least", d.Message.Info.Sequence, d.Attempt)
		}
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
	}
	p.Refuse(false)
	stop()
	for _, d := range held {
		if !d.Lost() {
			t.Errorf("message %d counts as this member's, and another one has handled it", d.Message.Info.Sequence)
		}
		if err := d.Ack(); err == nil {
			t.Errorf("message %d could be acknowledged, and another one has handled it", d.Message.Info.Sequence)
		}
	}
}

// TestPartedReader: the reader of a durable name is cut off while it handles a message, and another one takes the name and handles it.
// When the first is done it is told, though it has never heard of that.
func TestPartedReader(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	first, second := openNode(t, c), openNode(t, kept(s))
	got, stop := receive(t, first, durable())
	newPublisher(second).publish(t, 2)
	held := []transport.Delivery{got.next(), got.next()}
	stop() // so it does not ask for messages any more
	p.Refuse(true)
	p.Cut()
	var taken *box
	await(t, "the name is free", func() bool {
		taken = newBox(t)
		_, err := second.Receive(durable(), taken)
		return err == nil
	})
	for range held {
		ack(t, taken.next())
	}
	if !held[0].Lost() {
		t.Error("the first reader counts the message as its own, without having heard of the server for a lease")
	}
	p.Refuse(false)
	if err := held[0].Ack(); err == nil {
		t.Error("a message of a name that has been passed on could be acknowledged")
	}
	held[1].Term("no")
	letters(t, open(t, kept(s)), 0)
}

// TestCutOffReader: the reader of a durable name is cut off for longer than its lease, and nobody takes the name: what it handles is
// still its own.
func TestCutOffReader(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	node := openNode(t, c)
	got, _ := receive(t, node, durable())
	newPublisher(openNode(t, kept(s))).publish(t, 1)
	d := got.next()
	p.Refuse(true)
	p.Cut()
	await(t, "the message may be lost", d.Lost)
	p.Refuse(false)
	ack(t, d)
	await(t, "the name is known to be this reader's", func() bool { return !d.Lost() }) // a pull that fails has it look again
	got.empty(100 * time.Millisecond)
}

// A network that stalls holds up neither Send nor Close for much longer than their contexts.
func TestStalledNetwork(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
	check(t, err)
	_, err = carrier.Receive(durable(), newBox(t).Deliver)
	check(t, err)
	p.Set(proxy.ToServer, proxy.Rule{Hold: true})
	p.Set(proxy.ToClient, proxy.Rule{Hold: true})
	const most = 6 * time.Second // much less than the ten of a write, and enough for a busy machine
	for body := make([]byte, 900_000); ; {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := carrier.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "plain", Body: body})
		cancel()
		if took := time.Since(began); took > most {
			t.Errorf("Send took %v", took)
		}
		if err != nil {
			break
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = carrier.Close(ctx) // it may say that not all was sent
	if took := time.Since(began); took > most {
		t.Errorf("Close took %v", took)
	}
}
