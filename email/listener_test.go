package email

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
		c.say("MAIL FROM:<a@test>", "451 4.3.2") // there is no interest
		c.say("MAIL FROM:<a@test>", "451 4.3.2")
		if took := time.Since(start); took != interestTimeout {
			t.Errorf("the node was waited for for %v", took)
		}
		got, stated := l.receive(topicT), time.Now()
		c.say("MAIL FROM:<a@test>", "250")
		if took := time.Since(stated); took != settleTime {
			t.Errorf("further interests were waited for for %v", took)
		}
		c.say("RSET", "250")
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
