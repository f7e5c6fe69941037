package email_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// bench is a node on its own server, with an interest in the topic /t.
type bench struct {
	testing.TB
	server  *mailserver.Server
	carrier *email.Carrier
	gid     transport.GID
	sent    uint64
	got     chan *transport.Message
}

func newBench(t testing.TB, config mailserver.Config, logger *slog.Logger) *bench {
	t.Helper()
	server, err := mailserver.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	b := &bench{TB: t, server: server, gid: transport.NewGID(), got: make(chan *transport.Message, 1<<16)}
	b.carrier, err = email.Open(t.Context(), b.config(), email.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.carrier.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	_, err = b.carrier.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(d transport.Delivery) { b.got <- d.Message })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// config returns the configuration of a node that sends to itself.
func (b *bench) config() email.Config {
	account := b.server.Accounts()[0]
	return email.Config{SMTP: b.server.SMTPURL(), IMAP: b.server.IMAPURL(), CA: b.server.CACertPEM(),
		Username: account.Address, Password: account.Password, To: []string{account.Address}}
}

// message returns the next message.
func (b *bench) message(body string) *transport.Message {
	b.sent++
	m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte(body)}
	m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = b.gid, b.sent, time.Now()
	m.ID = transport.NewID(b.gid, b.sent, "test")
	return m
}

func (b *bench) send() {
	b.Helper()
	if err := b.carrier.Send(b.Context(), b.message("")); err != nil {
		b.Fatal(err)
	}
}

// want waits for messages first to last, and nothing else.
func (b *bench) want(first, last uint64) {
	b.Helper()
	for n := first; n <= last; n++ {
		select {
		case m := <-b.got:
			if m.Info.Sequence != n {
				b.Fatalf("message %d came, want %d", m.Info.Sequence, n)
			}
		case <-time.After(timeout):
			b.Fatalf("message %d did not come", n)
		}
	}
}

func TestIMAPOutage(t *testing.T) {
	for name, outage := range map[string]func(*bench){
		"stopped": func(b *bench) {
			b.server.Stop(mailserver.IMAP)
			for range 20 {
				b.send()
			}
			if err := b.server.Resume(mailserver.IMAP); err != nil {
				b.Fatal(err)
			}
		},
		"cut": func(b *bench) {
			for range 20 {
				b.send()
				b.server.Disconnect(mailserver.IMAP)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log safeBuffer
			b := newBench(t, mailserver.Config{TLS: name == "cut"}, slog.New(slog.NewTextHandler(&log, nil)))
			b.send()
			b.want(1, 1)
			outage(b)
			b.want(2, 21)
			b.send()
			b.want(22, 22)
			lost, back := strings.Count(log.String(), "lost"), strings.Count(log.String(), "is back")
			if lost == 0 || lost != back || name == "stopped" && lost != 1 {
				t.Errorf("the log says %d times that the connection was lost, and %d times that it is back:\n%s", lost, back, log.String())
			}
		})
	}
}

func TestSMTPOutage(t *testing.T) {
	b := newBench(t, mailserver.Config{}, quiet)
	b.send()
	b.server.Disconnect(mailserver.SMTP) // does not matter
	b.send()
	b.server.Stop(mailserver.SMTP)
	err := b.carrier.Send(t.Context(), b.message(""))
	if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Temporary || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v", err)
	}
	b.sent--
	if err := b.server.Resume(mailserver.SMTP); err != nil {
		t.Fatal(err)
	}
	m := b.message("")
	for err = errors.New(""); err != nil; { // for a moment the failure is shared
		if err = b.carrier.Send(t.Context(), m); err != nil && !strings.Contains(err.Error(), "connection refused") {
			t.Fatal(err)
		}
	}
	b.want(1, 3)
}

