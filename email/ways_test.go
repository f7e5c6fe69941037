package email_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// listeningNode opens a node that delivers to itself by LMTP.
func listeningNode(t testing.TB, adjust func(*email.Config)) *email.Carrier {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	config := email.Config{SMTP: "lmtp+unix://" + path, IMAP: "lmtp+unix://" + path, Username: "robot@localhost.test", Password: "unused", To: []string{"robot@localhost.test"}}
	if adjust != nil {
		adjust(&config)
	}
	return open(t, config)
}

// TestListenItself: a node and another one need no mail server at all between them; here they are the same.
func TestListenItself(t *testing.T) {
	c := listeningNode(t, nil)
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	b := &bench{TB: t, gid: transport.NewGID(), carrier: c}
	for i := range 100 {
		b.send()
		if d := <-got; d.Message.Info.Sequence != uint64(i+1) {
			t.Fatalf("message %d came, want %d", d.Message.Info.Sequence, i+1)
		}
	}
	closeCarrier(t, c)
}

// TestWaysBatch: what is collected travels as one mail on every way.
func TestWaysBatch(t *testing.T) {
	const n = 500
	exchange := func(t *testing.T, c *email.Carrier) {
		defer closeCarrier(t, c)
		got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
		b := &bench{TB: t, gid: transport.NewGID()}
		var msgs []*transport.Message
		for range n {
			msgs = append(msgs, b.message(payload))
		}
		if err := c.Send(t.Context(), msgs...); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			select {
			case d := <-got:
				if d.Message.Info.Sequence != uint64(i+1) || string(d.Message.Body) != payload {
					t.Fatalf("message %d came, want %d", d.Message.Info.Sequence, i+1)
				}
			case <-time.After(timeout):
				t.Fatalf("%d of %d messages came", i, n)
			}
		}
	}
	t.Run("append", func(t *testing.T) {
		server, err := mailserver.Start(mailserver.Config{TLS: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		makeFolder(t, server, "Robots")
		config := appended(t, server, "Robots")
		config.Batch.On = true
		exchange(t, open(t, config))
		if mails := folderMails(t, server, "Robots"); len(mails) > n/10 {
			t.Errorf("%d messages made %d mails", n, len(mails))
		}
	})
	t.Run("listen", func(t *testing.T) {
		exchange(t, listeningNode(t, func(c *email.Config) { c.Batch.On = true }))
	})
}
