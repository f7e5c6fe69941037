package nats_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// letters waits until there are n dead letters.
func letters(t testing.TB, c *nats.Carrier, n int) []nats.DeadLetter {
	t.Helper()
	var all []nats.DeadLetter
	await(t, fmt.Sprintf("%d dead letters", n), func() bool {
		all = nil
		for letter, err := range c.DeadLetters(limited(t)) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, letter)
		}
		return len(all) >= n
	})
	if len(all) > n {
		t.Errorf("there are %d dead letters, want %d", len(all), n)
	}
	return all
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	node := openNode(t, kept(s))
	in := durable()
	in.MaxDeliver = 2
	got, _ := receive(t, node, in)
	shared, _ := receive(t, node, inGroup())
	pub := newPublisher(node)
	m := pub.message()
	m.Header.Add("Colour", "blue")
	if err := node.Send(limited(t), m); err != nil {
		t.Fatal(err)
	}
	pub.publish(t, 2)
	for range 4 {
		if d := got.next(); d.Message.Info.Sequence == 1 {
			d.Nack(0, "no room\nat all")
		} else {
			ack(t, d)
		}
	}
	for range 3 {
		if d := shared.next(); d.Message.Info.Sequence == 3 {
			d.Term("unknown order")
		} else {
			ack(t, d)
		}
	}

	// Another carrier reads them.
	other := open(t, kept(s))
	all := letters(t, other, 2)
	i := slices.IndexFunc(all, func(l nats.DeadLetter) bool { return l.For == `durable name "d"` })
	if i < 0 {
		t.Fatalf("the dead letters are %+v", all)
	}
	letter := all[i]
	if letter.Stream != "KEPT" || letter.Reason != "no room" || letter.Attempts != 2 || time.Since(letter.Time) > time.Minute {
		t.Errorf("the dead letter is %+v", letter)
	}
	if m := letter.Message; m == nil || string(m.Body) != "1" || m.Name != "/t" || m.Header.Get("colour") != "blue" || m.Info.Sequence != 1 {
		t.Errorf("its message is %+v", letter.Message)
	}
	if letter := all[1-i]; letter.For != `group "g"` || letter.Reason != "unknown order" || letter.Attempts != 1 || string(letter.Message.Body) != "3" {
		t.Errorf("the other one is %+v", letter)
	}
	n, err := other.PurgeDeadLetters(limited(t), func(l nats.DeadLetter) bool { return l.Number == letter.Number && l.Stream == "KEPT" })
	if n != 1 || err != nil {
		t.Errorf("purged %d: %v", n, err)
	}
	if left := letters(t, other, 1); left[0].For != `group "g"` {
		t.Errorf("after that there is %+v", left)
	}
}

// What is given back without having been tried does not count, also for the next process, and comes in order.
func TestGivenBackIsRemembered(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	first, second := openNode(t, kept(s)), openNode(t, kept(s))
	const n = 20
	pub := newPublisher(second)
	for _, in := range []transport.Interest{durable(), inGroup()} {
		got, stop := receive(t, first, in)
		pub.publish(t, n)
		var all []transport.Delivery
		for range n {
			all = append(all, got.next())
		}
		stop()
		for _, d := range all[:n-1] {
			d.Nack(-1, "not tried")
		}
		all[n-1].Nack(0, "tried")
		var next *box
		await(t, "the name is free", func() bool {
			next = newBox(t)
			end, err := second.Receive(in, next)
			if err == nil {
				t.Cleanup(end)
			}
			return err == nil
		})
		attempts := make(map[uint64]int)
		for i := range n {
			d := next.next()
			if want := all[i].Message.Info.Sequence; in.Durable != "" && d.Message.Info.Sequence != want {
				t.Errorf("%+v: message %d came, want %d", in, d.Message.Info.Sequence, want)
			}
			attempts[d.Message.Info.Sequence] = d.Attempt
			ack(t, d)
		}
		for i, d := range all {
			want := 1
			if i == n-1 {
				want = 2
			}
			if got := attempts[d.Message.Info.Sequence]; got != want {
				t.Errorf("%+v: message %d came in attempt %d, want %d", in, i+1, got, want)
			}
		}
	}
}

// A durable name and a group are for one kind and name.
func TestNamesAreForOneInterest(t *testing.T) {
	s := startServer(t, withJetStream(t))
	first, second := openNode(t, kept(s)), openNode(t, kept(s))
	_, stop := receive(t, first, durable())
	stop()
	other := durable()
	other.Name = "/u"
	for i, node := range []*transport.Node{first, second} {
		_, err := node.Receive(other, newBox(t))
		if !errors.Is(err, transport.ErrInUse) || !strings.Contains(err.Error(), "topic message /t") {
			t.Errorf("node %d: a durable name for another topic: %v", i+1, err)
		}
	}
	other = inGroup()
	receive(t, first, other)
	other.Kind = transport.Request
	receive(t, second, other) // is another group
	both := inGroup()
	both.Durable = "d"
	if _, err := first.Receive(both, newBox(t)); !errors.Is(err, transport.ErrNotSupported) {
		t.Errorf("a durable name and a group at once: %v", err)
	}
}

