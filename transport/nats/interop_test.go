package nats_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// openNode opens a node until the test ends.
func openNode(t testing.TB, c nats.Config) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(open(t, c), &transport.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNode(t, node) })
	return node
}

func closeNode(t testing.TB, node *transport.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := node.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPlainPublisher(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	sub, err := pubsub.NewSubscription(node, "kiam.console.>", pubsub.KeepAll())
	check(t, err)
	check(t, plain.Publish("kiam.console.action.iplocation", []byte(`{"ip":"::1"}`)))
	check(t, plain.PublishRequest("kiam.console.a", "_INBOX.x.y", nil)) // as JetStream's publishers do
	check(t, plain.Publish("kiam.console.a/b", []byte("a slash")))
	check(t, plain.Publish("kiam.console.a:b", []byte("no name has a colon")))
	with := natsgo.NewMsg("kiam.console.headers")
	with.Header = natsgo.Header{
		"Trace": {"1", "2"}, "Nats-Msg-Id": {"id-1"}, "Content-Type": {"application/json"},
		"Bad": {"a\x00b"}, "Subject": {"other"}, "Message-Id": {"not ours in this case"}, "In-Reply-To": {"<x@y>"},
	}
	check(t, plain.PublishMsg(with))

	want := []transport.Message{
		{Name: "kiam.console.action.iplocation", Body: []byte(`{"ip":"::1"}`)},
		{Name: "kiam.console.a"},
		{Name: "kiam.console.a/b", Body: []byte("a slash")},
		{
			Name: "kiam.console.headers", ContentType: "application/json", ID: transport.ParseID("id-1"),
			Header: transport.Header{{Name: "Trace", Value: "1"}, {Name: "Trace", Value: "2"}},
		},
	}
	for _, w := range want {
		m, err := sub.Next(limited(t))
		check(t, err)
		if m.Kind != transport.TopicMessage || m.Name != w.Name || string(m.Body) != string(w.Body) || m.ContentType != w.ContentType ||
			m.ID != w.ID || fmt.Sprint(m.Header) != fmt.Sprint(w.Header) || !m.InReplyTo.IsZero() {
			t.Errorf("got %+v, want %+v", m, w)
		}
		if m.Info.SourceTime.IsZero() || m.Info.ReceivedTime.IsZero() || !m.Info.PublisherGID.IsZero() {
			t.Errorf("%s came with %+v", m.Name, m.Info)
		}
	}
}

func TestPlainSubscriber(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	for name, subject := range map[string]string{"u1.temp": "u1.temp", "/robot/odom": "/.robot.odom"} {
		sub, err := plain.SubscribeSync(subject)
		check(t, err)
		check(t, plain.Flush())
		pub, err := pubsub.NewPublisher(node, name)
		check(t, err)
		check(t, pub.Publish(limited(t), []byte("21"), transport.WithContentType("text/plain"), transport.WithHeader("Unit", "C")))
		m, err := sub.NextMsgWithContext(limited(t))
		check(t, err)
		if string(m.Data) != "21" || m.Reply != "" {
			t.Errorf("got %q with the reply subject %q", m.Data, m.Reply)
		}
		for field, want := range map[string]string{
			"Unit": "C", "Content-Type": "text/plain", transport.HeaderPublisherGID: pub.GID().String(), transport.HeaderPublisherSequence: "1",
		} {
			if got := m.Header.Get(field); got != want {
				t.Errorf("field %s is %q, want %q", field, got, want)
			}
		}
	}
}

// upper is a service of ours that fails when it is told to.
func upper(_ context.Context, r *transport.Message) ([]byte, error) {
	switch string(r.Body) {
	case "fail":
		return nil, &transport.RemoteError{Code: 42, Text: "it failed\nas it was told"}
	case "fail silently":
		return nil, &transport.RemoteError{Code: 43}
	}
	return []byte(strings.ToUpper(string(r.Body))), nil
}

func serve(t testing.TB, node *transport.Node, name string, options ...service.ServerOption) *service.Server {
	t.Helper()
	server, err := service.NewServer(node, name, options...)
	check(t, err)
	check(t, server.Handle(upper))
	return server
}

func TestPlainRequester(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	serve(t, node, "u1.*")
	for range 2 { // the same request is no repetition
		m, err := plain.RequestWithContext(limited(t), "u1.echo", []byte("hello"))
		check(t, err)
		if string(m.Data) != "HELLO" || len(m.Header) > 0 {
			t.Errorf("got %q with %v", m.Data, m.Header)
		}
	}
	for body, want := range map[string][3]string{
		"fail": {"42", "it failed", "it failed\nas it was told"}, "fail silently": {"43", "error", ""},
	} {
		m, err := plain.RequestWithContext(limited(t), "u1.echo", []byte(body))
		check(t, err)
		got := [3]string{m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader), string(m.Data)}
		if got != want {
			t.Errorf("the error is %q, want %q", got, want)
		}
	}
	if _, err := plain.RequestWithContext(limited(t), "u2.echo", nil); !errors.Is(err, natsgo.ErrNoResponders) {
		t.Errorf("request nobody serves: %v", err)
	}
}

