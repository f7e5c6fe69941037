//go:build integration

package nats_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport/nats"
)

// TestParted: the server of the reader of a durable name is parted from the others while a message is handled. Another reader, at one of
// those, takes the name and handles it. When they are together again the first is told, though its connection never broke.
func TestParted(t *testing.T) {
	t.Parallel()
	servers, part := startParted(t)
	far := slices.IndexFunc(servers, func(s *server.Server) bool { return !s.JetStreamIsLeader() })
	at := func(s *server.Server) nats.Config {
		c := kept(s)
		c.Streams[0].Replicas = len(servers)
		return c
	}
	near := at(servers[(far+1)%len(servers)])
	first, second := openNode(t, at(servers[far])), openNode(t, near)
	got, _ := receive(t, first, durable())
	leadElsewhere(t, servers[far])
	newPublisher(second).publish(t, 1)
	held := got.next()
	part(far, true)
	var taken *box
	await(t, "the name is free", func() bool {
		taken = newBox(t)
		_, err := second.Receive(durable(), taken)
		return err == nil
	})
	d := taken.next()
	if d.Message.Info.Sequence != 1 {
		t.Errorf("message %d came to the second reader, want 1", d.Message.Info.Sequence)
	}
	ack(t, d)
	await(t, "the first reader does not count on the message any more", held.Lost)
	part(far, false)
	if err := held.Ack(); err == nil {
		t.Error("both readers could acknowledge the message")
	}
	if !held.Lost() {
		t.Error("the message counts as the first reader's again")
	}
	taken.empty(0)
	got.empty(0)
}

// leadElsewhere has other servers lead the streams and the durable name, so that the test need not wait for them to find out that
// this one is away.
func leadElsewhere(t *testing.T, s *server.Server) {
	const account = "$G"
	await(t, "others lead", func() bool {
		led := false
		for _, stream := range []string{"KEPT", "KEPT_DEAD", "KEPT_BOOK"} {
			if s.JetStreamIsStreamLeader(account, stream) {
				check(t, s.JetStreamStepdownStream(account, stream))
				led = true
			}
		}
		if s.JetStreamIsConsumerLeader(account, "KEPT", "durable-d") {
			check(t, s.JetStreamStepdownConsumer(account, "KEPT", "durable-d"))
			led = true
		}
		return !led
	})
}
