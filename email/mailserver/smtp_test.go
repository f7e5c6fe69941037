package mailserver_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email/mailserver"
)

const hello = "Subject: /chatter\r\nFrom: <" + robot + ">\r\n\r\nhello\r\n"

// code returns the SMTP reply behind an error, like "550 5.1.1".
func code(err error) string {
	var reply *smtp.SMTPError
	if !errors.As(err, &reply) {
		return fmt.Sprint("no reply: ", err)
	}
	e := reply.EnhancedCode
	return fmt.Sprintf("%d %d.%d.%d", reply.Code, e[0], e[1], e[2])
}

func TestDelivery(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialSMTP(t, server, robot)
	// Both accounts, one of them twice and in another spelling.
	check(t, send(c, robot, []string{peer, "Peer@LOCALHOST.test", robot}, hello))
	for _, address := range []string{peer, robot} {
		mails, err := server.Messages(address)
		check(t, err)
		if len(mails) != 1 {
			t.Fatalf("%s has %d mails", address, len(mails))
		}
		if !bytes.HasSuffix(mails[0], []byte(hello)) {
			t.Errorf("the client's bytes have changed: %q", mails[0])
		}
		m, err := mail.ReadMessage(bytes.NewReader(mails[0]))
		check(t, err)
		for name, want := range map[string]string{"Return-Path": "<" + robot + ">", "Delivered-To": address, "Subject": "/chatter"} {
			if got := m.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if !strings.Contains(m.Header.Get("Received"), "with ESMTPA id ") {
			t.Errorf("Received: %q", m.Header.Get("Received"))
		}
		if _, err := m.Header.Date(); err != nil {
			t.Errorf("Date: %v", err)
		}
		if m.Header.Get("Message-Id") == "" {
			t.Error("no Message-ID")
		}
	}
}

func TestSubmissionKeepsWhatIsThere(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialSMTP(t, server, robot)
	long := strings.Repeat("x", 100_000)
	for name, raw := range map[string]string{
		"complete":   "date: Mon, 02 Jan 2006 15:04:05 +0000\r\nmessage-id: <1@x>\r\n\r\n\r\n.\r\n..two\r\nbare\nline\r\n",
		"no header":  "just a line\r\nand: another\r\n",
		"no body":    "Subject: x\r\n",
		"only empty": "\r\nbody\r\n",
		"empty":      "",
		"long line":  "Subject: x\r\n\r\n" + long + "\r\n",
		"8 bit":      "Subject: x\r\n\r\n\xff\xfe gr\u00fc\u00dfe\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := server.Messages(peer)
			// go-smtp's client turns bare LF into CRLF, hence the comparison.
			check(t, send(c, robot, []string{peer}, raw))
			mails, _ := server.Messages(peer)
			if len(mails) != len(before)+1 {
				t.Fatalf("%d mails after %d", len(mails), len(before))
			}
			got := mails[len(mails)-1]
			sent := strings.ReplaceAll(strings.ReplaceAll(raw, "\r\n", "\n"), "\n", "\r\n")
			if !strings.HasSuffix(string(got), sent) {
				t.Errorf("got %.300q", got)
			}
			m, err := mail.ReadMessage(bytes.NewReader(got))
			check(t, err)
			if n := len(m.Header["Date"]); n != 1 {
				t.Errorf("%d Date fields", n)
			}
			if n := len(m.Header["Message-Id"]); n != 1 {
				t.Errorf("%d Message-ID fields", n)
			}
		})
	}
}