// TestPlainRequestsOnOneInbox sends several requests with one reply subject.
func TestPlainRequestsOnOneInbox(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	serve(t, node, "u1.echo")
	answers, err := plain.SubscribeSync("my.answers")
	check(t, err)
	seen := make(map[string]bool)
	for _, body := range []string{"a", "b", "c"} {
		check(t, plain.PublishRequest("u1.echo", "my.answers", []byte(body)))
	}
	for range 3 {
		m, err := answers.NextMsgWithContext(limited(t))
		check(t, err)
		seen[string(m.Data)] = true
	}
	if len(seen) != 3 {
		t.Errorf("got the answers %v", seen)
	}
}

func TestPlainResponder(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	_, err := plain.Subscribe("u1.echo", func(m *natsgo.Msg) {
		if m.Header.Get(transport.HeaderClientGID) == "" {
			t.Errorf("the request has the header %v", m.Header)
		}
		_ = m.Respond(append([]byte("re: "), m.Data...))
	})
	check(t, err)
	check(t, plain.Flush())
	client, err := service.NewClient(node, "u1.echo")
	check(t, err)
	m, err := client.Call(limited(t), []byte("hello"))
	check(t, err)
	if string(m.Body) != "re: hello" || m.Kind != transport.Response || m.Name != "u1.echo" {
		t.Errorf("got %+v", m)
	}
}

func TestMicroService(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	svc, err := micro.AddService(plain, micro.Config{Name: "adder", Version: "1.0.0", Endpoint: &micro.EndpointConfig{
		Subject: "add",
		Handler: micro.HandlerFunc(func(r micro.Request) {
			switch string(r.Data()) {
			case "fail":
				_ = r.Error("42", "it failed", []byte("data"))
			case "word":
				_ = r.Error("BAD", "it failed", nil)
			default:
				_ = r.Respond([]byte("3"), micro.WithHeaders(micro.Headers{"Trace": {"1"}}))
			}
		}),
	}})
	check(t, err)
	defer func() { check(t, svc.Stop()) }()
	check(t, plain.Flush())
	client, err := service.NewClient(node, "add")
	check(t, err)
	m, err := client.Call(limited(t), []byte("1 2"))
	check(t, err)
	if string(m.Body) != "3" || m.Header.Get("Trace") != "1" {
		t.Errorf("got %+v", m)
	}
	for body, want := range map[string]transport.RemoteError{"fail": {Code: 42, Text: "it failed"}, "word": {Code: 500, Text: "BAD: it failed"}} {
		_, err := client.Call(limited(t), []byte(body))
		if got, ok := errors.AsType[*transport.RemoteError](err); !ok || *got != want {
			t.Errorf("got the error %v, want %v", err, want)
		}
	}
}

