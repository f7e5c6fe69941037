package raw_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/bench/raw"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Mails get through whatever the security, and are removed again, others not.
func TestRoundTrip(t *testing.T) {
	for name, c := range map[string]struct {
		config mailserver.Config
		urls   func(*mailserver.Server) (smtp, imap string)
	}{
		"plain":    {mailserver.Config{}, func(s *mailserver.Server) (string, string) { return s.SMTPURL(), s.IMAPURL() }},
		"TLS":      {mailserver.Config{TLS: true}, func(s *mailserver.Server) (string, string) { return s.SMTPURL(), s.IMAPURL() }},
		"STARTTLS": {mailserver.Config{TLS: true}, func(s *mailserver.Server) (string, string) { return s.SMTPStartTLSURL(), s.IMAPStartTLSURL() }},
		"APPEND":   {mailserver.Config{}, func(s *mailserver.Server) (string, string) { return s.IMAPURL() + "/INBOX", s.IMAPURL() }},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := mailserver.Start(c.config)
			check(t, err)
			defer server.Close()
			robot := server.Accounts()[0]
			a := raw.Account{Username: robot.Address, Password: robot.Password, Address: robot.Address, CA: server.CACertPEM()}
			a.SMTP, a.IMAP = c.urls(server)
			check(t, server.Deliver(robot.Address, []byte("Subject: word of another\r\n\r\nold\r\n")))
			in, err := raw.OpenFetcher(t.Context(), a)
			check(t, err)
			defer in.Close()
			out, err := raw.OpenSubmitter(t.Context(), a)
			check(t, err)
			defer out.Close()
			first := in.Next()
			submit(t, out)
			check(t, server.Deliver(robot.Address, []byte("Subject: other\r\n\r\nkept\r\n")))
			var got []string
			for len(got) < 5 {
				check(t, in.Fetch(t.Context(), func(mail []byte) error {
					_, body, _ := strings.Cut(string(mail), "\r\n\r\n")
					got = append(got, strings.TrimSpace(body))
					return nil
				}))
			}
			if want := []string{"0", "1", "2", "3", "kept"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			check(t, in.Remove(first, "word"))
			left, err := server.Messages(robot.Address)
			check(t, err)
			if len(left) != 2 {
				t.Errorf("%d mails are left: %q", len(left), left)
			}
		})
	}
}

// submit sends four mails: one by one, or all before the first answer.
func submit(t *testing.T, out *raw.Submitter) {
	for i := range 4 {
		mail := fmt.Appendf(nil, "Subject: a word\r\n\r\n%d\r\n", i)
		if out.Deep() {
			check(t, out.Start(mail))
		} else {
			check(t, out.Submit(mail))
		}
	}
	for i := 0; i < 4 && out.Deep(); i++ {
		check(t, out.Finish())
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]raw.Endpoint{
		"mail.test":                   {Protocol: "smtp", TLS: true, Network: "tcp", Host: "mail.test", Address: "mail.test:465"},
		"smtp+starttls://mail.test":   {Protocol: "smtp", StartTLS: true, Network: "tcp", Host: "mail.test", Address: "mail.test:587"},
		"smtp+insecure://[::1]:1025":  {Protocol: "smtp", Network: "tcp", Host: "::1", Address: "[::1]:1025"},
		"lmtp+insecure://mail.test":   {Protocol: "lmtp", Network: "tcp", Host: "mail.test", Address: "mail.test:24"},
		"lmtp+unix:///run/lmtp":       {Protocol: "lmtp", Network: "unix", Host: "localhost", Address: "/run/lmtp"},
		"imaps://mail.test/Bus":       {Protocol: "imap", TLS: true, Network: "tcp", Host: "mail.test", Address: "mail.test:993", Folder: "Bus"},
		"imap+insecure://127.0.0.1:1": {Protocol: "imap", Network: "tcp", Host: "127.0.0.1", Address: "127.0.0.1:1"},
	} {
		if got, err := raw.Parse(text, "smtps"); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"pop3://mail.test", "://", "smtp+insecure://%zz"} {
		if e, err := raw.Parse(text, "smtps"); err == nil {
			t.Errorf("%s: %+v", text, e)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{})
	check(t, err)
	defer server.Close()
	a := raw.Account{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: "robot@localhost.test", Password: "wrong", Address: "robot@localhost.test"}
	if _, err := raw.OpenSubmitter(t.Context(), a); err == nil || !strings.Contains(err.Error(), "AUTH") || !strings.Contains(err.Error(), server.SMTPAddr()) {
		t.Errorf("submitter: %v", err)
	}
	if _, err := raw.OpenFetcher(t.Context(), a); err == nil || !strings.Contains(err.Error(), "LOGIN") || !strings.Contains(err.Error(), server.IMAPAddr()) {
		t.Errorf("fetcher: %v", err)
	}
	a.IMAP = "lmtp+insecure://127.0.0.1:1"
	if _, err := raw.OpenFetcher(t.Context(), a); err == nil || !strings.Contains(err.Error(), "is no inbox") {
		t.Errorf("a listener instead of an inbox: %v", err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