func TestAuth(t *testing.T) {
	server := start(t, mailserver.Config{})
	dial := func() *smtp.Client {
		c, err := smtp.Dial(server.SMTPAddr())
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	for name, mechanism := range map[string]sasl.Client{
		"plain":          sasl.NewPlainClient("", robot, "robot"),
		"plain identity": sasl.NewPlainClient(robot, robot, "robot"),
		"any case":       sasl.NewPlainClient("", "ROBOT@LocalHost.test", "robot"),
		"login":          sasl.NewLoginClient(robot, "robot"),
	} {
		if err := dial().Auth(mechanism); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, mechanism := range map[string]sasl.Client{
		"plain":      sasl.NewPlainClient("", robot, "wrong"),
		"login":      sasl.NewLoginClient(robot, "wrong"),
		"no user":    sasl.NewPlainClient("", "nobody@localhost.test", "robot"),
		"other user": sasl.NewPlainClient(peer, robot, "robot"),
	} {
		if got := code(dial().Auth(mechanism)); got != "535 5.7.8" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := code(dial().Auth(sasl.NewExternalClient(""))); got != "504 5.7.4" {
		t.Errorf("unknown mechanism: %s", got)
	}
	if got := code(dial().Mail(robot, nil)); got != "530 5.7.0" {
		t.Errorf("MAIL without AUTH: %s", got)
	}
	if stats := server.Stats(); stats.SMTPLogins != 4 || stats.FailedLogins != 3 {
		t.Errorf("%+v", stats)
	}
}

func TestRefusals(t *testing.T) {
	server := start(t, mailserver.Config{MaxMessageBytes: 10_000})
	c := dialSMTP(t, server, robot)
	if size, ok := c.MaxMessageSize(); !ok || size != 10_000 {
		t.Errorf("SIZE %d %v", size, ok)
	}
	check(t, c.Mail("anybody@elsewhere.example", nil))
	for _, to := range []string{"nobody@localhost.test", "robot@elsewhere.example"} {
		if got := code(c.Rcpt(to, nil)); got != "550 5.1.1" {
			t.Errorf("RCPT %s: %s", to, got)
		}
	}
	check(t, c.Reset())
	if got := code(c.Mail(robot, &smtp.MailOptions{Size: 10_001})); got != "552 5.3.4" {
		t.Errorf("announced size: %s", got)
	}
	large := strings.Repeat("0123456789abcdef\r\n", 1000)
	if got := code(send(c, robot, []string{peer}, large)); got != "552 5.3.4" {
		t.Errorf("real size: %s", got)
	}
	// The connection is still good after all that.
	check(t, send(c, robot, []string{peer}, hello))
	mails, _ := server.Messages(peer)
	if len(mails) != 1 {
		t.Errorf("%d mails", len(mails))
	}
}

func TestFullMailbox(t *testing.T) {
	server := start(t, mailserver.Config{MaxMailboxMessages: 2, MaxMailboxBytes: 5000})
	c := dialSMTP(t, server, robot)
	check(t, server.Deliver(peer, []byte(hello)))
	check(t, server.Deliver(peer, []byte(hello)))
	if err := server.Deliver(peer, []byte(hello)); !errors.Is(err, mailserver.ErrMailboxFull) {
		t.Errorf("Deliver: %v", err)
	}
	check(t, c.Mail(robot, nil))
	check(t, c.Rcpt(robot, nil))
	if got := code(c.Rcpt(peer, nil)); got != "452 4.2.2" {
		t.Errorf("RCPT: %s", got)
	}
	check(t, c.Reset())

	// It fills up between RCPT and the end of DATA: nobody gets the mail.
	check(t, c.Mail(robot, nil))
	check(t, c.Rcpt(robot, nil))
	check(t, server.Deliver(robot, bytes.Repeat([]byte("x"), 4900)))
	w, err := c.Data()
	check(t, err)
	if _, err := w.Write([]byte(hello)); err != nil {
		t.Fatal(err)
	}
	if got := code(w.Close()); got != "452 4.2.2" {
		t.Errorf("DATA: %s", got)
	}
	if got := code(send(c, robot, []string{robot}, strings.Repeat("0123456789\r\n", 1000))); got != "552 5.2.3" {
		t.Errorf("larger than the mailbox: %s", got)
	}
	if mails, _ := server.Messages(robot); len(mails) != 1 {
		t.Errorf("%d mails", len(mails))
	}
}

// TestLMTP: whoever reaches LMTP may deliver, and gets a reply for each recipient.
func TestLMTP(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "lmtp")
	for addr, url := range map[string]string{"127.0.0.1:0": "lmtp+insecure://127.0.0.1:", socket: "lmtp+unix://" + socket} {
		server := start(t, mailserver.Config{TLS: true, LMTPAddr: addr})
		network, address := "unix", strings.TrimPrefix(server.LMTPURL(), "lmtp+unix://")
		if addr != socket {
			network, address = "tcp", strings.TrimPrefix(server.LMTPURL(), "lmtp+insecure://")
		}
		if !strings.HasPrefix(server.LMTPURL(), url) {
			t.Errorf("URL %s, want %s", server.LMTPURL(), url)
		}
		for range 2 {
			conn, err := net.Dial(network, address)
			check(t, err)
			c := smtp.NewClientLMTP(conn)
			if ok, _ := c.Extension("AUTH"); ok {
				t.Error("a login is offered")
			}
			check(t, c.Mail("somebody@else.test", nil))
			check(t, c.Rcpt(robot, nil))
			if got := code(c.Rcpt("nobody@localhost.test", nil)); got != "550 5.1.1" {
				t.Errorf("unknown recipient: %s", got)
			}
			check(t, c.Rcpt(peer, nil))
			data, err := c.Data()
			check(t, err)
			_, err = io.WriteString(data, hello)
			check(t, err)
			replies, err := data.CloseWithLMTPResponse()
			check(t, err)
			if len(replies) != 2 {
				t.Errorf("%d replies, want 2", len(replies))
			}
			check(t, c.Close())
			server.Stop(mailserver.SMTP)
			check(t, server.Resume(mailserver.SMTP))
		}
		mails, err := server.Messages(peer)
		check(t, err)
		if len(mails) != 2 || !bytes.Contains(mails[0], []byte("with LMTP id ")) {
			t.Errorf("mails %q", mails)
		}
	}
	if server := start(t, mailserver.Config{}); server.LMTPURL() != "" {
		t.Errorf("LMTP at %s without being asked for", server.LMTPURL())
	}
	if _, err := mailserver.Start(mailserver.Config{TLS: true, LMTPAddr: "0.0.0.0:0"}); err == nil {
		t.Error("LMTP was started for everybody")
	}
}