// Programs that know nothing of postbus write into the stream and read from it.
func TestPlainJetStream(t *testing.T) {
	s := startServer(t, withJetStream(t))
	node := openNode(t, kept(s))
	got, _ := receive(t, node, durable())
	served := durable()
	served.Durable, served.Kind = "served", transport.Request
	requests, _ := receive(t, node, served)
	js := jetStream(t, s)
	for range 2 {
		m := &natsgo.Msg{Subject: "/.t", Data: []byte("hello"), Header: natsgo.Header{"Nats-Msg-Id": {"x-1"}, "Colour": {"blue"}}}
		if _, err := js.PublishMsg(limited(t), m); err != nil { // the stream's answer, not ours
			t.Fatal(err)
		}
	}
	d := got.next()
	if m := d.Message; string(m.Body) != "hello" || m.Kind != transport.TopicMessage || m.Name != "/t" || m.ID.String() != "x-1" || m.Header.Get("Colour") != "blue" {
		t.Errorf("it came as %+v", m)
	}
	ack(t, d)
	got.empty(50 * time.Millisecond)

	newPublisher(node).publish(t, 1)
	ack(t, got.next())
	stream, err := js.Stream(limited(t), "KEPT")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := stream.GetLastMsgForSubject(limited(t), "/.t")
	if err != nil || string(raw.Data) != "1" || raw.Header.Get("Publisher-Sequence-Number") != "1" || raw.Header.Get("Nats-Msg-Id") != raw.Header.Get("Message-ID") {
		t.Errorf("the stream has %+v, %v", raw, err)
	}
	requests.empty(50 * time.Millisecond) // topic messages are none
	await(t, "what is not for the server is settled, too", func() bool {
		c, err := js.Consumer(limited(t), "KEPT", "durable-served")
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
	})
}

// large is a body that no server takes as it is.
func large() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 1<<17) } // 2 MiB

func TestLargeBodies(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Objects = nats.Objects{Bucket: "bodies", MaxAge: time.Hour}
	node := openNode(t, c)
	in := durable()
	in.MaxDeliver = 1
	got, _ := receive(t, node, in)
	plain, _ := receive(t, node, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	pub := newPublisher(node)
	m := pub.message()
	m.Body = large()
	store, err := jetStream(t, s).ObjectStore(limited(t), "bodies")
	if err != nil {
		t.Fatal(err)
	}
	var stored []string
	for range 2 { // it is sent again, stored once, and delivered once
		again := *m
		if err := node.Send(limited(t), &again); err != nil {
			t.Fatal(err)
		}
		info, err := store.GetInfo(limited(t), again.ID.String())
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, info.NUID)
	}
	if stored[0] != stored[1] {
		t.Error("the body was stored again")
	}
	for _, d := range []transport.Delivery{got.next(), plain.next()} {
		if !bytes.Equal(d.Message.Body, large()) {
			t.Errorf("%d bytes came", len(d.Message.Body))
		}
		ack(t, d)
	}
	all, err := store.List(limited(t))
	if err != nil || len(all) != 1 {
		t.Errorf("the bucket has %d bodies, %v", len(all), err)
	}

	// A body is lost before its message is read: no other is.
	other := open(t, c)
	lost := durable()
	lost.Durable, lost.MaxDeliver = "lost", 1
	b := newBox(t)
	stop, err := other.Receive(lost, b.Deliver)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	m = pub.message()
	m.Body = large()
	if err := node.Send(limited(t), m); err != nil {
		t.Fatal(err)
	}
	ack(t, got.next())
	if err := store.Delete(limited(t), m.ID.String()); err != nil {
		t.Fatal(err)
	}
	pub.publish(t, 1)
	if stop, err = other.Receive(lost, b.Deliver); err != nil {
		t.Fatal(err)
	}
	defer stop()
	if d := b.next(); d.Message.Info.Sequence != 3 {
		t.Errorf("message %d came, want 3", d.Message.Info.Sequence)
	}
	letter := letters(t, other, 1)[0]
	if letter.For != `durable name "lost"` || !strings.Contains(letter.Reason, "bucket bodies") {
		t.Errorf("the dead letter is %+v", letter)
	}
}

