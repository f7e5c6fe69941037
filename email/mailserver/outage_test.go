package mailserver_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email/mailserver"
)

func TestStopAndResume(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		t.Run(map[bool]string{false: "plaintext", true: "TLS"}[withTLS], func(t *testing.T) {
			server := start(t, mailserver.Config{TLS: withTLS})
			dialSMTP := func() (*smtp.Client, error) {
				if withTLS {
					return smtp.DialTLS(server.SMTPAddr(), server.ClientTLSConfig())
				}
				return smtp.Dial(server.SMTPAddr())
			}
			dialIMAP := func() (*imapclient.Client, error) {
				if withTLS {
					return imapclient.DialTLS(server.IMAPAddr(), &imapclient.Options{TLSConfig: server.ClientTLSConfig()})
				}
				return imapclient.DialInsecure(server.IMAPAddr(), nil)
			}
			login := func() (*smtp.Client, *imapclient.Client, *imap.SelectData) {
				out, err := dialSMTP()
				check(t, err)
				check(t, out.Auth(sasl.NewPlainClient("", robot, "robot")))
				in, err := dialIMAP()
				check(t, err)
				check(t, in.Login(peer, "peer").Wait())
				data, err := in.Select("INBOX", nil).Wait()
				check(t, err)
				return out, in, data
			}
			out, in, first := login()
			check(t, send(out, robot, []string{peer}, hello))
			idle, err := in.Idle()
			check(t, err)
			addrs := []string{server.SMTPAddr(), server.IMAPAddr()}

			server.Stop(mailserver.SMTP)
			server.Stop(mailserver.SMTP)
			if err := out.Noop(); err == nil {
				t.Error("SMTP goes on")
			}
			if _, err := dialSMTP(); err == nil {
				t.Error("SMTP accepts connections")
			}
			if server.Stats().IMAPOpen != 1 {
				t.Error("IMAP did not survive the end of SMTP")
			}
			server.Stop(mailserver.IMAP)
			if err := idle.Wait(); err == nil {
				t.Error("IMAP goes on")
			}
			if _, err := dialIMAP(); err == nil {
				t.Error("IMAP accepts connections")
			}
			if stats := server.Stats(); stats.SMTPOpen != 0 || stats.IMAPOpen != 0 || stats.Idling != 0 {
				t.Errorf("%+v", stats)
			}
			check(t, server.Deliver(peer, []byte("Subject: while away\r\n\r\n")))

			check(t, server.Resume(mailserver.IMAP))
			check(t, server.Resume(mailserver.SMTP))
			check(t, server.Resume(mailserver.SMTP))
			if server.SMTPAddr() != addrs[0] || server.IMAPAddr() != addrs[1] {
				t.Error("other addresses than before")
			}
			out, in, second := login()
			defer out.Close()
			defer in.Close()
			if second.UIDValidity != first.UIDValidity || second.NumMessages != 2 || second.UIDNext != 3 {
				t.Errorf("%+v after %+v", second, first)
			}
			check(t, send(out, robot, []string{peer}, hello))
			if mails, err := server.WaitMessages(ctx(t), peer, 3); err != nil || len(mails) != 3 {
				t.Errorf("%d mails, %v", len(mails), err)
			}
		})
	}
}

func TestDisconnect(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	idle, err := c.Idle()
	check(t, err)
	server.Disconnect(mailserver.IMAP)
	if err := idle.Wait(); err == nil {
		t.Error("the connection survived")
	}
	openInbox(t, server, robot)
	if stats := server.Stats(); stats.IMAPConnections != 2 {
		t.Errorf("%+v", stats)
	}
}

