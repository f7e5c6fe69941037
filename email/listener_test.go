package email

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// listening is a carrier that listens over net.Pipe, without a sending half, so that it works in a
// synctest bubble.
type listening struct {
	*testing.T
	carrier *Carrier
	pipes   pipeListener
	log     *bytes.Buffer
}

// pipeListener is a net.Listener to which a test connects.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// withListener runs a test with an LMTP listener for b@test.
func withListener(t *testing.T, adjust func(*Config), run func(*listening)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		config := Config{SMTP: "unused", IMAP: "lmtp+unix:///unused", Username: "b@test", Password: "secret"}
		if adjust != nil {
			adjust(&config)
		}
		l := &listening{T: t, log: new(bytes.Buffer), pipes: pipeListener{make(chan net.Conn), make(chan struct{}), new(sync.Once)}}
		c, err := newCarrier(config, Options{Logger: slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatal(err)
		}
		c.listener.socket = l.pipes
		if err := c.listener.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.carrier = c
		defer func() {
			if c.closed.Load() {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := c.closeReceiver(ctx); err != nil {
				t.Errorf("close: %v", err)
			}
		}()
		run(l)
	})
}

// lmtp is somebody's connection to a listener.
type lmtp struct {
	*listening
	net.Conn
	lines *bufio.Reader
}

// dial connects and says hello.
func (l *listening) dial() *lmtp {
	c := l.connect()
	c.want("220")
	c.say("LHLO test", "250")
	return c
}

func (l *listening) connect() *lmtp {
	client, server := net.Pipe()
	l.pipes.conns <- server
	l.Cleanup(func() { client.Close() })
	return &lmtp{l, client, bufio.NewReader(client)}
}

// want reads a reply and compares its beginning.
func (c *lmtp) want(prefix string) {
	c.Helper()
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			c.Fatalf("%v instead of a reply %q", err, prefix)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, prefix) {
			c.Fatalf("reply %q, want %q", line, prefix)
		}
		return
	}
}

// say sends a line and wants a reply.
func (c *lmtp) say(line, reply string) {
	c.Helper()
	if _, err := c.Write([]byte(line + "\r\n")); err != nil {
		c.Fatal(err)
	}
	c.want(reply)
}

// chunk sends a part of a mail.
func (c *lmtp) chunk(command, data string) {
	c.Helper()
	if _, err := c.Write([]byte(command + "\r\n" + data)); err != nil {
		c.Fatal(err)
	}
	c.want("250")
}

// deliver hands a mail over.
func (c *lmtp) deliver(raw, reply string) {
	c.Helper()
	c.say("MAIL FROM:<a@test>", "250")
	c.say("RCPT TO:<b@test>", "250")
	c.say("DATA", "354")
	c.say(raw+".", reply)
}

// receive states an interest.
func (l *listening) receive(i transport.Interest) <-chan *transport.Message {
	l.Helper()
	got := make(chan *transport.Message, 100)
	if _, err := l.carrier.Receive(i, func(d transport.Delivery) { got <- d.Message }); err != nil {
		l.Fatal(err)
	}
	return got
}

var topicT = transport.Interest{Kind: transport.TopicMessage, Name: "/t"}

// TestListen: a mail is answered for when those who want it have it.
func TestListen(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		c := l.dial()
		start := time.Now()
		c.deliver(messageMail(t, 1, "nobody"), "250") // there is no interest
		if took := time.Since(start); took != interestTimeout {
			t.Errorf("the node was waited for for %v", took)
		}
		got := l.receive(topicT)
		c.deliver(messageMail(t, 1, "hello"), "250")
		select {
		case m := <-got:
			if string(m.Body) != "hello" || m.Info.ReceivedTime.IsZero() {
				t.Errorf("got %+v", m)
			}
		default:
			t.Error("the mail was taken before the message was there")
		}
		c.deliver(messageMail(t, 1, "hello"), "250")
		c.deliver(messageMail(t, 2, "more"), "250")
		if m := <-got; m.Info.Sequence != 2 {
			t.Errorf("got %d, want 2: the first was sent twice", m.Info.Sequence)
		}
		c.say("QUIT", "221")
	})
}

