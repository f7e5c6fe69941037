package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// jetStream returns JetStream as a program without postbus sees it.
func jetStream(t testing.TB, s *server.Server) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestStreamsAreCreated(t *testing.T) {
	s := startServer(t, withJetStream(t))
	c := config(s)
	c.Streams = []nats.Stream{{
		Name: "ORDERS", Names: []string{"/orders/>", "orders.*"}, MaxAge: time.Hour, MaxBytes: 1 << 20, MaxMessages: 1000, Storage: "memory",
	}}
	open(t, c)
	js := jetStream(t, s)
	stream, err := js.Stream(limited(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	got := stream.CachedInfo().Config
	if fmt.Sprint(got.Subjects) != "[/.orders.> orders.*]" || got.MaxAge != time.Hour || got.MaxBytes != 1<<20 || got.MaxMsgs != 1000 ||
		got.Storage != jetstream.MemoryStorage || got.Duplicates != 2*time.Minute || got.Replicas != 1 {
		t.Errorf("the stream is %+v", got)
	}
	for _, name := range []string{"ORDERS_DEAD", "ORDERS_BOOK"} {
		if _, err := js.Stream(limited(t), name); err != nil {
			t.Errorf("stream %s: %v", name, err)
		}
	}
	open(t, c) // which finds it as it should be
}

// A stream that is not as the configuration says is left alone, and the error says in what.
func TestStreamsAreNotAltered(t *testing.T) {
	s := startServer(t, withJetStream(t))
	was := nats.Stream{Name: "S", Names: []string{"/a", "/b"}, MaxAge: time.Hour}
	c := config(s)
	c.Streams = []nats.Stream{was}
	open(t, c)
	for field, change := range map[string]func(*nats.Stream){
		"max-age":      func(s *nats.Stream) { s.MaxAge = 2 * time.Hour },
		"max-bytes":    func(s *nats.Stream) { s.MaxBytes = 1 },
		"max-messages": func(s *nats.Stream) { s.MaxMessages = 1 },
		"names":        func(s *nats.Stream) { s.Names = []string{"/a"} },
		"storage":      func(s *nats.Stream) { s.Storage = "memory" },
		"duplicates":   func(s *nats.Stream) { s.Duplicates = time.Second },
	} {
		other := was
		change(&other)
		c.Streams = []nats.Stream{other}
		_, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
		if err == nil || !strings.Contains(err.Error(), "stream S: "+field+": the server has") {
			t.Errorf("another %s: %v", field, err)
		}
	}
	stream, err := jetStream(t, s).Stream(limited(t), "S")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config; got.MaxAge != time.Hour || len(got.Subjects) != 2 {
		t.Errorf("the stream has become %+v", got)
	}
}

// What a stream must not have, whoever made it: it would lose or refuse what is sent to it, or take it without a word.
func TestStreamsOfOthers(t *testing.T) {
	s := startServer(t, withJetStream(t))
	js := jetStream(t, s)
	for field, change := range map[string]func(*jetstream.StreamConfig){
		"discard":            func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew },
		"no acknowledgement": func(c *jetstream.StreamConfig) { c.NoAck = true },
		"largest message":    func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 },
		"consumers":          func(c *jetstream.StreamConfig) { c.MaxConsumers = 1 },
		"mirror or sources":  func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "OTHER"}} },
		"idle consumers":     func(c *jetstream.StreamConfig) { c.ConsumerLimits.InactiveThreshold = time.Hour },
		"transform of subjects": func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "/.a", Destination: "/.b"}
		},
	} {
		// In memory: a server may still be removing the files of the one before.
		c := jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"/.>"}, Storage: jetstream.MemoryStorage, Duplicates: 2 * time.Minute, Replicas: 1}
		change(&c)
		_, err := js.CreateStream(limited(t), c)
		if err != nil {
			t.Fatalf("%s: %v", field, err)
		}
		config := kept(s)
		config.Streams[0].Storage = "memory"
		_, err = nats.Open(limited(t), config, nats.Options{Logger: quiet})
		if err == nil || !strings.Contains(err.Error(), "stream KEPT: "+field+": the server has") {
			t.Errorf("%s: %v", field, err)
		}
		if err := js.DeleteStream(limited(t), "KEPT"); err != nil {
			t.Fatal(err)
		}
	}
}