// TestMany: none is lost, comes twice or out of its publisher's order, with several
// publishers and the connection for receiving breaking now and then.
func TestMany(t *testing.T) {
	const publishers, each = 4, 250
	b := newBench(t, mailserver.Config{}, quiet)
	var sending sync.WaitGroup
	for range publishers {
		gid := transport.NewGID()
		sending.Go(func() {
			for n := uint64(1); n <= each; n++ {
				m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: fmt.Append(nil, n)}
				m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = gid, n, time.Now()
				m.ID = transport.NewID(gid, n, "test")
				if err := b.carrier.Send(t.Context(), m); err != nil {
					t.Error(err)
				}
				if n == each/2 {
					b.server.Disconnect(mailserver.IMAP)
				}
			}
		})
	}
	last := make(map[transport.GID]uint64)
	for n := range publishers * each {
		select {
		case m := <-b.got:
			if m.Info.Sequence != last[m.Info.PublisherGID]+1 || string(m.Body) != fmt.Sprint(m.Info.Sequence) {
				t.Fatalf("message %d of %s comes after %d", m.Info.Sequence, m.Info.PublisherGID, last[m.Info.PublisherGID])
			}
			last[m.Info.PublisherGID]++
		case <-time.After(timeout):
			t.Fatalf("only %d messages came", n)
		}
	}
	sending.Wait()
	if len(b.got) > 0 {
		t.Errorf("%d more messages came", len(b.got))
	}
}

