package email

import (
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

// TestListenLimits: nobody can make the process grow, or hold a place for ever.
func TestListenLimits(t *testing.T) {
	withListener(t, func(c *Config) { c.MaxBody = 200_000 }, func(l *listening) {
		got := l.receive(topicT)
		size := int(l.carrier.receiver.maxBatch())
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
		l.receive(topicT)
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

// TestListenCutOff: a mail whose connection ends within its last chunk is not taken for a shorter one, which would
// keep the whole one out when it is sent again.
func TestListenCutOff(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		got := l.receive(topicT)
		raw := messageMail(t, 1, "hello")
		for cut := range len(raw) {
			c := l.dial()
			c.say("MAIL FROM:<a@test>", "250")
			c.say("RCPT TO:<b@test>", "250")
			if _, err := fmt.Fprintf(c, "BDAT %d LAST\r\n%s", len(raw), raw[:cut]); err != nil {
				t.Fatal(err)
			}
			c.Close()
			synctest.Wait()
		}
		l.dial().deliver(raw, "250")
		if m := <-got; string(m.Body) != "hello" || len(got) > 0 {
			t.Errorf("got %q, and %d more", m.Body, len(got))
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

// TestListenTransaction: no command makes a transaction last longer than a mail may take, and while the listener
// closes one without a mail ends soon.
func TestListenTransaction(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		l.receive(topicT)
		// last repeats a command until the connection is closed.
		last := func(c *lmtp, command string) (took time.Duration) {
			start := time.Now()
			for {
				if _, err := c.Write([]byte(command)); err != nil {
					return time.Since(start)
				}
				if line, err := c.lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "250") || time.Since(start) > 2*deliveryTimeout {
					return time.Since(start)
				}
				time.Sleep(time.Second)
			}
		}
		begun := func() *lmtp {
			c := l.dial()
			c.say("MAIL FROM:<a@test>", "250")
			c.say("RCPT TO:<b@test>", "250")
			return c
		}
		for _, command := range []string{"NOOP\r\n", "BDAT 1\r\nx"} {
			c := begun()
			if took := last(c, command); took > deliveryTimeout+time.Second {
				t.Errorf("%q: it ended after %v", command, took)
			}
			c.Close()
		}
		c := begun()
		defer c.Close()
		l.carrier.closed.Store(true)
		closed := make(chan error, 1)
		go func() { closed <- l.carrier.closeReceiver(context.Background()) }()
		synctest.Wait()
		if took := last(c, "NOOP\r\n"); took > closingTimeout+time.Second {
			t.Errorf("while closing it ended after %v", took)
		}
		c.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// TestListenCloseEnds: interests end also when close does not wait for what is on its way in.
func TestListenCloseEnds(t *testing.T) {
	withListener(t, nil, func(l *listening) {
		l.receive(topicT)
		l.dial().say("MAIL FROM:<a@test>", "250")
		l.carrier.closed.Store(true)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := l.carrier.closeReceiver(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		l.carrier.receiver.lives.Range(func(_, _ any) bool {
			t.Error("an interest goes on")
			return true
		})
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