// TestListenEarly: what has been waiting for the node is there for all its interests.
func TestListenEarly(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		c := l.dial()
		delivered := make(chan struct{})
		go func() {
			defer close(delivered)
			c.deliver(messageMail(t, 1, ""), "250")
		}()
		time.Sleep(time.Second)
		l.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/other"})
		time.Sleep(settleTime / 2)
		got := l.receive(topicT)
		<-delivered
		if len(got) != 1 {
			t.Error("the message came before the interest in it")
		}
	})
}

// TestListenRecipients: mail is taken for the account, whoever is configured, and nobody else.
func TestListenRecipients(t *testing.T) {
	withListener(t, func(c *Config) { c.ListenFor = []string{"Robot@Example.com", "@example.org"} }, func(l *listening) {
		got := l.receive(topicT)
		c := l.dial()
		c.say("MAIL FROM:<>", "250")
		for to, reply := range map[string]string{"b@test": "250", "B@TEST": "250", "robot@example.com": "250", "anybody@example.org": "250",
			"a@test": "550 5.1.1", "other@example.com": "550", "b@test.example.org": "550"} {
			c.say("RCPT TO:<"+to+">", reply)
		}
		c.say("DATA", "354")
		c.say(messageMail(t, 1, "")+".", "250")
		for range 3 { // the others
			c.want("250")
		}
		<-got
		if len(got) > 0 {
			t.Error("one mail to four recipients has come more than once")
		}
	})
}

// TestListenOther: what is no message is taken, too, and counted; what servers and people write counts as in an inbox.
func TestListenOther(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		gid := transport.GID{1}
		id := transport.NewID(gid, 7, "test")
		news := l.receive(transport.Interest{Kind: transport.Undeliverable, Client: gid})
		answers := l.receive(transport.Interest{Kind: transport.Response, Client: gid})
		c := l.dial()
		c.deliver("Subject: hello\r\nFrom: ann@test\r\n\r\nHow are you?\r\n", "250")
		c.deliver("no mail at all\r\n", "250")
		c.deliver(strings.Replace(messageMail(t, 1, ""), "Source-Timestamp: ", "Source-Timestamp: x", 1), "250")
		c.deliver("Subject: Re: /s\r\nFrom: ann@test\r\nMessage-ID: <x@test>\r\nIn-Reply-To: <"+id.String()+">\r\n\r\nyes\r\n", "250")
		if m := <-answers; string(m.Body) != "yes" && string(m.Body) != "yes\n" || !m.Person {
			t.Errorf("the answer of a person is %+v", m)
		}
		c.deliver("From: MAILER-DAEMON@test\r\nSubject: Undelivered\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"+
			"--b\r\n\r\nSorry\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; test\r\n\r\nFinal-Recipient: rfc822; x@test\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"+
			"--b\r\nContent-Type: message/rfc822\r\n\r\nMessage-ID: <"+id.String()+">\r\n\r\n--b--\r\n", "250")
		if m := <-news; m.InReplyTo != id {
			t.Errorf("the report is about %v", m.InReplyTo)
		}
		if got := l.carrier.Skipped(); got[ForeignMail] != 2 || got[MalformedMail] != 1 {
			t.Errorf("skipped %v", got)
		}
		if log := l.log.String(); strings.Count(log, "mail dropped that is no message") != 3 || !strings.Contains(log, "from=a@test") {
			t.Errorf("the log is\n%s", log)
		}
	})
}

