package bridge_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
	"github.com/postbus/postbus/transport/nats"
)

// startNATS starts a server in this process. It keeps streams in a directory, if that is not empty.
func startNATS(t testing.TB, port int, dir string) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true, JetStream: dir != "", StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	return s
}

// stopNATS stops a server, unless that has been done.
func stopNATS(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// openNATS returns a node on NATS that the test closes itself.
func openNATS(t testing.TB, config nats.Config) *transport.Node {
	t.Helper()
	carrier, err := nats.Open(t.Context(), config, nats.Options{Logger: quiet, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	return nodeOf(t, carrier)
}

func natsNode(t testing.TB, config nats.Config) *transport.Node {
	t.Helper()
	node := openNATS(t, config)
	closeLater(t, node)
	return node
}

// mailToNATS is a bridge between mail and NATS. On mail there are a program and Alice, who gets what comes from NATS.
type mailToNATS struct {
	mailToBus
	plain *natsgo.Conn // of a program that knows nothing of postbus
}

func joinNATS(t testing.TB, texts ...string) *mailToNATS {
	t.Helper()
	mail, s := startMail(t), startNATS(t, server.RANDOM_PORT, "")
	t.Cleanup(func() { stopNATS(s) })
	config := nats.Config{Servers: []string{s.ClientURL()}}
	atBridge := onMail(mail, bridgeAddress, programAddress, aliceAddress)
	atBridge.People = []string{aliceAddress}
	j := &mailToNATS{mailToBus: mailToBus{server: mail, mailOfBridge: mailNode(t, atBridge)}}
	j.onMail, j.onBus = mailNode(t, onMail(mail, programAddress, bridgeAddress)), natsNode(t, config)
	j.bridge = openBridge(t, bridge.Side{Name: "mail", Node: j.mailOfBridge}, bridge.Side{Name: "nats", Node: natsNode(t, config)}, texts...)
	closeLater(t, j.bridge)
	var err error
	if j.plain, err = natsgo.Connect(s.ClientURL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.plain.Close)
	return j
}

// TestNATS: topics and calls cross between mail and NATS, both ways.
func TestNATS(t *testing.T) {
	j := joinNATS(t, "topics <-> /t", "services -> /on/nats", "services <- /on/mail")
	onNATS, onMail := subscribe(t, j.onBus, "/t"), subscribe(t, j.onMail, "/t")
	pub := publisher(t, j.onMail, "/t")
	publish(t, pub, "from mail", transport.WithHeader("Color", "red"), transport.WithFile("a.csv"), transport.WithContentType("text/csv"))
	m := next(t, onNATS)
	if gid, n, ok := m.ID.Origin(); string(m.Body) != "from mail" || m.Header.Get("Color") != "red" || m.Filename != "a.csv" || m.ContentType != "text/csv" ||
		m.Info.Sequence != 1 || m.Info.PublisherGID != pub.GID() || !ok || gid != pub.GID() || n != 1 {
		t.Errorf("got %+v", m)
	}
	publish(t, publisher(t, j.onBus, "/t"), "from NATS")
	if m := next(t, onMail); string(m.Body) != "from NATS" || m.Header.Get(bridge.HeaderWay) != "nats" {
		t.Errorf("got %+v", m)
	}
	serve(t, j.onBus, "/on/nats", echo)
	serve(t, j.onMail, "/on/mail", echo)
	for name, node := range map[string]*transport.Node{"/on/nats": j.onMail, "/on/mail": j.onBus} {
		if answer, err := newClient(t, node, name).Call(t.Context(), []byte(name)); err != nil || string(answer.Body) != name {
			t.Errorf("%s: got %+v, %v", name, answer, err)
		}
	}
	if s := total(t, j.bridge); s.Failed != 0 || s.Dropped != 0 || s.Answered != 2 {
		t.Errorf("%+v", s)
	}
}

// TestNoResponderOnNATS: who calls by mail hears at once that nobody serves the name on NATS.
func TestNoResponderOnNATS(t *testing.T) {
	j := joinNATS(t, "services -> /nobody")
	begin := time.Now()
	_, err := newClient(t, j.onMail, "/nobody").Call(t.Context(), nil)
	if answer := remote(t, err); answer.Code != bridge.CodeNoResponder || !strings.Contains(answer.Text, "no responder") {
		t.Errorf("got %+v", answer)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("after %v, as if it were the deadline", took)
	}
}

// TestPlainNATS: programs that know nothing of postbus, nor of mail, publish to people and answer them.
func TestPlainNATS(t *testing.T) {
	j := joinNATS(t, "topics <-> chat.>", "services -> u1.echo", "services -> u1.fail")
	onMail := subscribe(t, j.onMail, "chat.room")
	heard, err := j.plain.SubscribeSync("chat.room")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.plain.Publish("chat.room", []byte("hello, people")); err != nil {
		t.Fatal(err)
	}
	if m := next(t, onMail); string(m.Body) != "hello, people" || m.Name != "chat.room" {
		t.Errorf("got %+v", m)
	}
	if msg, err := heard.NextMsg(30 * time.Second); err != nil || string(msg.Data) != "hello, people" {
		t.Errorf("got %+v, %v", msg, err)
	}
	// A person's mail, and the answer of a plain subscriber.
	if _, err := j.plain.Subscribe("u1.echo", func(msg *natsgo.Msg) { _ = msg.Respond([]byte("echo " + string(msg.Data))) }); err != nil {
		t.Fatal(err)
	}
	service, err := micro.AddService(j.plain, micro.Config{Name: "u1", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.AddEndpoint("fail", micro.HandlerFunc(func(r micro.Request) { _ = r.Error("42", "out of tea", nil) }), micro.WithEndpointSubject("u1.fail")); err != nil {
		t.Fatal(err)
	}
	if err := j.plain.Flush(); err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct{ name, want string }{{"u1.echo", "echo tea"}, {"u1.fail", "out of tea"}} {
		j.write(t, "Subject: "+test.name, fmt.Sprintf("Message-ID: <call-%d@alice.example>", i), "Content-Type: text/plain", "", "tea")
		if reply := j.awaitMail(t, aliceAddress, fmt.Sprintf("<call-%d@alice.example>", i)); !strings.Contains(reply, test.want) {
			t.Errorf("%s: the reply is:\n%s", test.name, reply)
		}
	}
	// A program's call by mail.
	if _, err := newClient(t, j.onMail, "u1.fail").Call(t.Context(), nil); *remote(t, err) != (transport.RemoteError{Code: 42, Text: "out of tea"}) {
		t.Errorf("got %v", err)
	}
}

// awaitMail returns the first mail of a mailbox that replies to an ID.
func (j *mailToBus) awaitMail(t testing.TB, address, replyTo string) string {
	t.Helper()
	for n := 1; ; n++ {
		mails, err := j.server.WaitMessages(t.Context(), address, n)
		if err != nil {
			t.Fatal(err)
		}
		n = len(mails)
		for _, raw := range mails {
			if parse(t, raw).Header.Get("In-Reply-To") == replyTo {
				return string(raw)
			}
		}
	}
}

// TestPersonAnswersNATS: a plain request on NATS becomes a mail, and what a person replies is its answer.
func TestPersonAnswersNATS(t *testing.T) {
	j := joinNATS(t, "services <- ask.alice")
	type result struct {
		msg *natsgo.Msg
		err error
	}
	answered := make(chan result, 1)
	go func() {
		msg, err := j.plain.Request("ask.alice", []byte("Coffee or tea?"), 30*time.Second)
		answered <- result{msg, err}
	}()
	mails, err := j.server.WaitMessages(t.Context(), aliceAddress, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mails[0]), "Coffee or tea?") {
		t.Errorf("the mail is:\n%s", mails[0])
	}
	j.write(t, "Subject: Re: ask.alice", "Message-ID: <a1@alice.example>", "In-Reply-To: "+parse(t, mails[0]).Header.Get("Message-Id"),
		"Content-Type: text/plain", "", "Tea, please.", "", "> Coffee or tea?")
	if r := <-answered; r.err != nil || strings.TrimSpace(string(r.msg.Data)) != "Tea, please." {
		t.Errorf("got %+v, %v", r.msg, r.err)
	}
}

// TestKilledOnNATS is TestKilled between mail and streams of NATS, whose server is restarted as well.
func TestKilledOnNATS(t *testing.T) {
	mail, dir := startMail(t), t.TempDir()
	s := startNATS(t, server.RANDOM_PORT, filepath.Join(dir, "streams"))
	t.Cleanup(func() { stopNATS(s) }) // the last of them, when its nodes have been closed
	_, text, err := net.SplitHostPort(s.Addr().String())
	port, failed := strconv.Atoi(text)
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	config := nats.Config{Servers: []string{s.ClientURL()}, Streams: []nats.Stream{{Name: "KEPT", Names: []string{"/>"}}}}
	between := sides{From: sideConfig{Mail: onMail(mail, bridgeAddress, programAddress)}, To: sideConfig{NATS: config}, Rules: killedRules}
	between.From.Mail.State = filepath.Join(dir, "state.db")
	first, second := mailNode(t, onMail(mail, programAddress, bridgeAddress)), natsNode(t, config)
	testKilled(t, between, program{first, false}, program{second, true}, func(i int) func() {
		if i%2 == 0 {
			return mailOutage(t, mail, i/2)
		}
		stopNATS(s)
		return func() { s = startNATS(t, port, filepath.Join(dir, "streams")) }
	})
}