// What a consumer must not have, whoever made or altered it: it would lose messages or keep them back without a word.
func TestConsumersOfOthers(t *testing.T) {
	s := startServer(t, withJetStream(t))
	_, node, log := openLogging(t, kept(s), false)
	js := jetStream(t, s)
	create := func(name string, change func(*jetstream.ConsumerConfig)) {
		t.Helper()
		c := jetstream.ConsumerConfig{
			Durable: "durable-" + name, FilterSubject: "/.t", MaxDeliver: -1, AckPolicy: jetstream.AckExplicitPolicy,
			Metadata: map[string]string{"postbus-kind": transport.TopicMessage.String(), "postbus-name": "/t"},
		}
		change(&c)
		_, err := js.CreateConsumer(limited(t), "KEPT", c)
		check(t, err)
	}
	n := 0
	for field, change := range map[string]func(*jetstream.ConsumerConfig){
		"filter":              func(c *jetstream.ConsumerConfig) { c.FilterSubject = "/.u" },
		"max deliver":         func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 1 },
		"backoff":             func(c *jetstream.ConsumerConfig) { c.MaxDeliver, c.BackOff = 2, []time.Duration{time.Second} },
		"headers only":        func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true },
		"replay":              func(c *jetstream.ConsumerConfig) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy },
		"inactive threshold":  func(c *jetstream.ConsumerConfig) { c.InactiveThreshold = time.Hour },
		"max request batch":   func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 1 },
		"max request expires": func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = time.Second },
		"max request bytes":   func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 1000 },
	} {
		n++
		name := fmt.Sprint(n)
		create(name, change)
		in := durable()
		in.Durable = name
		_, err := node.Receive(in, newBox(t))
		if err == nil || !strings.Contains(err.Error(), "consumer durable-"+name+" of stream KEPT: "+field+": the server has") {
			t.Errorf("%s: %v", field, err)
		}
	}

	create("d", func(c *jetstream.ConsumerConfig) { c.AckWait = 2 * time.Second }) // one that is as it should be
	got, _ := receive(t, node, durable())
	newPublisher(node).publish(t, 1)
	ack(t, got.next())
	if len(log.messages) > 0 {
		t.Errorf("the log says %q", <-log.messages)
	}
}

// A server that refuses each time to give messages is logged once.
func TestRefusedPulls(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	_, node, log := openLogging(t, kept(s), false)
	conn := connect(t, s)
	const refused = 4
	var pulls atomic.Int32
	_, err := conn.Subscribe("$JS.API.CONSUMER.MSG.NEXT.KEPT.durable-d", func(m *natsgo.Msg) {
		if pulls.Add(1) <= refused {
			check(t, m.RespondMsg(&natsgo.Msg{Header: natsgo.Header{"Status": {"409"}, "Description": {"Exceeded MaxRequestBatch of 1"}}}))
		}
	})
	check(t, err)
	check(t, conn.Flush())
	got, _ := receive(t, node, durable())
	log.await(t, "no messages come")
	await(t, "messages have been asked for once more", func() bool { return pulls.Load() > refused })
	newPublisher(node).publish(t, 1)
	ack(t, got.next())
	log.await(t, "messages come again")
	if len(log.messages) > 0 {
		t.Errorf("the log also says %q", <-log.messages)
	}
}

// A message is larger than what is asked for at a time, because max_payload of the server was larger when it was sent.
func TestLargeStored(t *testing.T) {
	t.Parallel()
	options := withJetStream(t)
	s := startServer(t, func(o *server.Options) {
		options(o)
		o.MaxPayload = 16 << 20
	})
	node := openNode(t, kept(s))
	_, stop := receive(t, node, durable())
	stop()
	pub := newPublisher(node)
	pub.publish(t, 1)
	large := pub.message()
	large.Body = make([]byte, 9<<20)
	check(t, node.Send(limited(t), large))
	pub.publish(t, 1)
	closeNode(t, node)
	stopServer(s)
	s = startServer(t, options)
	for _, in := range []transport.Interest{durable(), durable(), {Kind: transport.TopicMessage, Name: "/t", Last: 3}} {
		node := openNode(t, kept(s))
		got, _ := receive(t, node, in)
		for n := range uint64(3) {
			if m := got.next().Message; m.Info.Sequence != n+1 || n == 1 && len(m.Body) != len(large.Body) {
				t.Errorf("message %d came with %d bytes, want message %d", m.Info.Sequence, len(m.Body), n+1)
			}
		}
		closeNode(t, node) // which gives back what is not settled
	}
}

// A bucket for bodies that is not as the configuration says is left alone, and the error says in what.
func TestBucketsAreNotAltered(t *testing.T) {
	s := startServer(t, withJetStream(t))
	was := nats.Objects{Bucket: "bodies", MaxAge: time.Hour, MaxBytes: 1 << 20}
	c := config(s)
	c.Objects = was
	open(t, c)
	for field, change := range map[string]func(*nats.Objects){
		"max-age":   func(o *nats.Objects) { o.MaxAge = 2 * time.Hour },
		"max-bytes": func(o *nats.Objects) { o.MaxBytes = 0 },
		"storage":   func(o *nats.Objects) { o.Storage = "memory" },
	} {
		c.Objects = was
		change(&c.Objects)
		_, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
		if err == nil || !strings.Contains(err.Error(), "bucket bodies: "+field+": the server has") {
			t.Errorf("another %s: %v", field, err)
		}
	}
}

