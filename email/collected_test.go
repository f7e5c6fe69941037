package email_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// TestCollectMany: what many publishers send at once arrives in far fewer mails.
func TestCollectMany(t *testing.T) {
	const publishers, each = 50, 40
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	account := server.Accounts()[0]
	testCollectMany(t, email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password}, publishers, each)
	if mails := server.Stats().Accepted; mails > publishers*each/4 {
		t.Errorf("%d messages took %d mails", publishers*each, mails)
	}
}

// testCollectMany: messages that are sent at the same time, and travel together, come once, each publisher's in order. There
// must not be more of them than can be held back (16,384), should a mail be overtaken by all others.
func testCollectMany(t *testing.T, config email.Config, publishers, each int) {
	config.To = []string{config.Username}
	config.Batch.On = true
	c := open(t, config)
	defer closeCarrier(t, c)
	name := "/" + transport.NewGID().String()
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: name, GapWait: time.Minute})
	start := time.Now()
	var sending sync.WaitGroup
	defer sending.Wait()
	for range publishers {
		gid := transport.NewGID()
		sending.Go(func() {
			for n := uint64(1); n <= uint64(each); n++ {
				m := &transport.Message{Kind: transport.TopicMessage, Name: name, Body: fmt.Append(nil, n), ID: transport.NewID(gid, n, "test")}
				m.Info = transport.Info{PublisherGID: gid, Sequence: n, SourceTime: time.Now()}
				if err := c.Send(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := make(map[transport.GID]uint64)
	for range publishers * each {
		m := got.next(t).Message
		if gid := m.Info.PublisherGID; m.Info.Sequence != last[gid]+1 || string(m.Body) != fmt.Sprint(m.Info.Sequence) {
			t.Fatalf("message %d of %v with body %q came after message %d", m.Info.Sequence, gid, m.Body, last[gid])
		}
		last[m.Info.PublisherGID]++
	}
	t.Logf("%.0f messages a second", float64(publishers*each)/time.Since(start).Seconds())
}