func TestCallNobodyServes(t *testing.T) {
	s := startServer(t, nil)
	node := openNode(t, config(s))
	client, err := service.NewClient(node, "/nobody")
	check(t, err)
	_, err = client.Call(limited(t), nil)
	if !errors.Is(err, transport.ErrNoResponder) || errors.Is(err, transport.ErrUndeliverable) {
		t.Errorf("got the error %v", err)
	}
	server := serve(t, node, "/nobody")
	_, err = client.Call(limited(t), nil)
	check(t, err)
	check(t, server.Close())
	if _, err = client.Call(limited(t), nil); !errors.Is(err, transport.ErrNoResponder) {
		t.Errorf("when the server has gone: %v", err)
	}
}

// TestQueueGroup has a member of ours and one of another program.
func TestQueueGroup(t *testing.T) {
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	sub, err := pubsub.NewSubscription(node, "jobs", pubsub.Group("workers"))
	check(t, err)
	other, err := plain.QueueSubscribeSync("jobs", "workers:topic")
	check(t, err)
	check(t, plain.Flush())
	const n = 100
	for i := range n {
		check(t, plain.Publish("jobs", fmt.Append(nil, i)))
	}
	check(t, plain.Publish("jobs", []byte("end")))
	check(t, plain.Flush())
	seen := make(map[string]int)
	theirs, _, err := other.Pending()
	check(t, err)
	for range theirs {
		m, err := other.NextMsgWithContext(limited(t))
		check(t, err)
		seen[string(m.Data)]++
	}
	for range n + 1 - theirs {
		m, err := sub.Next(limited(t))
		check(t, err)
		seen[string(m.Body)]++
	}
	if len(seen) != n+1 || theirs == 0 || theirs == n+1 {
		t.Errorf("%d different messages came, %d of them to the other", len(seen), theirs)
	}
}

// TestGroupServerCloses closes a member that has requests in its queue: nobody else gets them, so their callers are told.
func TestGroupServerCloses(t *testing.T) {
	s := startServer(t, nil)
	node := openNode(t, config(s))
	server, err := service.NewServer(node, "u1.echo", service.Group("g"))
	check(t, err)
	client, err := service.NewClient(node, "u1.echo")
	check(t, err)
	number, err := client.Send(limited(t), []byte("x"))
	check(t, err)
	arrived := make(chan struct{}, 10)
	defer server.Watch(func() { arrived <- struct{}{} })()
	for !server.Ready() {
		<-arrived
	}
	check(t, server.Close())
	_, err = client.Response(limited(t), number)
	if remote, ok := errors.AsType[*transport.RemoteError](err); !ok || remote.Code != service.CodeClosing {
		t.Errorf("got the error %v", err)
	}
}

