package nats_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// A request of somebody who means ill names a reply subject at which an answer would end the server's connection, or
// break its protocol. It is not answered, and the server goes on.
func TestHostileReplySubject(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	carrier, node, log := openLogging(t, config(s), false)
	serve(t, node, "u1.echo")
	conn := connect(t, s)
	client := transport.NewGID().String() // for what has none is not ours
	for _, reply := range []string{strings.Repeat("a", 5000), "a..b", ".a", "a.", "a.*", ">", "$JS.ACK.x", "a b", "a\x01b"} {
		m := natsgo.NewMsg("u1.echo")
		m.Header.Set("Reply-To", reply)
		m.Header.Set(transport.HeaderClientGID, client)
		m.Data = []byte("x")
		check(t, conn.PublishMsg(m))
		if !strings.Contains(reply, " ") {
			check(t, conn.PublishRequest("u1.echo", reply[:min(len(reply), 1000)], []byte("x")))
		}
	}
	check(t, conn.Flush())
	callEcho(t, node) // behind the others
	roundTrip(t, node)
	if got := carrier.Dropped(); got != 0 {
		t.Errorf("%d messages were dropped", got)
	}
	select {
	case m := <-log.messages:
		t.Errorf("the log says %q", m)
	default:
	}
}

// Who can write to the book of a stream does not borrow the rights of the nodes that read it.
func TestHostileHolder(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	node, js := openNode(t, kept(s)), jetStream(t, s)
	_, err := js.CreateStream(limited(t), jetstream.StreamConfig{Name: "VICTIM", Subjects: []string{"victim"}})
	check(t, err)
	pub := newPublisher(node)
	for i, record := range []string{`{"holder":"$JS.API.STREAM.DELETE.VICTIM"}`, `{"holder":"a..b"}`, `{"holder":">"}`, `{"left":-1}`, `{"holder":1}`, "x"} {
		in := durable()
		in.Durable = fmt.Sprintf("d%d", i)
		_, err = js.Publish(limited(t), "$POSTBUS.book.KEPT.claim.durable-"+in.Durable, []byte(record))
		check(t, err)
		got, stop := receive(t, node, in) // nobody has the name
		pub.publish(t, 1)
		ack(t, got.next())
		stop()
	}
	_, err = js.Stream(limited(t), "VICTIM")
	check(t, err)
}

// Answers that nobody waits for are not read from the bucket, and of those to a client not too many at once.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := config(s)
	c.Objects.Bucket = "bodies"
	carrier, node, log := openLogging(t, c, false)
	serve(t, node, "u1.echo")
	client, err := service.NewClient(node, "u1.echo")
	check(t, err)
	_, err = jetStream(t, s).Publish(limited(t), "$O.bodies.M."+base64.URLEncoding.EncodeToString([]byte("a@b")),
		[]byte(`{"name":"a@b","bucket":"bodies","nuid":"abc","size":1000,"chunks":1}`)) // a body that never comes
	check(t, err)
	conn := connect(t, s)
	const n, most = 1500, 1024 // of them may wait for their bodies
	flood := func(gid transport.GID) {
		for range n {
			m := natsgo.NewMsg(carrier.Address() + "." + gid.String() + ".1")
			m.Header.Set(transport.HeaderSourceTimestamp, "1")
			m.Header.Set("Message-ID", "a@b")
			m.Header.Set("Body-Object", "a@b")
			check(t, conn.PublishMsg(m))
		}
		check(t, conn.Flush())
		roundTrip(t, node)
	}
	flood(transport.NewGID())
	callEcho(t, node) // whose answer comes behind the others
	if got := carrier.Dropped(); got != 0 {
		t.Errorf("%d answers to nobody were dropped for want of room", got)
	}
	flood(client.GID())
	log.await(t, "bodies of too many")
	await(t, "those beyond are dropped", func() bool { return carrier.Dropped() == n-most })
}