// Somebody gives the subjects of a stream to another one. What that takes has not certainly not been sent.
func TestSubjectsOfAnotherStream(t *testing.T) {
	s := startServer(t, withJetStream(t))
	carrier := open(t, kept(s))
	js := jetStream(t, s)
	stream, err := js.Stream(limited(t), "KEPT")
	check(t, err)
	changed := stream.CachedInfo().Config
	changed.Subjects = []string{"/.other"}
	_, err = js.UpdateStream(limited(t), changed)
	check(t, err)
	_, err = js.CreateStream(limited(t), jetstream.StreamConfig{Name: "TAKER", Subjects: []string{"/.t"}})
	check(t, err)
	m := newPublisher(nil).message()
	m.ID = transport.ParseID("a@b")
	for _, want := range []struct {
		outcome transport.Outcome
		text    string
	}{{transport.Unknown, "another stream has taken the message: it is TAKER"}, {transport.Temporary, "stream KEPT: names: the server has"}} {
		err := carrier.Send(limited(t), m)
		failed, ok := errors.AsType[*transport.SendError](err)
		if !ok || failed.Outcome != want.outcome || !strings.Contains(err.Error(), want.text) {
			t.Errorf("got the error %v, want %q", err, want.text)
		}
	}
}

func TestInvalidStreams(t *testing.T) {
	for want, c := range map[string]nats.Config{
		"name: ":                {Streams: []nats.Stream{{Name: "a.b", Names: []string{"x"}}}},
		"names: there are none": {Streams: []nats.Stream{{Name: "S"}}},
		"invalid name":          {Streams: []nats.Stream{{Name: "S", Names: []string{"a b"}}}},
		`">" is not possible`:   {Streams: []nats.Stream{{Name: "S", Names: []string{">"}}}},
		"storage: ":             {Streams: []nats.Stream{{Name: "S", Names: []string{"x"}, Storage: "tape"}}},
		"replicas: ":            {Streams: []nats.Stream{{Name: "S", Names: []string{"x"}, Replicas: 6}}},
		"max-age":               {Streams: []nats.Stream{{Name: "S", Names: []string{"x"}, MaxAge: -1}}},
		"duplicates: ":          {Streams: []nats.Stream{{Name: "S", Names: []string{"x"}, MaxAge: time.Second, Duplicates: time.Minute}}},
		`"*.x" is not possible`: {Streams: []nats.Stream{{Name: "S", Names: []string{"*.x"}}}},
		`"x" is there twice`:    {Streams: []nats.Stream{{Name: "S", Names: []string{"x", "y", "x"}}}},
		`"S_DEAD" is there`:     {Streams: []nats.Stream{{Name: "S", Names: []string{"x"}}, {Name: "S_DEAD", Names: []string{"y"}}}},
		"is there twice":        {Streams: []nats.Stream{{Name: "S", Names: []string{"x"}}, {Name: "S", Names: []string{"y"}}}},
		"bucket: there is no":   {Objects: nats.Objects{MaxBytes: 1}},
		"bucket: \"a b\"":       {Objects: nats.Objects{Bucket: "a b"}},
		"objects: max-age":      {Objects: nats.Objects{Bucket: "b", MaxAge: -1}},
		"objects: storage":      {Objects: nats.Objects{Bucket: "b", Storage: "tape"}},
		"objects: replicas: ":   {Objects: nats.Objects{Bucket: "b", Replicas: -1}},
	} {
		c.Servers = []string{"nats://127.0.0.1:1"}
		_, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "configuration") {
			t.Errorf("%s: the error is %v", want, err)
		}
	}
}

func TestWithoutJetStream(t *testing.T) {
	s := startServer(t, nil)
	_, err := nats.Open(limited(t), kept(s), nats.Options{Logger: quiet})
	if err == nil || !strings.Contains(err.Error(), "the server has no JetStream") {
		t.Errorf("a server without JetStream: %v", err)
	}
	node := openNode(t, config(s))
	for _, in := range []transport.Interest{durable(), {Kind: transport.TopicMessage, Name: "/t", Last: 1}} {
		_, err := node.Receive(in, newBox(t))
		if !errors.Is(err, transport.ErrNotSupported) || !strings.Contains(err.Error(), "streams") {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

// A program is started before its server. What it has stated and tried to send goes on by itself.
func TestOfflineAtFirst(t *testing.T) {
	t.Parallel()
	options := withJetStream(t)
	s := startServer(t, options)
	c, port := kept(s), s.Addr()
	stopServer(s)
	carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	node, err := transport.NewNode(carrier, &transport.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNode(t, node) })
	got, _ := receive(t, node, durable())
	last, _ := receive(t, node, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 3})
	pub := newPublisher(node)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var failed *transport.SendError
	m := pub.message()
	m.ID = transport.NewID(pub.gid, pub.n, "example")
	if err := carrier.Send(ctx, m); !errors.As(err, &failed) || failed.Outcome != transport.Temporary {
		t.Errorf("sending without a server: %v", err)
	}
	s = startServer(t, func(o *server.Options) {
		options(o)
		fmt.Sscan(port.String()[strings.LastIndexByte(port.String(), ':')+1:], &o.Port)
	})
	// Until the consumer is there nothing is for it.
	js := jetStream(t, s)
	await(t, "the durable name begins", func() bool {
		_, err := js.Consumer(limited(t), "KEPT", "durable-d")
		return err == nil
	})
	pub.publish(t, 1)
	ack(t, got.next())
	last.next()
}
