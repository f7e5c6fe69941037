package nats_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// The configuration of a client lacks the stream that keeps the service's name: its confirmation is no answer.
func TestConfirmationIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	openNode(t, kept(s)) // makes the stream
	_, node, log := openLogging(t, config(s), false)
	client, err := service.NewClient(node, "/echo")
	check(t, err)
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		if m, err := client.Call(ctx, []byte("hello")); !errors.Is(err, transport.ErrTimeout) {
			t.Errorf("nobody answers, and the answer is %v, %v", m, err)
		}
		cancel()
	}
	log.await(t, "belongs to a stream")
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
	serve(t, node, "/echo")
	m, err := client.Call(limited(t), []byte("hello"))
	check(t, err)
	if string(m.Body) != "HELLO" {
		t.Errorf("got the answer %q", m.Body)
	}
}

// A server whose configuration lacks the stream does not answer a plain publish to it, whose reply subject is the stream's.
func TestPublishToStreamIsNoRequest(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	openNode(t, kept(s))
	node := openNode(t, config(s))
	box, _ := receive(t, node, transport.Interest{Kind: transport.Request, Name: "/echo"})
	js := jetStream(t, s)
	for _, option := range []jetstream.PublishOpt{jetstream.WithMsgID("1"), jetstream.WithExpectStream("KEPT"), jetstream.WithExpectLastSequence(2)} {
		_, err := js.Publish(limited(t), "/.echo", []byte("x"), option)
		check(t, err)
	}
	roundTrip(t, node)
	if n := len(box.all); n > 0 {
		t.Errorf("%d messages for the stream became requests", n)
	}
}

// A program without postbus gives a durable server work: it says in a field where it wants the answer. What can't be answered is left out,
// and logged once.
func TestForeignJobs(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	_, node, log := openLogging(t, kept(s), false)
	serve(t, node, "/jobs", service.Durable("w"))
	js, conn := jetStream(t, s), connect(t, s)
	answers, err := conn.SubscribeSync("answers")
	check(t, err)
	check(t, conn.Flush())
	for range 2 {
		_, err = js.Publish(limited(t), "/.jobs", []byte("nobody"))
		check(t, err)
	}
	for body, want := range map[string]string{"work": "WORK", "fail": "it failed\nas it was told"} {
		_, err = js.PublishMsg(limited(t), &natsgo.Msg{Subject: "/.jobs", Data: []byte(body), Header: natsgo.Header{"Reply-To": {"answers"}}})
		check(t, err)
		answer, err := answers.NextMsg(timeout)
		check(t, err)
		if failed := answer.Header.Get("Nats-Service-Error") != ""; failed != (body == "fail") || string(answer.Data) != want {
			t.Errorf("the answer to %q is %q, %v", body, answer.Data, answer.Header)
		}
	}
	log.await(t, "plain messages to a service are left out")
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
}

// Another program uses an ID again when the stream has forgotten it: it is one for the stream alone, and another message.
func TestForeignIDsAreUsedAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Streams[0].Duplicates = 100 * time.Millisecond
	node, js := openNode(t, c), jetStream(t, s)
	var boxes []*box
	for _, in := range []transport.Interest{
		durable(), inGroup(), {Kind: transport.TopicMessage, Name: "/t", Last: 1}, {Kind: transport.TopicMessage, Name: "/t"},
	} {
		b, _ := receive(t, node, in)
		boxes = append(boxes, b)
	}
	roundTrip(t, node)
	for i := range 2 {
		body := fmt.Append(nil, i)
		await(t, "the stream has forgotten the ID", func() bool {
			done, err := js.Publish(limited(t), "/.t", body, jetstream.WithMsgID("daily-report"))
			check(t, err)
			return !done.Duplicate
		})
	}
	for _, b := range boxes {
		for string(b.next().Message.Body) != "1" {
		}
	}
}
