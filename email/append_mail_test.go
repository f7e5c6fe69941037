package email_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
)

// appended returns the configuration of a node that appends to a folder of the first account and watches it.
func appended(t testing.TB, server *mailserver.Server, folder string) email.Config {
	account := server.Accounts()[0]
	return email.Config{SMTP: server.IMAPURL() + "/" + folder, IMAP: server.IMAPURL() + "/" + folder, CA: server.CACertPEM(),
		Username: account.Address, Password: account.Password}
}

// TestAppendedMail: what is appended is new and unread to everybody, is addressed to whom it was meant for, and goes
// nowhere else.
func TestAppendedMail(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	makeFolder(t, server, "Robots")
	config := appended(t, server, "Robots")
	peer := server.Accounts()[1].Address
	config.To, config.Bcc = []string{peer}, []string{"secret@example.com"}
	c := open(t, config)
	defer closeCarrier(t, c)
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	b := &bench{TB: t, gid: transport.NewGID()}
	if err := c.Send(t.Context(), b.message("hello")); err != nil {
		t.Fatal(err)
	}
	m := (<-got).Message
	if string(m.Body) != "hello" || m.From != config.Username || len(m.To) != 1 || m.To[0] != peer {
		t.Errorf("got %+v", m)
	}
	for _, address := range []string{config.Username, peer} {
		if mails, err := server.Messages(address); err != nil || len(mails) > 0 {
			t.Errorf("%d mails in the inbox of %s, %v", len(mails), address, err)
		}
	}
	mails := folderMails(t, server, "Robots")
	if len(mails) != 1 || len(mails[0].Flags) > 0 || mails[0].InternalDate.IsZero() || strings.Contains(string(mails[0].BodySection[0].Bytes), "secret") {
		t.Errorf("the folder has %+v", mails)
	}
}

// TestAppendFolderLost: a folder that is deleted is missed by name, and used again once it is back.
func TestAppendFolderLost(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	config := appended(t, server, "Robots")
	config.IMAP = server.IMAPURL()
	if _, err := email.Open(t.Context(), config, email.Options{Logger: quiet}); !errors.Is(err, transport.ErrUndeliverable) || !strings.Contains(err.Error(), `no folder "Robots": create it`) {
		t.Errorf("error %v", err)
	}
	makeFolder(t, server, "Robots")
	c := open(t, config)
	defer closeCarrier(t, c)
	b := &bench{TB: t, gid: transport.NewGID()}
	client := loginTLS(t, server)
	if err := client.Delete("Robots").Wait(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := c.Send(t.Context(), b.message(strings.Repeat("x", 9000)))
		if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Permanent || !errors.Is(err, transport.ErrUndeliverable) {
			t.Errorf("error %v", err)
		}
	}
	makeFolder(t, server, "Robots")
	if err := c.Send(t.Context(), b.message("x")); err != nil {
		t.Error(err)
	}
}

// TestAppendFlights: a mail of up to 4 KiB takes one round trip, a larger one two.
func TestAppendFlights(t *testing.T) {
	t.Parallel()
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	way, err := proxy.Listen(server.IMAPAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { way.Close() })
	account := server.Accounts()[0]
	c := open(t, email.Config{SMTP: "imap+insecure://" + way.Addr(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password})
	defer closeCarrier(t, c)
	b := &bench{TB: t, gid: transport.NewGID()}
	for size, want := range map[int]int{100: 1, 2500: 1, 9000: 2} {
		way.CountFlights(func(flight string) bool {
			return strings.HasSuffix(flight, "}\r\n") || strings.HasSuffix(flight, "\r\n\r\n")
		})
		if err := c.Send(t.Context(), b.message(strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
		if got := way.Flights(); len(got) != want {
			t.Errorf("a body of %d bytes took %d flights, want %d: %q", size, len(got), want, got)
		}
	}
}

// TestStateOfAnotherFolder: places in one folder are not taken for those in another.
func TestStateOfAnotherFolder(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	makeFolder(t, server, "Robots")
	makeFolder(t, server, "Others")
	config := appended(t, server, "Robots")
	config.State = filepath.Join(t.TempDir(), "state")
	other := appended(t, server, "Others")
	other.State = config.State
	closeCarrier(t, open(t, other)) // nothing in it yet
	for range 2 {
		c := open(t, config)
		_, stop := receive(t, c, durableOnT)
		stop()
		closeCarrier(t, c)
	}
	for _, config := range []email.Config{other, {SMTP: other.SMTP, IMAP: server.IMAPURL(), CA: other.CA, Username: other.Username, Password: other.Password, State: other.State}} {
		_, err := email.Open(t.Context(), config, email.Options{Logger: quiet})
		if err == nil || !strings.Contains(err.Error(), "places in the folder Robots") {
			t.Errorf("error %v", err)
		}
	}
}

// folderMails returns what is in a folder of the first account.
func folderMails(t testing.TB, server *mailserver.Server, folder string) []*imapclient.FetchMessageBuffer {
	t.Helper()
	client := loginTLS(t, server)
	if _, err := client.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
		t.Fatal(err)
	}
	all := imap.UIDSet{{Start: 1, Stop: 0}}
	mails, err := client.Fetch(all, &imap.FetchOptions{Flags: true, InternalDate: true, BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	return mails
}
