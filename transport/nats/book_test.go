package nats_test

import (
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
)

// refuse has the book of the stream take nothing, or all again.
func refuse(t *testing.T, js jetstream.JetStream, all bool) {
	t.Helper()
	book, err := js.Stream(limited(t), "KEPT_BOOK")
	check(t, err)
	c := book.CachedInfo().Config
	c.MaxMsgSize = -1
	if all {
		c.MaxMsgSize = 1
	}
	_, err = js.UpdateStream(limited(t), c)
	check(t, err)
}

// ackInVain acknowledges a message while the book refuses that, and returns after the first attempt. The result comes later.
func ackInVain(t *testing.T, pages *natsgo.Subscription, d transport.Delivery) <-chan error {
	t.Helper()
	settled := make(chan error)
	go func() { settled <- d.Ack() }()
	for range 2 { // the first attempt has failed when there is another
		_, err := pages.NextMsg(timeout)
		check(t, err)
	}
	return settled
}

// TestBookRefusesGroup: a member that can't put down what it has does not take it, leaves the server in peace, and says so once. What it
// could not take it has not tried to handle.
func TestBookRefusesGroup(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	carrier, node, log := openLogging(t, kept(s), false)
	js := jetStream(t, s)
	in := inGroup()
	in.MaxDeliver = 3
	got, _ := receive(t, node, in)
	refuse(t, js, true)
	pub := newPublisher(node)
	pub.publish(t, 1)
	log.await(t, "no messages come at the moment")
	before, err := s.Varz(nil)
	check(t, err)
	got.empty(transport.MinLease) // enough for many attempts
	after, err := s.Varz(nil)
	check(t, err)
	if n := after.InMsgs - before.InMsgs; n > 200 {
		t.Errorf("it has sent %d messages to the server meanwhile", n)
	}
	refuse(t, js, false)
	log.await(t, "messages come again")
	got.next().Nack(0, "tried")
	ack(t, got.next())
	letters(t, carrier, 0)
}

// TestBookRefusesDurable: what is settled is put down in the book. While that takes nothing, Ack waits, and nothing more is delivered.
func TestBookRefusesDurable(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	_, node, log := openLogging(t, kept(s), false)
	js := jetStream(t, s)
	pages, err := connect(t, s).SubscribeSync("$POSTBUS.book.KEPT.page.>")
	check(t, err)
	got, _ := receive(t, node, durable())
	pub := newPublisher(node)
	pub.publish(t, 1)
	first := got.next()
	refuse(t, js, true)
	settled := ackInVain(t, pages, first)
	pub.publish(t, 1)
	log.await(t, "no messages come at the moment")
	if len(got.all) > 0 {
		t.Error("a message came that can't be put down when it is settled")
	}
	refuse(t, js, false)
	check(t, <-settled)
	log.await(t, "messages come again")
	second := got.next()
	if second.Message.Info.Sequence != 2 || second.Attempt != 1 {
		t.Errorf("message %d came in attempt %d", second.Message.Info.Sequence, second.Attempt)
	}
	ack(t, second)
}

// TestGivenBackInOrder: messages are given back because of a book that takes nothing, and it takes long until that is on record. They come
// before later ones all the same.
func TestGivenBackInOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	_, node, log := openLogging(t, kept(s), false)
	js, conn := jetStream(t, s), connect(t, s)
	pages, err := conn.SubscribeSync("$POSTBUS.book.KEPT.page.>")
	check(t, err)
	got, _ := receive(t, node, durable())
	pub := newPublisher(node)
	pub.publish(t, 1)
	first := got.next()
	_, err = conn.SubscribeSync("$POSTBUS.book.KEPT.given.>") // which does not answer
	check(t, err)
	book, err := js.Stream(limited(t), "KEPT_BOOK")
	check(t, err)
	c := book.CachedInfo().Config
	c.Subjects = []string{"$POSTBUS.book.KEPT.claim.>", "$POSTBUS.book.KEPT.page.>"}
	_, err = js.UpdateStream(limited(t), c)
	check(t, err)
	refuse(t, js, true)
	settled := ackInVain(t, pages, first)
	pub.publish(t, 1)
	log.await(t, "no messages come at the moment")
	refuse(t, js, false)
	pub.publish(t, 1)
	check(t, <-settled)
	for want := uint64(2); want <= 3; want++ {
		d := got.next()
		if seq := d.Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came, want %d", seq, want)
		}
		ack(t, d)
	}
}

// TestNameTakenUnnoticed: somebody else takes a durable name, of which its reader has not heard. The book takes none of its settlements any
// more, so it is told. Nobody else gets the rest until the other one is gone.
func TestNameTakenUnnoticed(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	carrier, node, _ := openLogging(t, kept(s), false)
	js, other := jetStream(t, s), connect(t, s)
	got, _ := receive(t, node, durable())
	pub := newPublisher(node)
	pub.publish(t, 2)
	first, second := got.next(), got.next()
	present, err := other.Subscribe("present", func(m *natsgo.Msg) { _ = m.Respond(nil) })
	check(t, err)
	_, err = js.Publish(limited(t), "$POSTBUS.book.KEPT.claim.durable-d", []byte(`{"holder":"present"}`))
	check(t, err)
	if err := first.Ack(); err == nil {
		t.Error("a message of a name that has been passed on could be acknowledged")
	}
	if !second.Lost() {
		t.Error("another message still counts as the reader's")
	}
	second.Term("no")
	pub.publish(t, 1)
	got.empty(100 * time.Millisecond)
	check(t, present.Unsubscribe())
	if d := got.next(); d.Message.Info.Sequence != 2 { // the first it has handled
		t.Errorf("message %d came again", d.Message.Info.Sequence)
	} else {
		letters(t, carrier, 0)
		d.Term("no")
	}
	ack(t, got.next())
	letters(t, carrier, 1)
}
