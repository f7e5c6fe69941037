package mailserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/postbus/postbus/email/mailserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	robot = "robot@localhost.test"
	peer  = "peer@localhost.test"
)

// patience bounds every wait for something that must happen. No test depends
// on how long it takes.
const patience = 30 * time.Second

func start(t testing.TB, cfg mailserver.Config) *mailserver.Server {
	t.Helper()
	server, err := mailserver.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c
}

// password of the default accounts.
func password(address string) string { return address[:strings.IndexByte(address, '@')] }

// dialSMTP returns a client that is logged in.
func dialSMTP(t testing.TB, server *mailserver.Server, address string) *smtp.Client {
	t.Helper()
	c, err := smtp.Dial(server.SMTPAddr())
	check(t, err)
	t.Cleanup(func() { c.Close() })
	check(t, c.Auth(sasl.NewPlainClient("", address, password(address))))
	return c
}

func send(c *smtp.Client, from string, to []string, raw string) error {
	return c.SendMail(from, to, strings.NewReader(raw))
}

// client is an IMAP client and what its server told it without being asked.
type client struct {
	*imapclient.Client
	t        testing.TB
	exists   chan uint32
	expunged chan uint32
	flags    chan string
}

func handlers(t testing.TB) (*client, *imapclient.Options) {
	c := &client{
		t:        t,
		exists:   make(chan uint32, 10000),
		expunged: make(chan uint32, 10000),
		flags:    make(chan string, 10000),
	}
	return c, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(data *imapclient.UnilateralDataMailbox) {
			if data.NumMessages != nil {
				c.exists <- *data.NumMessages
			}
		},
		Expunge: func(seq uint32) { c.expunged <- seq },
		Fetch: func(msg *imapclient.FetchMessageData) {
			// The library also calls this for the answer to n:* beyond the end.
			if buf, err := msg.Collect(); err == nil && len(buf.BodySection) == 0 {
				c.flags <- fmt.Sprintf("%d %v", buf.UID, buf.Flags)
			}
		},
	}}
}

// dialIMAP returns a client that is logged in.
func dialIMAP(t testing.TB, server *mailserver.Server, address string) *client {
	t.Helper()
	c, options := handlers(t)
	inner, err := imapclient.DialInsecure(server.IMAPAddr(), options)
	check(t, err)
	c.Client = inner
	t.Cleanup(func() { inner.Close() })
	check(t, c.Login(address, password(address)).Wait())
	return c
}

// openInbox returns a client with the INBOX selected.
func openInbox(t testing.TB, server *mailserver.Server, address string) (*client, *imap.SelectData) {
	t.Helper()
	c := dialIMAP(t, server, address)
	data, err := c.Select("INBOX", nil).Wait()
	check(t, err)
	return c, data
}

// expect waits for a value on a channel that satisfies ok.
func expect[T any](t testing.TB, what string, values <-chan T, ok func(T) bool) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case v := <-values:
			if ok(v) {
				return
			}
		case <-timeout.C:
			t.Fatalf("%s: nothing came", what)
		}
	}
}

func is[T comparable](want T) func(T) bool { return func(got T) bool { return got == want } }

var bodyPeek = &imap.FetchItemBodySection{Peek: true}

// fetchBodies returns the whole mails from a UID on.
func (c *client) fetchBodies(from imap.UID) []string {
	c.t.Helper()
	msgs, err := c.Fetch(imap.UIDSet{{Start: from}}, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{bodyPeek}}).Collect()
	check(c.t, err)
	var bodies []string
	for _, m := range msgs {
		if m.UID >= from {
			bodies = append(bodies, string(m.FindBodySection(bodyPeek)))
		}
	}
	return bodies
}

func (c *client) append(mailbox, raw string, flags ...imap.Flag) imap.UID {
	c.t.Helper()
	cmd := c.Append(mailbox, int64(len(raw)), &imap.AppendOptions{Flags: flags})
	_, err := io.WriteString(cmd, raw)
	check(c.t, err)
	check(c.t, cmd.Close())
	data, err := cmd.Wait()
	check(c.t, err)
	return data.UID
}

// raw is a connection on which a test says exactly what it wants.
type raw struct {
	net.Conn
	*bufio.Reader
	t   testing.TB
	tag int
}

func dialRaw(t testing.TB, addr string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	c := &raw{Conn: conn, Reader: bufio.NewReader(conn), t: t}
	c.line() // the greeting
	return c
}

// Read implements io.Reader; both embedded types have one.
func (c *raw) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c *raw) line() string {
	c.t.Helper()
	line, err := c.ReadString('\n')
	if err != nil {
		c.t.Fatalf("after %q: %v", line, err)
	}
	return line
}

func (c *raw) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c, text)
	check(c.t, err)
}

// imap sends a command and returns the answer, up to the tagged line.
func (c *raw) imap(command string) []string {
	c.t.Helper()
	c.tag++
	tag := fmt.Sprintf("t%d ", c.tag)
	c.send(tag + command + "\r\n")
	var lines []string
	for {
		lines = append(lines, c.line())
		if strings.HasPrefix(lines[len(lines)-1], tag) {
			return lines
		}
	}
}

// smtp sends a command and returns the last line of the answer.
func (c *raw) smtp(command string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	for {
		if line := c.line(); len(line) < 4 || line[3] != '-' {
			return line
		}
	}
}
