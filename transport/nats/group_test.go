package nats_test

import (
	"errors"
	"testing"

	"github.com/postbus/postbus/transport"
)

// Groups of one name without a stream are different ones when their kind, name or pattern is: none takes messages from
// another.
func TestGroupsAreOfOneInterest(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	node := openNode(t, config(s))
	boxes := make(map[string]*box)
	for what, in := range map[string]transport.Interest{
		"servers of the name":              {Kind: transport.Request, Name: "x.y"},
		"servers of the pattern":           {Kind: transport.Request, Name: "x.*"},
		"subscriptions of the name":        {Kind: transport.TopicMessage, Name: "x.y"},
		"subscriptions of the pattern":     {Kind: transport.TopicMessage, Name: "x.*"},
		"subscriptions of another pattern": {Kind: transport.TopicMessage, Name: "x.>"},
	} {
		in.Group = "g"
		boxes[what], _ = receive(t, node, in)
		receive(t, node, in) // a second member, which must not get all
	}
	conn := connect(t, s)
	foreign, err := conn.QueueSubscribeSync("x.y", "g")
	check(t, err)
	check(t, conn.Flush())
	const n = 100
	topic, client := transport.NewGID(), transport.NewGID()
	for i := range uint64(n) {
		check(t, node.Send(limited(t), &transport.Message{Kind: transport.TopicMessage, Name: "x.y", Info: transport.Info{PublisherGID: topic, Sequence: i + 1}}))
		check(t, node.Send(limited(t), &transport.Message{Kind: transport.Request, Name: "x.y", Info: transport.Info{ClientGID: client, Sequence: i + 1, RequestSequence: i + 1}}))
	}
	roundTrip(t, node)
	for what, box := range boxes {
		for range 5 { // all but impossible to miss among so many
			box.next()
		}
		if got := len(box.all); got >= n-5 {
			t.Errorf("%s: one of several members got %d messages", what, got+5)
		}
	}
	check(t, conn.Flush())
	if waiting, _, err := foreign.Pending(); err != nil || waiting == 0 {
		t.Errorf("a member of another program got %d messages: %v", waiting, err)
	}
}

// The lease of a group is that of its first member. Others hear once that they want another one, also in the same process.
func TestOneLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	_, node, log := openLogging(t, kept(s), false)
	in := inGroup()
	receive(t, node, in)
	receive(t, node, in)
	if len(log.messages) > 0 {
		t.Errorf("the log says %q", <-log.messages)
	}
	in.Lease *= 2
	receive(t, node, in)
	receive(t, node, in)
	log.await(t, "the lease of a consumer is that of its first user")
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
}

// A durable name that was tried with another topic can be used with its own afterwards.
func TestNameAfterMistake(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	first := openNode(t, kept(s))
	_, stop := receive(t, first, durable())
	stop()
	second := openNode(t, kept(s))
	wrong := durable()
	wrong.Name = "/wrong"
	if _, err := second.Receive(wrong, newBox(t)); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("another topic: %v", err)
	}
	newPublisher(first).publish(t, 1)
	got, _ := receive(t, second, durable())
	ack(t, got.wants(1))
}