// TestListenLacks: what needs a mailbox is refused.
func TestListenLacks(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		for _, i := range []transport.Interest{{Durable: "d"}, {Group: "g"}, {Last: 1}} {
			i.Kind, i.Name = topicT.Kind, topicT.Name
			if _, err := l.carrier.Receive(i, func(transport.Delivery) {}); !errors.Is(err, transport.ErrNotSupported) || !strings.Contains(err.Error(), "lmtp+unix:///unused") {
				t.Errorf("%+v: error %v", i, err)
			}
		}
	})
}

// TestListenLimits: nobody can make the process grow, or hold a place for ever.
func TestListenLimits(t *testing.T) {
	withListener(t, func(c *Config) { c.MaxBody = 200_000 }, func(l *listening) {
		got := l.receive(topicT)
		size := int(l.carrier.receiver.maxMail)
		c := l.dial()
		c.say(fmt.Sprintf("MAIL FROM:<a@test> SIZE=%d", size+1), "552 5.3.4")
		c.deliver(strings.Repeat(strings.Repeat("x", 98)+"\r\n", size/100+1), "552 5.3.4")
		c.say("NOOP", "250")

		var others []*lmtp
		for range heldMails {
			other := l.dial()
			other.say("MAIL FROM:<a@test>", "250")
			other.say("RCPT TO:<b@test>", "250")
			other.say("DATA", "354")
			if _, err := other.Write([]byte(strings.Repeat(strings.Repeat("x", 98)+"\r\n", size/100))); err != nil {
				t.Fatal(err)
			}
			others = append(others, other)
		}
		synctest.Wait()
		c.deliver(strings.Repeat(strings.Repeat("x", 98)+"\r\n", size/100), "452 4.3.1")
		c.deliver(messageMail(t, 1, ""), "250") // a small one is always taken
		<-got
		for _, other := range others {
			other.Close()
		}
		synctest.Wait()
		if held := l.carrier.listener.held.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}

		for range maxDeliveries - 1 {
			l.dial()
		}
		refused := l.connect()
		if _, err := refused.lines.ReadString('\n'); err == nil {
			t.Error("there is no limit to connections")
		}
		start := time.Now()
		if _, err := c.lines.ReadString('\n'); err == nil && time.Since(start) > deliveryTimeout {
			t.Error("there is no limit to silence")
		}
		synctest.Wait()
		l.dial() // the others are gone as well
	})
}

// TestListenSlow: a mail that does not come to an end is given up, by the end or by pieces.
func TestListenSlow(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		for _, data := range []string{"DATA", "BDAT 100000"} {
			c := l.dial()
			c.say("MAIL FROM:<a@test>", "250")
			c.say("RCPT TO:<b@test>", "250")
			if data == "DATA" {
				c.say(data, "354")
			} else if _, err := c.Write([]byte(data + "\r\n")); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			var err error
			for err == nil {
				time.Sleep(time.Second)
				_, err = c.Write([]byte("x"))
			}
			if took := time.Since(start); took > deliveryTimeout+2*time.Second {
				t.Errorf("%s: it was given up after %v", data, took)
			}
		}
	})
}

// TestListenClose: what is on its way in when the carrier is closed is taken, and nothing after it.
func TestListenClose(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		got := l.receive(topicT)
		idle, busy := l.dial(), l.dial()
		busy.say("MAIL FROM:<a@test>", "250")
		busy.say("RCPT TO:<b@test>", "250")
		busy.say("DATA", "354")
		l.carrier.closed.Store(true)
		closed := make(chan error)
		go func() { closed <- l.carrier.closeReceiver(context.Background()) }()
		synctest.Wait()
		if _, err := idle.lines.ReadString('\n'); err == nil {
			t.Error("an idle connection is still there")
		}
		select {
		case err := <-closed:
			t.Errorf("close did not wait: %v", err)
		default:
		}
		busy.say(messageMail(t, 1, "hello")+".", "250")
		<-got
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := busy.lines.ReadString('\n'); err == nil {
			t.Error("the connection is still there")
		}
	})
}

