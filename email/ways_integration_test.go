//go:build integration

package email_test

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/transporttest"
)

// realFolder makes a folder for one test, with what groups put below it, and returns its name.
func realFolder(t testing.TB) string {
	t.Helper()
	m := realMailbox(t)
	name := "postbus-test-" + rand.Text()
	if err := m.client("").Create(name, nil).Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c := m.client("")
		below, err := c.List("", name+".*", nil).Collect()
		if err != nil {
			t.Error(err)
		}
		for _, folder := range below {
			_ = c.Delete(folder.Mailbox).Wait() // or it is only a name
		}
		if err := c.Delete(name).Wait(); err != nil {
			t.Error(err)
		}
	})
	return name
}

// realAppended returns the configuration of a node that appends to a folder and watches it.
func realAppended(t testing.TB, folder string) email.Config {
	config, _ := real(t)
	config.SMTP, config.IMAP, config.To = config.IMAP+"/"+folder, config.IMAP+"/"+folder, nil
	return config
}

// TestRealAppendConformance: nodes that share a folder of an account. Nothing passes a queue, so what one test has
// sent another does not see.
func TestRealAppendConformance(t *testing.T) {
	var folders, configs sync.Map // of string by testing.TB, of email.Config by transport.Carrier
	reopen := func(t testing.TB, c email.Config) transport.Carrier {
		carrier := open(t, c)
		configs.Store(carrier, c)
		return carrier
	}
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			folder, ok := folders.Load(t)
			if !ok {
				folder = realFolder(t)
				folders.Store(t, folder)
			}
			c := realAppended(t, folder.(string))
			c.State = filepath.Join(t.TempDir(), "state")
			return reopen(t, c)
		},
		Reopen: func(t testing.TB, closed transport.Carrier) transport.Carrier {
			c, _ := configs.LoadAndDelete(closed)
			return reopen(t, c.(email.Config))
		},
		Features: transporttest.Features{Ordered: true, Durable: true, Last: true, Deduplicates: true, Group: true, OwnGroups: true},
	})
}

// TestRealShared: two accounts share a folder. Each sees it under a name of its own, can put messages into it, go
// on where it was, and be a member of the groups there.
func TestRealShared(t *testing.T) {
	shared := os.Getenv("POSTBUS_TEST_SHARED")
	if shared == "" {
		t.Skip("the server is not set up for it: MAILSERVER_SHARED=1 scripts/mailserver.sh start")
	}
	folder := realFolder(t)
	robot := realAppended(t, folder)
	_, peer := real(t)
	rights := imap.RightSet("lrswipkxte")
	if err := realMailbox(t).client("").SetACL(folder, imap.RightsIdentifier(peer.Username), imap.RightModificationReplace, rights).Wait(); err != nil {
		t.Fatal(err)
	}
	peer.SMTP, peer.IMAP, peer.To = peer.IMAP+"/"+shared+"."+folder, peer.IMAP+"/"+shared+"."+folder, nil
	peer.State = filepath.Join(t.TempDir(), "state")

	group := transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}
	done := make(chan uint64, 100)
	handle := func(got <-chan transport.Delivery) {
		for d := range got {
			if err := d.Settler.Ack(); err != nil {
				t.Error(err)
			}
			done <- d.Message.Info.Sequence
		}
	}
	one, two := open(t, robot), open(t, peer)
	for _, c := range []*email.Carrier{one, two} {
		got := make(chan transport.Delivery, 100)
		defer close(got)
		if _, err := c.Receive(group, func(d transport.Delivery) { got <- d }); err != nil {
			t.Fatal(err)
		}
		go handle(got)
	}
	defer closeCarrier(t, one)
	defer func() { closeCarrier(t, two) }()
	kept, stop := receive(t, two, durableOnT)
	b := &bench{TB: t, gid: transport.NewGID()}
	send := func(c *email.Carrier) {
		t.Helper()
		if err := c.Send(t.Context(), b.message("hello")); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[uint64]bool)
	for range 20 {
		send(one)
		send(two)
	}
	for range 40 {
		select {
		case n := <-done:
			if seen[n] {
				t.Errorf("message %d has been handled twice", n)
			}
			seen[n] = true
		case <-time.After(timeout):
			t.Fatalf("%d of 40 messages have been handled", len(seen))
		}
	}
	for range 40 {
		ack(t, <-kept)
	}
	stop()
	closeCarrier(t, two)
	send(one)
	two = open(t, peer)
	kept, _ = receive(t, two, durableOnT)
	if d := <-kept; d.Message.Info.Sequence != 41 {
		t.Errorf("it goes on with message %d, want 41", d.Message.Info.Sequence)
	}
}

// realListener opens a node to which Postfix delivers.
func realListener(t testing.TB) *email.Carrier {
	t.Helper()
	config, _ := real(t)
	config.From = variable(t, "POSTBUS_TEST_LISTENER")
	config.To = []string{config.From}
	path := variable(t, "POSTBUS_TEST_LISTENER_SOCKET")
	config.IMAP = "lmtp+unix://" + path
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // Postfix is another user
		t.Fatal(err)
	}
	c, err := email.Listen(t.Context(), socket, config, email.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestRealListen: what Postfix delivers comes in each publisher's order, and so do its reports.
func TestRealListen(t *testing.T) {
	c := realListener(t)
	b := &bench{TB: t, gid: transport.NewGID(), carrier: c}
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	news, _ := receive(t, c, transport.Interest{Kind: transport.Undeliverable, Client: b.gid})
	const n = 300
	for range n {
		b.send()
	}
	for i := range n {
		select {
		case d := <-got:
			if d.Message.Info.PublisherGID == b.gid && d.Message.Info.Sequence != uint64(i+1) {
				t.Fatalf("message %d came, want %d", d.Message.Info.Sequence, i+1)
			}
		case <-time.After(timeout):
			t.Fatalf("%d of %d messages came", i, n)
		}
	}
	m := b.message("x")
	m.To = []string{variable(t, "POSTBUS_TEST_BOUNCE")}
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-news:
		if d.Message.InReplyTo != m.ID {
			t.Errorf("the report is about %v, want %v", d.Message.InReplyTo, m.ID)
		}
	case <-time.After(timeout):
		t.Error("no report came")
	}
}

// TestRealListenQueue: what comes while the node does not run waits in the queue of the server.
func TestRealListenQueue(t *testing.T) {
	sender := open(t, func() email.Config { c, _ := real(t); c.To = []string{variable(t, "POSTBUS_TEST_LISTENER")}; return c }())
	defer closeCarrier(t, sender)
	m := (&bench{TB: t, gid: transport.NewGID()}).message("waits")
	if err := sender.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got, _ := receive(t, realListener(t), transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	for {
		select {
		case d := <-got:
			if d.Message.ID == m.ID {
				return
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("the message did not come")
		}
	}
}

// BenchmarkRealAppend is BenchmarkAppend on Dovecot.
func BenchmarkRealAppend(b *testing.B) { benchmarkAppend(b, realAppended(b, realFolder(b))) }