// A body whose message is sent again is put into the bucket again when half of its time there is over: its message begins anew.
func TestLargeBodyIsRenewed(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	const age = 2 * time.Second
	c.Objects = nats.Objects{Bucket: "bodies", MaxAge: age}
	node := openNode(t, c)
	m := newPublisher(node).message()
	m.Body = large()
	again := *m
	check(t, node.Send(limited(t), m))
	store, err := jetStream(t, s).ObjectStore(limited(t), "bodies")
	check(t, err)
	first, err := store.GetInfo(limited(t), m.ID.String())
	check(t, err)
	await(t, "half of its time is over", func() bool { return time.Since(first.ModTime) > age/2 })
	check(t, node.Send(limited(t), &again))
	if second, err := store.GetInfo(limited(t), m.ID.String()); err != nil || second.NUID == first.NUID {
		t.Errorf("got %+v, %v", second, err)
	}
}

// A message can't make its receivers read what is not its body.
func TestForeignBodies(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Objects.Bucket = "bodies"
	carrier := open(t, c)
	got := newBox(t)
	in := durable()
	in.MaxDeliver = 1
	stop, err := carrier.Receive(in, got.Deliver)
	check(t, err)
	defer stop()
	js := jetStream(t, s)
	store, err := js.ObjectStore(limited(t), "bodies")
	check(t, err)
	secret, err := store.PutBytes(limited(t), "secret", []byte("of somebody else"))
	check(t, err)
	_, err = store.AddLink(limited(t), "link@x", secret)
	check(t, err)
	_, err = js.Publish(limited(t), "$O.bodies.M."+base64.URLEncoding.EncodeToString([]byte("self@x.y")),
		[]byte(`{"name":"self@x.y","options":{"link":{"bucket":"bodies","name":"self@x.y"}},"bucket":"bodies","nuid":"abc"}`))
	check(t, err)
	gid := transport.NewGID().String()
	for id, object := range map[string]string{"id@x": "secret", "link@x": "link@x", "self@x.y": "self@x.y"} {
		_, err := js.PublishMsg(limited(t), &natsgo.Msg{Subject: "/.t", Header: natsgo.Header{
			"Message-ID": {id}, transport.HeaderPublisherGID: {gid}, transport.HeaderPublisherSequence: {fmt.Sprint(len(id))}, "Body-Object": {object},
		}})
		check(t, err)
	}
	for _, l := range letters(t, carrier, 3) {
		if !strings.Contains(l.Reason, "link to") && !strings.Contains(l.Reason, "not the message's") {
			t.Errorf("the reason is %q", l.Reason)
		}
	}
	got.empty(20 * time.Millisecond)
}