// TestListenMany: several servers deliver at once, in chunks and otherwise.
func TestListenMany(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		got := l.receive(topicT)
		const each = 10
		var running sync.WaitGroup
		for n := range 5 {
			c := l.dial()
			running.Go(func() {
				for i := range each {
					raw := messageMail(t, n*each+i+1, "hello")
					if i%2 == 0 {
						c.deliver(raw, "250")
						continue
					}
					c.say("MAIL FROM:<a@test>", "250")
					c.say("RCPT TO:<b@test>", "250")
					c.chunk("BDAT 10", raw[:10])
					if i%4 == 1 { // and then not after all
						if _, err := c.Write([]byte("RSET\r\n")); err != nil {
							t.Error(err)
						}
						if _, err := c.lines.ReadString('\n'); err == nil {
							t.Error("the connection is still there")
						}
						c = l.dial()
						c.deliver(raw, "250")
						continue
					}
					c.chunk(fmt.Sprintf("BDAT %d LAST", len(raw)-10), raw[10:])
				}
			})
		}
		running.Wait()
		for n := range 5 * each {
			if m := <-got; m.Info.Sequence != uint64(n+1) {
				t.Fatalf("got %d, want %d", m.Info.Sequence, n+1)
			}
		}
	})
}

// TestListenTLS: a listener with TLS is served, and one who connects and says nothing is not waited for.
func TestListenTLS(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler()) // it has a certificate
	defer web.Close()
	trust := web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.ServerName = "example.com"
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := Config{SMTP: "unused", IMAP: "smtp+insecure://localhost", Username: "b@test", Password: "secret"}
	c, err := newCarrier(config, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.listener.socket = tls.NewListener(plain, &tls.Config{Certificates: web.TLS.Certificates})
	if err := c.listener.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(chan *transport.Message, 1)
	if _, err := c.Receive(topicT, func(d transport.Delivery) { got <- d.Message }); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conn, err := tls.Dial("tcp", plain.Addr().String(), trust)
	if err != nil {
		t.Fatal(err)
	}
	client := smtp.NewClient(conn)
	if err := client.SendMail("a@test", []string{"b@test"}, strings.NewReader(messageMail(t, 1, "hello"))); err != nil {
		t.Fatal(err)
	}
	if m := <-got; string(m.Body) != "hello" {
		t.Errorf("got %q", m.Body)
	}
	if err := client.Quit(); err != nil {
		t.Error(err)
	}
	if err := c.closeReceiver(context.Background()); err != nil { // the silent one is idle
		t.Error(err)
	}
}

// TestListenSocket: a socket that a crash has left is replaced, one in use and other files are not.
func TestListenSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	at, err := parseServer("lmtp+unix://"+path, receiveSchemes)
	if err != nil {
		t.Fatal(err)
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := at.listen(t.Context()); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("a socket in use: %v", err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	l, err := at.listen(t.Context())
	if err != nil {
		t.Fatalf("a socket that was left: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := at.listen(t.Context()); err == nil {
		t.Error("a file was taken for a socket")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file has %q, %v", data, err)
	}
}

// TestListenBatch: a mail of several messages is answered for when all have been delivered.
func TestListenBatch(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		got := l.receive(topicT)
		c := l.dial()
		gid := transport.GID{1}
		batch, err := wire.NewBatch(transport.NewID(gid, 1, "batch.test"), wire.Envelope{From: "a@test", To: []string{"b@test"}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		const n = 50
		for i := range n {
			if err := batch.Add(topicMessage(i + 1)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the second time it is a repetition
			c.deliver(string(batch.Mail()), "250")
		}
		if len(got) != n {
			t.Fatalf("%d messages, want %d", len(got), n)
		}
		for i := range n {
			if m := <-got; m.Info.Sequence != uint64(i+1) || string(m.Body) != "hello" {
				t.Errorf("message %d is %+v", i+1, m)
			}
		}
	})
}