// TestStopUnderLoad stops SMTP in the middle of things: a mail that was
// answered with 250 is there, and none is there in half.
func TestStopUnderLoad(t *testing.T) {
	server := start(t, mailserver.Config{})
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		accepted int
	)
	enough := make(chan struct{})
	for range 4 {
		c := dialSMTP(t, server, robot)
		wg.Go(func() {
			for send(c, robot, []string{peer, robot}, hello) == nil {
				mu.Lock()
				if accepted++; accepted == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	server.Stop(mailserver.SMTP)
	wg.Wait()
	for _, address := range []string{robot, peer} {
		mails, _ := server.Messages(address)
		if len(mails) < accepted || len(mails) > accepted+4 {
			t.Errorf("%s: %d mails, %d were accepted", address, len(mails), accepted)
		}
		for _, m := range mails {
			if !bytes.HasSuffix(m, []byte(hello)) {
				t.Fatalf("%q", m)
			}
		}
	}
}

func TestClose(t *testing.T) {
	server := start(t, mailserver.Config{TLS: true})
	check(t, server.Deliver(robot, []byte(hello)))
	// Connections at every stage: silent, in the TLS handshake, idling.
	for _, addr := range []string{server.SMTPAddr(), server.IMAPAddr(), server.SMTPStartTLSAddr(), server.IMAPStartTLSAddr()} {
		conn, err := net.Dial("tcp", addr)
		check(t, err)
		defer conn.Close()
	}
	in, err := imapclient.DialTLS(server.IMAPAddr(), &imapclient.Options{TLSConfig: server.ClientTLSConfig()})
	check(t, err)
	defer in.Close()
	check(t, in.Login(robot, "robot").Wait())
	_, err = in.Select("INBOX", nil).Wait()
	check(t, err)
	_, err = in.Idle()
	check(t, err)

	check(t, server.Close())
	check(t, server.Close())
	server.Stop(mailserver.IMAP)
	if stats := server.Stats(); stats.SMTPOpen+stats.IMAPOpen+stats.Idling != 0 {
		t.Errorf("%+v", stats)
	}
	if err := server.Resume(mailserver.SMTP); !errors.Is(err, mailserver.ErrClosed) {
		t.Errorf("Resume: %v", err)
	}
	if err := server.Deliver(robot, []byte(hello)); !errors.Is(err, mailserver.ErrClosed) {
		t.Errorf("Deliver: %v", err)
	}
	if mails, err := server.Messages(robot); err != nil || len(mails) != 1 {
		t.Errorf("Messages: %d, %v", len(mails), err)
	}
}

func TestTLS(t *testing.T) {
	server := start(t, mailserver.Config{TLS: true, Hostname: "mail.example"})
	for _, url := range []struct{ got, scheme string }{
		{server.SMTPURL(), "smtps://127.0.0.1:"},
		{server.IMAPURL(), "imaps://127.0.0.1:"},
		{server.SMTPStartTLSURL(), "smtp+starttls://127.0.0.1:"},
		{server.IMAPStartTLSURL(), "imap+starttls://127.0.0.1:"},
	} {
		if !strings.HasPrefix(url.got, url.scheme) {
			t.Errorf("%s, want %s...", url.got, url.scheme)
		}
	}
	auth := func(c *smtp.Client, err error) {
		t.Helper()
		check(t, err)
		defer c.Close()
		check(t, c.Auth(sasl.NewPlainClient("", robot, "robot")))
		check(t, send(c, robot, []string{robot}, hello))
	}
	auth(smtp.DialTLS(server.SMTPAddr(), server.ClientTLSConfig()))
	auth(smtp.DialStartTLS(server.SMTPStartTLSAddr(), server.ClientTLSConfig()))
	login := func(c *imapclient.Client, err error) {
		t.Helper()
		check(t, err)
		defer c.Close()
		check(t, c.Login(robot, "robot").Wait())
		data, err := c.Select("INBOX", nil).Wait()
		check(t, err)
		if data.NumMessages != 2 {
			t.Errorf("%d messages", data.NumMessages)
		}
		idle, err := c.Idle()
		check(t, err)
		check(t, idle.Close())
		check(t, idle.Wait())
	}
	login(imapclient.DialTLS(server.IMAPAddr(), &imapclient.Options{TLSConfig: server.ClientTLSConfig()}))
	login(imapclient.DialStartTLS(server.IMAPStartTLSAddr(), &imapclient.Options{TLSConfig: server.ClientTLSConfig()}))
	mails, _ := server.Messages(robot)
	for _, m := range mails {
		if !bytes.Contains(m, []byte("by mail.example (postbus) with ESMTPSA id ")) {
			t.Errorf("%q", m)
		}
	}

	// The names of the certificate, and the authority in PEM.
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(server.CACertPEM()) {
		t.Error("no certificate in PEM")
	}
	for _, name := range []string{"localhost", "mail.example", "127.0.0.1", "::1"} {
		conn, err := tls.Dial("tcp", server.IMAPAddr(), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.Close()
	}
	if conn, err := tls.Dial("tcp", server.IMAPAddr(), &tls.Config{ServerName: "localhost"}); err == nil {
		conn.Close()
		t.Error("trusted by everybody")
	}

	// No password before STARTTLS.
	out, err := smtp.Dial(server.SMTPStartTLSAddr())
	check(t, err)
	defer out.Close()
	if err := out.Auth(sasl.NewPlainClient("", robot, "robot")); err == nil {
		t.Error("SMTP took a password in the clear")
	}
	if got := code(out.Mail(robot, nil)); got != "530 5.7.0" {
		t.Error(got)
	}
	in, err := imapclient.DialInsecure(server.IMAPStartTLSAddr(), nil)
	check(t, err)
	defer in.Close()
	if got := responseCode(in.Login(robot, "robot").Wait()); got != "NO PRIVACYREQUIRED" {
		t.Error(got)
	}
}

func TestPlaintextHasNoTLS(t *testing.T) {
	server := start(t, mailserver.Config{})
	if server.ClientTLSConfig() != nil || server.CACertPEM() != nil || server.SMTPStartTLSAddr() != "" || server.IMAPStartTLSURL() != "" {
		t.Error("there is TLS")
	}
	if want := "smtp+insecure://" + server.SMTPAddr(); server.SMTPURL() != want {
		t.Error(server.SMTPURL())
	}
	if want := "imap+insecure://" + server.IMAPAddr(); server.IMAPURL() != want {
		t.Error(server.IMAPURL())
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]mailserver.Config{
		"all interfaces":   {SMTPAddr: ":0"},
		"another machine":  {IMAPAddr: "192.0.2.1:143"},
		"unspecified":      {IMAPAddr: "0.0.0.0:0"},
		"no port":          {IMAPAddr: "127.0.0.1"},
		"no address":       {Accounts: []mailserver.Account{{Address: "robot", Password: "x"}}},
		"display name":     {Accounts: []mailserver.Account{{Address: "R <robot@x>", Password: "x"}}},
		"line break":       {Accounts: []mailserver.Account{{Address: "robot@x\r\n", Password: "x"}}},
		"no password":      {Accounts: []mailserver.Account{{Address: "robot@x"}}},
		"twice":            {Accounts: []mailserver.Account{{"a@x", "x"}, {"A@X", "x"}}},
		"negative":         {MaxConnections: -1},
		"malformed name":   {Hostname: "a b"},
		"port in use":      {IMAPAddr: busyPort(t)},
		"port in use, TLS": {TLS: true, SMTPStartTLSAddr: busyPort(t)},
	} {
		server, err := mailserver.Start(cfg)
		if err == nil {
			server.Close()
			t.Errorf("%s: no error", name)
		}
	}
	server := start(t, mailserver.Config{})
	if got := server.Accounts(); len(got) != 2 || got[0] != (mailserver.Account{Address: robot, Password: "robot"}) {
		t.Errorf("%+v", got)
	}
	if _, err := server.Messages("nobody@x"); !errors.Is(err, mailserver.ErrUnknownAccount) {
		t.Error(err)
	}
	if _, err := server.WaitMessages(ctx(t), "nobody@x", 1); !errors.Is(err, mailserver.ErrUnknownAccount) {
		t.Error(err)
	}
	if err := server.Deliver("nobody@x", nil); !errors.Is(err, mailserver.ErrUnknownAccount) {
		t.Error(err)
	}
	if err := server.Resume(mailserver.Service(9)); err == nil {
		t.Error("resumed nothing")
	}
}

func busyPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestConnectionLimit(t *testing.T) {
	server := start(t, mailserver.Config{MaxConnections: 2})
	for addr, busy := range map[string]string{server.SMTPAddr(): "421 4.7.0", server.IMAPAddr(): "* BYE"} {
		first := dialRaw(t, addr)
		dialRaw(t, addr)
		third, err := net.Dial("tcp", addr)
		check(t, err)
		defer third.Close()
		check(t, third.SetDeadline(time.Now().Add(patience)))
		if got, err := io.ReadAll(third); err != nil || !strings.HasPrefix(string(got), busy) {
			t.Errorf("%q, %v", got, err)
		}
		first.Close()
		// Its place becomes free as soon as the server has noticed.
		for ok := false; !ok; {
			conn, err := net.Dial("tcp", addr)
			check(t, err)
			check(t, conn.SetDeadline(time.Now().Add(patience)))
			line := make([]byte, 5)
			_, err = io.ReadFull(conn, line)
			check(t, err)
			ok = string(line) != busy[:5]
			conn.Close()
		}
	}
	if stats := server.Stats(); stats.Refused < 2 {
		t.Errorf("%+v", stats)
	}
}

func TestLog(t *testing.T) {
	var (
		log bytes.Buffer
		mu  sync.Mutex
	)
	handler := slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug})
	server := start(t, mailserver.Config{
		Accounts: []mailserver.Account{{Address: robot, Password: "sesame"}},
		Logger:   slog.New(handler),
	})
	c, err := smtp.Dial(server.SMTPAddr())
	check(t, err)
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", robot, "sesam")); err == nil {
		t.Error("wrong password")
	}
	check(t, c.Auth(sasl.NewPlainClient("", robot, "sesame")))
	check(t, send(c, robot, []string{robot}, hello))
	in, err := imapclient.DialInsecure(server.IMAPAddr(), nil)
	check(t, err)
	defer in.Close()
	check(t, in.Login(robot, "sesame").Wait())
	server.Close()
	for _, want := range []string{"mail server started", "login refused", robot, "recipients=1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "sesam") || strings.Contains(log.String(), "hello") {
		t.Errorf("a secret in %s", log.String())
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestIdleTimeout(t *testing.T) {
	server := start(t, mailserver.Config{IdleTimeout: 50 * time.Millisecond})
	for _, addr := range []string{server.SMTPAddr(), server.IMAPAddr()} {
		c := dialRaw(t, addr)
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
	}
}