// TestMonitoring asks what "nats micro list", "info" and "stats" ask.
func TestMonitoring(t *testing.T) {
	s := startServer(t, nil)
	plain := connect(t, s)
	c := config(s)
	c.Name, c.Version, c.Description = "calculator", "1.2.3", "calculates"
	node := openNode(t, c)
	ask := func(answer any, verb micro.Verb, name, id string) error {
		subject, err := micro.ControlSubject(verb, name, id)
		check(t, err)
		m, err := plain.RequestWithContext(limited(t), subject, nil)
		if err != nil {
			return err
		}
		return json.Unmarshal(m.Data, answer)
	}
	var ping micro.Ping
	if err := ask(&ping, micro.PingVerb, "", ""); !errors.Is(err, natsgo.ErrNoResponders) {
		t.Errorf("a service is there before the first server: %v", err)
	}
	first, second := serve(t, node, "/calc/upper"), serve(t, node, "calc.*", service.Group("calc"))
	check(t, ask(&ping, micro.PingVerb, "calculator", ""))
	if ping.Name != "calculator" || ping.Version != "1.2.3" || ping.Type != micro.PingResponseType {
		t.Errorf("ping: %+v", ping)
	}
	var info micro.Info
	check(t, ask(&info, micro.InfoVerb, "calculator", ping.ID))
	got := fmt.Sprintf("%s: %v", info.Description, info.Endpoints)
	if want := "calculates: [{calc_upper /.calc.upper  map[]} {calc calc.* calc:service:calc.%2A map[]}]"; got != want {
		t.Errorf("info: %s, want %s", got, want)
	}
	for _, body := range []string{"a", "fail", "b"} {
		_, err := plain.RequestWithContext(limited(t), "calc.x", []byte(body))
		check(t, err)
	}
	var stats micro.Stats
	check(t, ask(&stats, micro.StatsVerb, "", ""))
	if len(stats.Endpoints) != 2 || stats.Started.IsZero() {
		t.Fatalf("stats: %+v", stats)
	}
	e := stats.Endpoints[1]
	if e.NumRequests != 3 || e.NumErrors != 1 || e.LastError != "42:it failed\nas it was told" || e.ProcessingTime <= 0 || e.AverageProcessingTime <= 0 {
		t.Errorf("stats: %+v", e)
	}
	check(t, first.Close())
	var left micro.Info
	check(t, ask(&left, micro.InfoVerb, "calculator", ""))
	if len(left.Endpoints) != 1 || left.Endpoints[0].Subject != "calc.*" {
		t.Errorf("when a server has been closed: %+v", left.Endpoints)
	}
	check(t, second.Close())
	roundTrip(t, node)
	if err := ask(&ping, micro.PingVerb, "", ""); !errors.Is(err, natsgo.ErrNoResponders) {
		t.Errorf("the service is there after the last server: %v", err)
	}
}

// roundTrip waits until the server knows all that the node has done.
func roundTrip(t testing.TB, node *transport.Node) {
	t.Helper()
	sub, err := pubsub.NewSubscription(node, "round.trip")
	check(t, err)
	check(t, sub.Close())
}

// callEcho calls the service u1.echo, which upper serves.
func callEcho(t testing.TB, node *transport.Node) {
	t.Helper()
	client, err := service.NewClient(node, "u1.echo")
	check(t, err)
	m, err := client.Call(limited(t), []byte("hello"))
	check(t, err)
	if string(m.Body) != "HELLO" {
		t.Errorf("got the answer %q", m.Body)
	}
}

// TestForeignFields: fields of other programs are not taken for ours because they have the same name.
func TestForeignFields(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	plain, node := connect(t, s), openNode(t, config(s))
	serve(t, node, "u1.echo")
	ask := func(field, value string) (*natsgo.Msg, error) {
		m := natsgo.NewMsg("u1.echo")
		m.Header.Set(field, value)
		m.Data = []byte("hello")
		return plain.RequestMsgWithContext(limited(t), m)
	}
	for field, value := range map[string]string{
		"Reply-To": "bob@example.org", "Deadline": "1000", "Body-Object": "x", "Subject": "a subject", "Message-ID": "<a@b>", "In-Reply-To": "<x@y>",
	} {
		if m, err := ask(field, value); err != nil || string(m.Data) != "HELLO" {
			t.Errorf("a request with the field %s: %+v, %v", field, m, err)
		}
	}
	// What is for a stream is not answered.
	inbox, err := plain.SubscribeSync("answers")
	check(t, err)
	for _, field := range []string{"Nats-TTL", "Nats-Rollup", "Nats-Batch-Id", "Nats-Schedule", "Nats-Expected-Last-Subject-Sequence-Subject"} {
		m := natsgo.NewMsg("u1.echo")
		m.Reply = "answers"
		m.Header.Set(field, "1")
		check(t, plain.PublishMsg(m))
	}
	if _, err := ask("Trace", "1"); err != nil { // behind the others
		t.Error(err)
	}
	check(t, plain.Flush())
	if n, _, err := inbox.Pending(); err != nil || n > 0 {
		t.Errorf("%d messages for a stream were answered, %v", n, err)
	}
}