// Streams that keep messages for longer than the bucket keeps their bodies are worth a warning, one for all.
func TestBodiesThatGoFirst(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	const day = 24 * time.Hour
	for i, test := range []struct {
		bucket  time.Duration
		streams []time.Duration
		want    string // the streams in the warning; empty if there is none
	}{
		{day, []time.Duration{2 * day, day, 3 * day}, `streams="[S0 S2]"`},
		{0, []time.Duration{7 * day, 8 * day}, "streams=[S1]"},
		{day, []time.Duration{day, time.Hour, 0}, ""},
	} {
		c := config(s)
		c.Objects = nats.Objects{Bucket: fmt.Sprint("bodies-", i), MaxAge: test.bucket}
		for n, age := range test.streams {
			c.Streams = append(c.Streams, nats.Stream{Name: fmt.Sprint("S", n), Names: []string{fmt.Sprintf("%d.%d", i, n)}, MaxAge: age})
		}
		var log strings.Builder
		carrier, err := nats.Open(limited(t), c, nats.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		check(t, err)
		check(t, carrier.Close(limited(t)))
		for _, stream := range c.Streams { // the next have the same names
			check(t, jetStream(t, s).DeleteStream(limited(t), stream.Name))
		}
		if got := log.String(); strings.Count(got, "WARN") != min(len(test.want), 1) || !strings.Contains(got, test.want) {
			t.Errorf("bucket %v, streams %v: logged %q, want %s", test.bucket, test.streams, got, test.want)
		}
	}
}

func TestTooLargeWithoutBucket(t *testing.T) {
	s := startServer(t, withJetStream(t))
	node := openNode(t, kept(s))
	m := newPublisher(node).message()
	m.Body = large()
	var failed *transport.SendError
	if err := node.Send(limited(t), m); !errors.Is(err, transport.ErrTooLarge) || !errors.As(err, &failed) || failed.Outcome != transport.Permanent || !strings.Contains(err.Error(), "no bucket for larger ones (objects)") {
		t.Errorf("a body of 2 MiB: %v", err)
	}
}

// Several messages of one Send are on their way at once, and the first that fails is told.
func TestSendSeveralToStream(t *testing.T) {
	s := startServer(t, withJetStream(t))
	carrier := open(t, kept(s))
	got := newBox(t)
	stop, err := carrier.Receive(durable(), got.Deliver)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	pub := newPublisher(nil)
	var msgs []*transport.Message
	for range 1000 {
		m := pub.message()
		m.ID = transport.NewID(pub.gid, pub.n, "example")
		msgs = append(msgs, m)
	}
	msgs[700].Body = large()
	var failed *transport.SendError
	if err := carrier.Send(limited(t), msgs...); !errors.As(err, &failed) || failed.Taken != 700 || failed.Outcome != transport.Permanent {
		t.Fatalf("the error is %v", err)
	}
	if err := carrier.Send(limited(t), msgs[690:700]...); err != nil { // known already
		t.Fatal(err)
	}
	if err := carrier.Send(limited(t), msgs[701:]...); err != nil {
		t.Fatal(err)
	}
	for i, m := range slices.Concat(msgs[:700], msgs[701:]) {
		d := got.next()
		if d.Message.Info.Sequence != m.Info.Sequence {
			t.Fatalf("message %d came as number %d", d.Message.Info.Sequence, i)
		}
		ack(t, d)
	}
	got.empty(50 * time.Millisecond)
}

// blocked is an interest whose reader is stuck until opened.
type blocked struct {
	*box
	got, opened chan struct{}
}

func (b blocked) Deliver(d transport.Delivery) {
	b.got <- struct{}{}
	<-b.opened
	b.box.Deliver(d)
}

// TestLateIsGivenBack: an interest ends, and much has come that it has not taken yet. That is given back at once, also when
// the server does not confirm that it is on record.
func TestLateIsGivenBack(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	node, pub := openNode(t, kept(s)), newPublisher(openNode(t, kept(s)))
	js, conn := jetStream(t, s), connect(t, s)
	b := blocked{newBox(t), make(chan struct{}, 100), make(chan struct{})}
	stop, err := node.Receive(durable(), b)
	check(t, err)
	pub.publish(t, 1)
	<-b.got
	const late = 20
	pub.publish(t, late)
	await(t, "all has been delivered", func() bool {
		c, err := js.Consumer(limited(t), "KEPT", "durable-d")
		return err == nil && c.CachedInfo().NumAckPending == 1+late
	})
	roundTrip(t, node) // after which it has come
	check(t, js.DeleteStream(limited(t), "KEPT_BOOK"))
	silent, err := conn.SubscribeSync("$POSTBUS.book.KEPT.>")
	check(t, err)
	given, err := conn.SubscribeSync("$JS.ACK.KEPT.durable-d.>")
	check(t, err)
	check(t, conn.Flush())
	stop()
	close(b.opened)
	limit := limited(t)
	for n := 0; n < late-1; { // one may have been taken just then
		m, err := given.NextMsgWithContext(limit)
		if err != nil {
			t.Fatalf("%d messages are given back: %v", n, err)
		}
		if string(m.Data) == "-NAK" {
			n++
		}
	}
	check(t, silent.Unsubscribe())
}

// TestLettersAreReadInTurn: the dead letters are gone through slowly. The bodies are read one after the other, and the server may forget
// meanwhile who reads them.
func TestLettersAreReadInTurn(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Objects.Bucket = "bodies"
	carrier, node, _ := openLogging(t, c, false)
	got, _ := receive(t, node, durable())
	pub, js := newPublisher(node), jetStream(t, s)
	var last transport.ID
	const n = 20
	for i := range n {
		m := pub.message()
		if i == n-1 {
			m.Body = large()
		}
		check(t, node.Send(limited(t), m))
		last = m.ID
		got.next().Term("no")
		letters(t, carrier, i+1) // so that they are in order
	}
	dead, err := js.Stream(limited(t), "KEPT_DEAD")
	check(t, err)
	bodies, err := js.ObjectStore(limited(t), "bodies")
	check(t, err)
	i := uint64(0)
	for letter, err := range carrier.DeadLetters(limited(t)) {
		check(t, err)
		if i++; letter.Message == nil || letter.Message.Info.Sequence != i {
			t.Fatalf("letter %d is that of %+v", i, letter.Message)
		}
		switch i {
		case 1:
			check(t, bodies.Delete(limited(t), last.String()))
			for name := range dead.ConsumerNames(limited(t)).Name() {
				_ = dead.DeleteConsumer(limited(t), name) // it may be one that has ended
			}
			check(t, node.Send(limited(t), pub.message()))
			got.next().Term("later")
			await(t, "one more", func() bool {
				info, err := dead.Info(limited(t))
				check(t, err)
				return info.State.Msgs == n+1
			})
		case n:
			if !strings.Contains(letter.Reason, "bucket bodies") {
				t.Errorf("a body was read before its turn: %q", letter.Reason)
			}
		}
	}
	if i != n {
		t.Errorf("there were %d letters, want the %d of the beginning", i, n)
	}
	if purged, err := carrier.PurgeDeadLetters(limited(t), nil); purged != n+1 || err != nil {
		t.Errorf("purged %d: %v", purged, err)
	}
}
