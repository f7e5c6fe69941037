package nats_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/postbus/postbus/transport"
)

// The last messages of rare and of frequent topics are found in a long stream, whatever is between them.
func TestLastInLongStream(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Streams[0].Storage = "memory"
	node := openNode(t, c)
	js := jetStream(t, s)
	r := rand.New(rand.NewPCG(3, 4))
	bodies := make(map[string][]string)
	const n = 20_000
	for i := range n {
		name := "/often"
		switch {
		case i < 3, r.IntN(2000) == 0:
			name = "/rare"
		case i < 8000 && i > 5000: // long ago there were many
			name = "/burst"
		case r.IntN(10) == 0:
			name = "/some"
		}
		m := &natsgo.Msg{Subject: "/." + name[1:], Data: fmt.Append(nil, i), Header: natsgo.Header{}}
		if r.IntN(4) == 0 { // a request is none of them
			m.Header.Set(transport.HeaderClientGID, transport.NewGID().String())
		} else {
			bodies[name] = append(bodies[name], string(m.Data))
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			<-js.PublishAsyncComplete()
		}
	}
	for _, name := range []string{"/often", "/rare", "/burst", "/some", "/never"} {
		for _, last := range []int{1, 2, 7, 50, 1000, transport.MaxLast} {
			in := transport.Interest{Kind: transport.TopicMessage, Name: name, Last: last}
			if last%2 == 0 {
				in.Durable = fmt.Sprintf("d-%d-%s", last, name[1:])
			}
			got, stop := receive(t, node, in)
			all := bodies[name]
			want := all[max(0, len(all)-last):]
			var came []string
			for range want {
				d := got.next()
				came = append(came, string(d.Message.Body))
				ack(t, d)
			}
			if !slices.Equal(came, want) {
				t.Errorf("the last %d of %s: %d came, from %.5v on, want from %.5v on", last, name, len(came), came, want)
			}
			stop()
		}
	}
}

// Who follows a stream from its last messages on loses nothing when the connection is cut.
func TestLastAcrossCuts(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	node, pub := openNode(t, c), newPublisher(openNode(t, kept(s)))
	pub.publish(t, 10)
	got, _ := receive(t, node, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 5})
	const n = 210
	var publishing sync.WaitGroup
	defer publishing.Wait()
	publishing.Go(func() {
		for range 4 {
			pub.publish(t, 50)
			p.Cut()
		}
	})
	for want := uint64(6); want <= n; want++ {
		if seq := got.next().Message.Info.Sequence; seq != want {
			t.Fatalf("message %d came, want %d", seq, want)
		}
	}
}

// TestLastOnce: a message is sent again when the stream has forgotten that it has it. Who follows the stream gets it once.
func TestLastOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	c.Streams[0].Duplicates = 100 * time.Millisecond
	node := openNode(t, c)
	got, _ := receive(t, node, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 1})
	pub := newPublisher(node)
	m := pub.message()
	again := *m
	check(t, node.Send(limited(t), m))
	again.ID = m.ID
	stream, err := jetStream(t, s).Stream(limited(t), "KEPT")
	check(t, err)
	await(t, "the stream has it twice", func() bool {
		repeated := again
		check(t, node.Send(limited(t), &repeated))
		info, err := stream.Info(limited(t))
		return err == nil && info.State.Msgs > 1
	})
	pub.publish(t, 1)
	for want := uint64(1); want <= 2; want++ {
		if seq := got.next().Message.Info.Sequence; seq != want {
			t.Errorf("message %d came, want %d", seq, want)
		}
	}
}