// TestHostileMail: whatever is in the inbox, what is ours comes.
func TestHostileMail(t *testing.T) {
	var log safeBuffer
	b := newBench(t, mailserver.Config{}, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	nested := new(strings.Builder)
	for i := range 1000 {
		fmt.Fprintf(nested, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	ours := "Publisher-GID: 1\r\nSource-Timestamp: 1\r\nSubject: /t\r\n"
	hostile := []string{
		"", "\r\n", "\x00", "\xff\xfe\x00\x01", "no header at all", "no header\r\n\r\nbut a body",
		"Subject: lunch?\r\nFrom: a@b.c\r\n\r\nAt noon.\r\n",
		strings.ReplaceAll(ours, "Timestamp: 1", "Timestamp: yesterday") + "\r\nbody",
		strings.ReplaceAll(ours, "Timestamp: 1", "Timestamp: 99999999999999999999999") + "\r\nbody",
		strings.ReplaceAll(ours, "GID: 1", "GID: -1") + "\r\nbody",
		ours + "Content-Transfer-Encoding: base64\r\n\r\n!!!!",
		ours + "Content-Type: ???\r\n\r\nbody",
		ours + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\nbody",
		ours + strings.Repeat("X: y\r\n", 20_000) + "\r\nbody",
		"Subject: long\r\n\r\n" + strings.Repeat("x", 64<<10),
		"Subject: huge\r\n\r\n" + strings.Repeat("0123456789abcdef\r\n", 10<<20/18),
		strings.ReplaceAll(ours, "/t", "=?utf-8?q?/t=0D=0ABcc:_x?=") + "\r\nbody",
		nested.String(),
		strings.Repeat("\r\n", 10_000), strings.Repeat("\n", 10_000), strings.Repeat(":", 100_000),
	}
	address := b.server.Accounts()[0].Address
	for _, raw := range hostile {
		b.send()
		if err := b.server.Deliver(address, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	b.send()
	for n := uint64(1); n <= b.sent; {
		select {
		case m := <-b.got:
			if m.Info.PublisherGID == b.gid { // some of the others are good enough
				if m.Info.Sequence != n {
					t.Fatalf("message %d came, want %d", m.Info.Sequence, n)
				}
				n++
			}
		case <-time.After(timeout):
			t.Fatalf("message %d did not come; log:\n%s", n, log.String())
		}
	}
	if n := strings.Count(log.String(), "mail skipped"); n < len(hostile)/2 || n > len(hostile) {
		t.Errorf("%d lines in the log for %d mails:\n%s", n, len(hostile), log.String())
	}
	if strings.Contains(log.String(), "lost") {
		t.Error("the connection was lost")
	}
}

func TestOpenErrors(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	plain, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	account := server.Accounts()[0]
	good := email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), CA: server.CACertPEM(), Username: account.Address, Password: account.Password}
	for _, test := range []struct {
		name   string
		change func(*email.Config)
		is     error
		want   []string
	}{
		{"wrong password", func(c *email.Config) { c.Password = "wrong" }, transport.ErrRefused,
			[]string{"smtp login at " + server.SMTPURL() + " as " + account.Address, "imap login at " + server.IMAPURL() + " as " + account.Address}},
		{"unknown authority", func(c *email.Config) { c.CA = nil }, nil, []string{"certificate refused", "email.tls.ca-file"}},
		{"another host", func(c *email.Config) { c.IMAP = strings.Replace(c.IMAP, "127.0.0.1", "127.0.0.2", 1) }, nil, []string{"imap connection at imaps://127.0.0.2:"}},
		{"nobody there", func(c *email.Config) { c.SMTP = "smtps://" + free.Addr().String() }, nil, []string{"smtp connection at smtps://" + free.Addr().String(), "connection refused"}},
		{"unknown host", func(c *email.Config) { c.SMTP = "smtps://no-such-host.invalid" }, nil, []string{"smtp connection at smtps://no-such-host.invalid:465", "no-such-host.invalid"}},
		{"TLS on a plaintext port", func(c *email.Config) { c.SMTP = strings.Replace(plain.SMTPURL(), "smtp+insecure", "smtps", 1) }, nil, []string{"does not speak TLS on this port"}},
		{"SMTP STARTTLS not offered", func(c *email.Config) { c.SMTP = strings.Replace(plain.SMTPURL(), "insecure", "starttls", 1) }, nil, []string{"smtp STARTTLS at", "doesn't support STARTTLS"}},
		{"IMAP STARTTLS not offered", func(c *email.Config) { c.IMAP = strings.Replace(plain.IMAPURL(), "insecure", "starttls", 1) }, nil, []string{"imap STARTTLS at"}},
		{"STARTTLS with unknown authority", func(c *email.Config) {
			c.SMTP, c.IMAP, c.CA = server.SMTPStartTLSURL(), server.IMAPStartTLSURL(), nil
		}, nil, []string{"smtp STARTTLS at", "imap STARTTLS at", "certificate refused"}},
		{"password without TLS", func(c *email.Config) {
			c.SMTP = strings.Replace(server.SMTPStartTLSURL(), "starttls", "insecure", 1)
		}, nil, []string{"neither AUTH PLAIN nor LOGIN"}},
		{"no server", func(c *email.Config) { c.IMAP = "" }, nil, []string{"configuration: email.user.url-imap: the server is not given"}},
		{"no address", func(c *email.Config) { c.Username = "me" }, nil, []string{"configuration: email.user.from: "}},
		{"bad CA", func(c *email.Config) { c.CA = []byte("x") }, nil, []string{"configuration: email.tls.ca-file: "}},
		{"bad recipient", func(c *email.Config) { c.Cc = []string{"me"} }, nil, []string{`configuration: email.recipients: "me"`}},
		{"negative period", func(c *email.Config) { c.PollingPeriod = -1 }, nil, []string{"PollingPeriod"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := good
			test.change(&config)
			_, err := email.Open(t.Context(), config, email.Options{Logger: quiet})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q does not wrap %v", err, test.is)
			}
			if strings.Contains(err.Error(), "wrong\"") {
				t.Errorf("error %q shows the password", err)
			}
		})
	}
}

// TestOpenSilentServer: a server that accepts and says nothing ends Open only by ctx.
func TestOpenSilentServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	for _, urls := range [][2]string{{"smtps://", "imaps://"}, {"smtp+starttls://", "imap+starttls://"}, {"smtp+insecure://", "imap+insecure://"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		config := email.Config{SMTP: urls[0] + silent.Addr().String(), IMAP: urls[1] + silent.Addr().String(), Username: "me@test", Password: "secret"}
		_, err := email.Open(ctx, config, email.Options{Logger: quiet})
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, transport.ErrTimeout) ||
			!strings.Contains(err.Error(), config.SMTP) || !strings.Contains(err.Error(), config.IMAP) {
			t.Errorf("error %v", err)
		}
	}
	silent.Close()
}

// safeBuffer is a buffer that may be read while it is written.
type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
