package email_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// batchOf returns messages as one mail.
func batchOf(t testing.TB, from string, messages ...*transport.Message) []byte {
	t.Helper()
	batch, err := wire.NewBatch(transport.NewID(transport.NewGID(), 1, "test"), wire.Envelope{From: from}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := batch.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	return batch.Mail()
}

// deliver puts the next n messages into the inbox, in one mail.
func (b *bench) deliver(n int) {
	b.Helper()
	var messages []*transport.Message
	for range n {
		messages = append(messages, b.message(""))
	}
	account := b.server.Accounts()[0].Address
	if err := b.server.Deliver(account, batchOf(b, account, messages...)); err != nil {
		b.Fatal(err)
	}
}

// TestBatchOnMail: whoever looks at mails sees one of several messages once for each, whole.
func TestBatchOnMail(t *testing.T) {
	b := newBench(t, mailserver.Config{}, quiet)
	var mu sync.Mutex
	var seen []uint64
	c, err := email.Open(t.Context(), b.config(), email.Options{Logger: quiet, OnMail: func(raw []byte, m *transport.Message) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(string(raw), "\r\nSubject: 3 messages: /t\r\n") || m.Info.ReceivedTime.IsZero() {
			t.Errorf("the mail of message %d, received at %v, is\n%s", m.Info.Sequence, m.Info.ReceivedTime, raw)
		}
		seen = append(seen, m.Info.Sequence)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeCarrier(t, c)
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	b.deliver(3)
	for n := uint64(1); n <= 3; n++ {
		if d := got.next(t); d.Message.Info.Sequence != n {
			t.Errorf("message %d came, want %d", d.Message.Info.Sequence, n)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 3 || seen[0] != 1 || seen[2] != 3 {
		t.Errorf("seen %d", seen)
	}
}

// TestBatchDamaged: a message that is damaged, or too large, costs no other, and the mail stays
// where it is; a mail that is damaged as a whole is skipped as any.
func TestBatchDamaged(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(c *email.Config) {
		c.SkippedFolder = "Skipped"
		c.MaxBody = 1000
	})
	sub, err := pubsub.NewSubscription(o.node, "/t")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	gid := transport.NewGID()
	var messages []*transport.Message
	for n := range uint64(6) {
		m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte{0, byte(n)}, ID: transport.NewID(gid, n+1, "test")}
		m.Info = transport.Info{PublisherGID: gid, Sequence: n + 1, SourceTime: time.Now()}
		messages = append(messages, m)
	}
	messages[2].Body = make([]byte, 2000)
	raw := string(batchOf(t, o.person, messages...))
	damaged := strings.Replace(raw, "AAE=", "*AE=", 1) // the second
	damaged = strings.Replace(damaged, "Body-Message-Count: 6", "Body-Message-Count: 7", 1)
	for _, mail := range []string{damaged, strings.Replace(raw, "Body-Message-Count: 6", "Body-Message-Count: x", 1)} {
		if err := o.server.Deliver(o.robot, []byte(mail)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for _, want := range []byte{0, 3, 4, 5} {
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m.Body[1] != want {
			t.Errorf("message %d came, want %d", m.Body[1], want)
		}
	}
	o.skipped(map[email.SkipReason]uint64{email.BatchMessage: 3, email.MalformedMail: 1})
	// The mail with four good messages is still there, the other is not.
	if n := len(o.mailbox("Skipped")); n != 1 {
		t.Errorf("%d mails were moved, want 1", n)
	}
}

// TestBounceOfReturnedBatch: when nobody remembers what was in a mail, the mail that comes back says it.
func TestBounceOfReturnedBatch(t *testing.T) {
	o := newOffice(t, nil)
	reports := make(chan uint64, 10)
	pub, err := pubsub.NewPublisher(o.node, "/chatter", pubsub.OnUndeliverable(func(sequence uint64, err error) {
		if !errors.Is(err, transport.ErrUndeliverable) {
			t.Error(err)
		}
		reports <- sequence
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer pub.Close()
	var messages []*transport.Message
	for range 3 {
		if err := pub.Publish(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		raw, _ := o.next()
		m, err := wire.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	batch := batchOf(t, o.robot, messages...)
	head, _, _ := strings.Cut(bounceMail, "Content-Type: text/rfc822-headers")
	text := strings.ReplaceAll(head, "ACTION", "failed") + "Content-Type: message/rfc822\n\n" + strings.ReplaceAll(string(batch), "\r\n", "\n") + "\n--b--\n"
	o.write(text, "")
	for n := uint64(1); n <= 3; n++ {
		select {
		case got := <-reports:
			if got != n {
				t.Errorf("a report on message %d, want %d", got, n)
			}
		case <-time.After(timeout):
			t.Fatalf("no report on message %d; log:\n%s", n, o.log.String())
		}
	}
}

// publishBatch publishes n messages in one mail.
func (x *team) publishBatch(server *mailserver.Server, n int) {
	x.Helper()
	var messages []*transport.Message
	for range n {
		x.sent++
		m := &transport.Message{Kind: transport.TopicMessage, Name: x.interest.Name, ID: transport.NewID(x.gid, x.sent, "test")}
		m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = x.gid, x.sent, time.Now()
		messages = append(messages, m)
	}
	if err := server.Deliver(x.config.Username, batchOf(x, x.config.Username, messages...)); err != nil {
		x.Fatal(err)
	}
}

// TestGroupSharesBatches: the messages of one mail are shared as those of many are, each is handled
// once, also when a member leaves in the middle or there is room for a few only.
func TestGroupSharesBatches(t *testing.T) {
	t.Parallel()
	x, server := embeddedTeam(t)
	seen := make(map[uint64]bool)
	narrow := x.interest
	narrow.InFlight = 5
	a := x.join("a")
	x.joinWith("b", x.config, narrow)
	for there := false; !there; { // b has to be there, too
		x.publish(1)
		there = x.once(seen)["b"] > 0
	}
	for range 5 {
		x.publishBatch(server, 100)
		x.publish(3)
	}
	if shares := x.once(seen); len(shares) != 2 {
		t.Errorf("not everybody took part: %v", shares)
	}
	x.publishBatch(server, 300)
	for range 30 {
		h := <-x.handled
		if h.err != nil || seen[h.number] {
			t.Errorf("message %d: %v, handled before: %t", h.number, h.err, seen[h.number])
		}
		seen[h.number] = true
	}
	closeCarrier(t, a)
	x.publishBatch(server, 200)
	x.join("c")
	x.once(seen)
	x.nothing()
}

// TestGroupKeepsOrderOfBatch: a member that is alone and handles one after the other gets the messages of one mail in
// their order.
func TestGroupKeepsOrderOfBatch(t *testing.T) {
	x, server := embeddedTeam(t)
	c := open(t, x.config)
	defer closeCarrier(t, c)
	interest := x.interest
	interest.InFlight = 1
	got := make(chan uint64, 100)
	var acks sync.WaitGroup
	defer acks.Wait()
	_, err := c.Receive(interest, func(d transport.Delivery) {
		acks.Go(func() {
			got <- d.Message.Info.Sequence
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	x.publish(1) // the group is there
	<-got
	x.publishBatch(server, 12)
	for want := uint64(2); want <= 13; want++ {
		if n := <-got; n != want {
			t.Errorf("message %d came, want %d", n, want)
		}
	}
}

// TestGroupReadsBatchesAgain: what a member gives back another one reads again, out of the mail that
// it is in.
func TestGroupReadsBatchesAgain(t *testing.T) {
	t.Parallel()
	x, server := embeddedTeam(t)
	c := open(t, x.config)
	var mu sync.Mutex
	refused := make(map[uint64]bool)
	_, err := c.Receive(x.interest, func(d transport.Delivery) {
		mu.Lock()
		defer mu.Unlock()
		if n := d.Message.Info.Sequence; n%7 == 0 {
			refused[n] = true
			d.Nack(-1, "")
		} else {
			go func() { x.handled <- handling{"a", n, d.Attempt, d.Ack()} }()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	x.publish(1)
	<-x.handled
	seen := map[uint64]bool{1: true}
	x.publishBatch(server, 100)
	for len(seen) < 101-14 {
		h := <-x.handled
		if h.err != nil || seen[h.number] {
			t.Errorf("message %d: %v, handled before: %t", h.number, h.err, seen[h.number])
		}
		seen[h.number] = true
	}
	x.join("b")
	x.once(seen)
	closeCarrier(t, c)
	x.nothing()
	mu.Lock()
	defer mu.Unlock()
	if len(refused) != 14 {
		t.Errorf("%d messages were given back, want 14", len(refused))
	}
}

// TestBatchAboveLimit: a mail may be larger than the largest message makes one, if it holds many that are small.
func TestBatchAboveLimit(t *testing.T) {
	b := newBench(t, mailserver.Config{}, quiet)
	config := b.config()
	config.MaxBody = 1000
	c := open(t, config)
	defer closeCarrier(t, c)
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	const n = 1000 // some 150 kB
	b.deliver(n)
	for want := uint64(1); want <= n; want++ {
		if d := got.next(t); d.Message.Info.Sequence != want {
			t.Fatalf("message %d came, want %d", d.Message.Info.Sequence, want)
		}
	}
	last, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 2})
	for want := uint64(n - 1); want <= n; want++ {
		if d := last.next(t); d.Message.Info.Sequence != want {
			t.Errorf("of the last ones message %d came, want %d", d.Message.Info.Sequence, want)
		}
	}
	if skipped := c.Skipped(); len(skipped) > 0 {
		t.Errorf("skipped %v", skipped)
	}
}
