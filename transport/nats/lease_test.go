package nats_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
)

// one is an interest of a member that takes a message at a time.
func one() transport.Interest {
	in := inGroup()
	in.InFlight = 1
	return in
}

// groupAtServer returns what the server says of the only group.
func groupAtServer(t *testing.T, s *server.Server) *jetstream.ConsumerInfo {
	t.Helper()
	stream, err := jetStream(t, s).Stream(limited(t), "KEPT")
	check(t, err)
	for info := range stream.ListConsumers(limited(t)).Info() {
		return info
	}
	t.Fatal("there is no group")
	return nil
}

// wants checks which message a member gets next.
func (b *box) wants(seq uint64) transport.Delivery {
	b.t.Helper()
	d := b.next()
	if got := d.Message.Info.Sequence; got != seq {
		b.t.Errorf("message %d came in attempt %d, want message %d", got, d.Attempt, seq)
	}
	return d
}

// TestGroupMessageComesLate: what the server has delivered lies in the network for longer than the lease, and another member gets it. The
// first one does not, when it comes after all.
func TestGroupMessageComesLate(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	second := openNode(t, kept(s))
	pub := newPublisher(second)
	got, _ := receive(t, openNode(t, c), one())
	pub.publish(t, 2)
	d := got.wants(1)
	p.Set(proxy.ToClient, proxy.Rule{Hold: true})
	settled := make(chan error, 1)
	go func() { settled <- d.Ack() }() // so that the next one is asked for
	await(t, "message 2 is on its way", func() bool { return groupAtServer(t, s).Delivered.Stream == 2 })
	other, _ := receive(t, second, one())
	taken := other.wants(2)
	p.Heal()
	<-settled // with an error: the lease of message 1 has ended, too
	pub.publish(t, 1)
	ack(t, got.wants(3))
	ack(t, taken)
}

// TestGroupAcrossRestart: a server that is started again reckons what it had delivered from when it was stored. It gives it to another
// member, which leaves it to the first.
func TestGroupAcrossRestart(t *testing.T) {
	t.Parallel()
	options, address := withJetStream(t), freeAddress(t)
	start := func() *server.Server {
		return startServer(t, func(o *server.Options) {
			options(o)
			fixed(address)(o)
		})
	}
	s := start()
	first, second := openNode(t, kept(s)), openNode(t, kept(s))
	in := one()
	in.Lease = 4 * time.Second // longer than the server takes to start again
	_, stop := receive(t, first, in)
	stop()
	pub := newPublisher(second)
	pub.publish(t, 1)
	stored := time.Now()
	await(t, "message 1 is older than a lease", func() bool { return time.Since(stored) > in.Lease })
	got, _ := receive(t, first, in)
	d := got.wants(1)
	in.InFlight = 0
	other, _ := receive(t, second, in)
	stopServer(s)
	s = start()
	await(t, "the server delivers message 1 again", func() bool { return groupAtServer(t, s).NumRedelivered > 0 })
	pub.publish(t, 1)
	ack(t, other.wants(2))
	if d.Lost() {
		t.Error("the first member has lost the message, though it has renewed its lease")
	}
	ack(t, d)
	other.empty(50 * time.Millisecond)
}

// TestLostMessageIsLeftAlone: what a member says of a message that it has lost does not take it from who has it.
func TestLostMessageIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	second := openNode(t, kept(s))
	pub := newPublisher(second)
	first := openNode(t, c)
	in := inGroup()
	in.Lease = 4 * time.Second
	got, stop := receive(t, first, in)
	pub.publish(t, 3)
	held := []transport.Delivery{got.wants(1), got.wants(2), got.wants(3)}
	stop()
	p.Refuse(true)
	p.Cut()
	in.InFlight = len(held)
	other, _ := receive(t, second, in)
	for range held {
		d := other.next()
		defer d.Nack(0, "over")
	}
	in.InFlight = 0
	third, _ := receive(t, openNode(t, kept(s)), in)
	p.Refuse(false)
	pub.node = first
	pub.publish(t, 1) // so it has a connection again
	ack(t, third.wants(4))
	held[0].Nack(0, "no")
	held[1].Nack(-1, "not tried")
	held[2].Term("no")
	pub.publish(t, 1)
	ack(t, third.wants(5))
	third.empty(300 * time.Millisecond)
	letters(t, open(t, kept(s)), 0)
}
