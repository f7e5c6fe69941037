package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// The accounts of the mail server: a bridge's, that of a program, and a person's.
const (
	bridgeAddress  = "bridge@localhost.test"
	programAddress = "program@localhost.test"
	aliceAddress   = "alice@localhost.test"
)

func startMail(t testing.TB) *mailserver.Server {
	t.Helper()
	var accounts []mailserver.Account
	for _, address := range []string{bridgeAddress, programAddress, aliceAddress} {
		accounts = append(accounts, mailserver.Account{Address: address, Password: "secret"})
	}
	server, err := mailserver.Start(mailserver.Config{Accounts: accounts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

// onMail is the configuration of a node that sends to others by default.
func onMail(server *mailserver.Server, address string, to ...string) email.Config {
	return email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: address, Password: "secret", To: to}
}

// openMail returns a node on mail that the test closes itself.
func openMail(t testing.TB, config email.Config) *transport.Node {
	t.Helper()
	carrier, err := email.Open(t.Context(), config, email.Options{Logger: quiet, Offline: config.State != ""})
	if err != nil {
		t.Fatal(err)
	}
	return nodeOf(t, carrier)
}

func nodeOf(t testing.TB, carrier transport.Carrier) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(carrier, &transport.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// mailNode returns a node on mail that is closed at the end of the test.
func mailNode(t testing.TB, config email.Config) *transport.Node {
	t.Helper()
	node := openMail(t, config)
	closeLater(t, node)
	return node
}

// mailToBus is a bridge between mail and a bus, with a program on each side.
type mailToBus struct {
	server       *mailserver.Server
	bridge       *bridge.Bridge
	onMail       *transport.Node // the program's
	onBus        *transport.Node
	bus          *intraprocess.Bus
	mailOfBridge *transport.Node
}

func joinMail(t testing.TB, texts ...string) *mailToBus {
	t.Helper()
	server, bus := startMail(t), intraprocess.NewBus()
	config := onMail(server, bridgeAddress, programAddress)
	config.People = []string{aliceAddress}
	j := &mailToBus{server: server, bus: bus, mailOfBridge: mailNode(t, config)}
	j.onMail = mailNode(t, onMail(server, programAddress, bridgeAddress))
	j.onBus = newNode(t, bus)
	j.bridge = openBridge(t, bridge.Side{Name: "mail", Node: j.mailOfBridge}, bridge.Side{Name: "bus", Node: newNode(t, bus)}, texts...)
	closeLater(t, j.bridge)
	return j
}

// TestMail: topics and calls cross between mail and a bus, both ways.
func TestMail(t *testing.T) {
	j := joinMail(t, "topics <-> /t", "services -> /on/bus", "services <- /on/mail")
	onBus, onMail := subscribe(t, j.onBus, "/t"), subscribe(t, j.onMail, "/t")
	publish(t, publisher(t, j.onMail, "/t"), "from mail", transport.WithHeader("Color", "red"), transport.WithFile("a.csv"), transport.WithContentType("text/csv"))
	m := next(t, onBus)
	if string(m.Body) != "from mail" || m.Header.Get("Color") != "red" || m.Filename != "a.csv" || m.ContentType != "text/csv" || m.Info.Sequence != 1 {
		t.Errorf("got %+v", m)
	}
	pub := publisher(t, j.onBus, "/t")
	publish(t, pub, "from the bus")
	m = next(t, onMail)
	if gid, n, ok := m.ID.Origin(); string(m.Body) != "from the bus" || m.Info.PublisherGID != pub.GID() || !ok || gid != pub.GID() || n != 1 || m.From != bridgeAddress {
		t.Errorf("got %+v", m)
	}
	serve(t, j.onBus, "/on/bus", echo)
	serve(t, j.onMail, "/on/mail", func(context.Context, *transport.Message) ([]byte, error) {
		return nil, &transport.RemoteError{Code: 7, Text: "not today"}
	})
	answer, err := newClient(t, j.onMail, "/on/bus").Call(t.Context(), []byte("by mail"))
	if err != nil || string(answer.Body) != "by mail" || answer.From != bridgeAddress {
		t.Errorf("got %+v, %v", answer, err)
	}
	if _, err := newClient(t, j.onBus, "/on/mail").Call(t.Context(), nil); *remote(t, err) != (transport.RemoteError{Code: 7, Text: "not today"}) {
		t.Errorf("got %v", err)
	}
	// The answer was a reply to the mail of the request.
	mails, err := j.server.WaitMessages(t.Context(), programAddress, 3)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, raw := range mails {
		header := parse(t, raw).Header
		if header.Get("Subject") == "/on/bus" && strings.HasPrefix(header.Get("In-Reply-To"), "<1.") && header.Get("Auto-Submitted") == "auto-replied" {
			found = true
		}
	}
	if !found {
		t.Errorf("there is no reply among %d mails", len(mails))
	}
}

func parse(t testing.TB, raw []byte) *mail.Message {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// write puts a mail of Alice's into the bridge's mailbox.
func (j *mailToBus) write(t testing.TB, lines ...string) {
	t.Helper()
	lines = append([]string{"From: Alice <" + aliceAddress + ">", "To: " + bridgeAddress, "Date: Mon, 30 Nov 2026 19:00:00 +0000"}, lines...)
	if err := j.server.Deliver(bridgeAddress, []byte(strings.Join(lines, "\r\n")+"\r\n")); err != nil {
		t.Fatal(err)
	}
}

// TestPersonAnswers: a call from the bus becomes a mail, and a person's reply is the answer.
func TestPersonAnswers(t *testing.T) {
	server, bus := startMail(t), intraprocess.NewBus()
	out := mailNode(t, onMail(server, bridgeAddress, aliceAddress))
	j := &mailToBus{server: server}
	closeLater(t, openBridge(t, bridge.Side{Name: "mail", Node: out}, bridge.Side{Name: "bus", Node: newNode(t, bus)}, "services <- /ask/alice"))
	client := newClient(t, newNode(t, bus), "/ask/alice")
	sequence, err := client.Send(t.Context(), []byte("Coffee or tea?"))
	if err != nil {
		t.Fatal(err)
	}
	mails, err := server.WaitMessages(t.Context(), aliceAddress, 1)
	if err != nil {
		t.Fatal(err)
	}
	id := parse(t, mails[0]).Header.Get("Message-Id")
	j.write(t, "Subject: Re: /ask/alice", "Message-ID: <a1@alice.example>", "In-Reply-To: "+id, "Content-Type: text/plain; charset=utf-8", "",
		"Tea, please.", "", "On Monday, the bridge wrote:", "> Coffee or tea?")
	answer, err := client.Response(t.Context(), sequence)
	if err != nil || strings.TrimSpace(string(answer.Body)) != "Tea, please." {
		t.Errorf("got %+v, %v", answer, err)
	}
}

// TestPersonCalls: a person's mail calls a service on the bus, whose result comes as a reply. The mail of a call
// that fails says why.
func TestPersonCalls(t *testing.T) {
	j := joinMail(t, "services -> /upper", "services -> /nobody")
	serve(t, j.onBus, "/upper", func(_ context.Context, m *transport.Message) ([]byte, error) {
		return bytes.ToUpper(bytes.TrimSpace(m.Body)), nil
	})
	for i, test := range []struct{ name, text string }{{"/upper", "TEA"}, {"/nobody", "no responder"}} {
		id := fmt.Sprintf("<call-%d@alice.example>", i)
		j.write(t, "Subject: "+test.name, "Message-ID: "+id, "Content-Type: text/plain", "", "tea")
		mails, err := j.server.WaitMessages(t.Context(), aliceAddress, i+1)
		if err != nil {
			t.Fatal(err)
		}
		reply := parse(t, mails[i])
		var body bytes.Buffer
		if _, err := body.ReadFrom(reply.Body); err != nil {
			t.Fatal(err)
		}
		if reply.Header.Get("In-Reply-To") != id || !strings.Contains(body.String(), test.text) {
			t.Errorf("%s: the reply to %s is:\n%s", test.name, reply.Header.Get("In-Reply-To"), body.String())
		}
	}
}

// TestBounce: the caller on the bus hears at once that the mail of its request has come back.
func TestBounce(t *testing.T) {
	j := joinMail(t, "services <- /x")
	client := newClient(t, j.onBus, "/x")
	sequence, err := client.Send(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mails, err := j.server.WaitMessages(t.Context(), programAddress, 1)
	if err != nil {
		t.Fatal(err)
	}
	id := parse(t, mails[0]).Header.Get("Message-Id")
	bounce := []string{"From: MAILER-DAEMON@localhost.test", "To: " + bridgeAddress, "Subject: Undelivered Mail", "Date: Mon, 30 Nov 2026 19:00:00 +0000",
		"Message-ID: <b1@localhost.test>", "Auto-Submitted: auto-replied", "MIME-Version: 1.0",
		`Content-Type: multipart/report; report-type=delivery-status; boundary="b"`, "", "--b", "Content-Type: text/plain", "", "Sorry.",
		"--b", "Content-Type: message/delivery-status", "", "Reporting-MTA: dns; localhost.test", "", "Final-Recipient: rfc822; " + programAddress, "Action: failed",
		"Status: 5.1.1", "Diagnostic-Code: smtp; 550 5.1.1 no such user", "", "--b", "Content-Type: text/rfc822-headers", "", "Message-ID: " + id, "Subject: /x", "", "--b--", ""}
	if err := j.server.Deliver(bridgeAddress, []byte(strings.Join(bounce, "\r\n"))); err != nil {
		t.Fatal(err)
	}
	_, err = client.Response(t.Context(), sequence)
	if answer := remote(t, err); answer.Code != bridge.CodeUndeliverable || !strings.Contains(answer.Text, "no such user") {
		t.Errorf("got %+v", answer)
	}
}

// TestRefusedRecipient: so does one whose mail is refused in the first place.
func TestRefusedRecipient(t *testing.T) {
	server, bus := startMail(t), intraprocess.NewBus()
	out := mailNode(t, onMail(server, bridgeAddress, "nobody@localhost.test"))
	closeLater(t, openBridge(t, bridge.Side{Name: "bus", Node: newNode(t, bus)}, bridge.Side{Name: "mail", Node: out}, "services -> /x"))
	_, err := newClient(t, newNode(t, bus), "/x").Call(t.Context(), nil)
	if answer := remote(t, err); answer.Code != bridge.CodeUndeliverable {
		t.Errorf("got %+v", answer)
	}
}

// TestMailServerAway: messages and calls wait on both sides until the mail server is back, and cross then.
func TestMailServerAway(t *testing.T) {
	j := joinMail(t, "topics <-> /t", "services -> /on/bus", "services <- /on/mail")
	onBus, onMail := subscribe(t, j.onBus, "/t"), subscribe(t, j.onMail, "/t")
	serve(t, j.onMail, "/on/mail", echo)
	serve(t, j.onBus, "/on/bus", echo)
	j.server.Stop(mailserver.SMTP)
	j.server.Stop(mailserver.IMAP)
	const n = 5
	pub := publisher(t, j.onBus, "/t")
	for i := range n {
		publish(t, pub, fmt.Sprint(i))
	}
	client := newClient(t, j.onBus, "/on/mail")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sequence, err := client.Send(ctx, []byte("wait"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []mailserver.Service{mailserver.SMTP, mailserver.IMAP} {
		if err := j.server.Resume(s); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if m := next(t, onMail); string(m.Body) != fmt.Sprint(i) {
			t.Errorf("got %q, not %d", m.Body, i)
		}
	}
	if _, err := client.Response(ctx, sequence); err != nil {
		t.Error(err)
	}
	publish(t, publisher(t, j.onMail, "/t"), "after")
	for range n { // its own
		next(t, onBus)
	}
	if m := next(t, onBus); string(m.Body) != "after" {
		t.Errorf("got %q", m.Body)
	}
	if _, err := newClient(t, j.onMail, "/on/bus").Call(ctx, nil); err != nil {
		t.Error(err)
	}
}

// TestDurableOnMail: a call by mail that was made while no bridge was there is answered by the next one, and once.
func TestDurableOnMail(t *testing.T) {
	server, bus := startMail(t), intraprocess.NewBus()
	config := onMail(server, bridgeAddress, programAddress)
	config.State = t.TempDir() + "/state.db"
	run := func(use func()) {
		node := openMail(t, config)
		b := openBridge(t, bridge.Side{Name: "mail", Node: node}, bridge.Side{Name: "bus", Node: newNode(t, bus)},
			"services -> /x durable=services", "topics -> /t durable=topics")
		use()
		if err := errors.Join(b.Close(context.Background()), node.Close(context.Background())); err != nil {
			t.Error(err)
		}
	}
	runs := make(chan string, 10)
	serve(t, newNode(t, bus), "/x", func(_ context.Context, m *transport.Message) ([]byte, error) {
		runs <- string(m.Body)
		return m.Body, nil
	}, service.Concurrency(1))
	sub := subscribe(t, newNode(t, bus), "/t")
	program := mailNode(t, onMail(server, programAddress, bridgeAddress))
	client, pub := newClient(t, program, "/x"), publisher(t, program, "/t")
	for _, text := range []string{"first", "second"} {
		run(func() {}) // from then on the mailbox is remembered
		publish(t, pub, text)
		sequence, err := client.Send(t.Context(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		run(func() {
			if answer, err := client.Response(t.Context(), sequence); err != nil || string(answer.Body) != text {
				t.Errorf("got %+v, %v", answer, err)
			}
			if m := next(t, sub); string(m.Body) != text {
				t.Errorf("got %q", m.Body)
			}
		})
		if got := <-runs; got != text {
			t.Errorf("the server has handled %q", got)
		}
	}
	if len(runs) > 0 {
		t.Errorf("the server has handled %q once more", <-runs)
	}
}
