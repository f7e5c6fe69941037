package email_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
)

// full returns how to reach a server whose inbox holds that many messages on other topics, and the newest
// hundred of which a half is on /t.
func full(t testing.TB, mails int) email.Config {
	t.Helper()
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	account := server.Accounts()[0]
	fill(mails, func(m *transport.Message) {
		raw, err := wire.Encode(m, wire.Envelope{From: account.Address, To: []string{account.Address}})
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Deliver(account.Address, raw); err != nil {
			t.Fatal(err)
		}
	})
	return email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password, To: []string{account.Address}}
}

// fill calls put with that many messages.
func fill(mails int, put func(*transport.Message)) {
	gid := transport.NewGID()
	for n := range mails {
		m := &transport.Message{Kind: transport.TopicMessage, Name: "/other", Body: []byte("x")}
		if mails-n <= 100 && n%2 == 0 {
			m.Name = "/t"
		}
		m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = gid, uint64(n+1), time.Now()
		m.ID = transport.NewID(gid, uint64(n+1), "test")
		put(m)
	}
}

// costs are how long things take at a mailbox.
type costs struct{ open, latency, resume, last time.Duration }

// measure finds out, as the best of some tries.
func measure(t testing.TB, config email.Config, tries int) costs {
	t.Helper()
	best := slowest
	state := filepath.Join(t.TempDir(), "state")
	config.State = state
	gid := transport.NewGID()
	sequence := uint64(0)
	send := func(c *email.Carrier) {
		t.Helper()
		sequence++
		m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte("x")}
		m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = gid, sequence, time.Now()
		m.ID = transport.NewID(gid, sequence, "test")
		if err := c.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	open := func() *email.Carrier {
		t.Helper()
		c, err := email.Open(t.Context(), config, email.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	receive := func(c *email.Carrier, interest transport.Interest) <-chan transport.Delivery {
		t.Helper()
		got := make(chan transport.Delivery, 1000)
		interest.Kind, interest.Name = transport.TopicMessage, "/t"
		if _, err := c.Receive(interest, func(d transport.Delivery) { got <- d }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	await := func(got <-chan transport.Delivery, n int) {
		t.Helper()
		for range n {
			select {
			case d := <-got:
				if d.Settler != nil {
					if err := d.Settler.Ack(); err != nil {
						t.Fatal(err)
					}
				}
			case <-time.After(timeout):
				t.Fatal("a message did not come")
			}
		}
	}
	for range tries {
		start := time.Now()
		c := open()
		got := receive(c, transport.Interest{})
		send(c)
		await(got, 1)
		best.open = min(best.open, time.Since(start))
		for range 20 {
			start = time.Now()
			send(c)
			await(got, 1)
			best.latency = min(best.latency, time.Since(start))
		}
		durable := receive(c, transport.Interest{Durable: "d", GapWait: -1})
		last := receive(c, transport.Interest{Last: 20})
		start = time.Now()
		await(last, 20)
		best.last = min(best.last, time.Since(start))
		send(c)
		await(durable, 1)
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		config.State = ""
		away := open()
		for range 10 {
			send(away)
		}
		if err := away.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		config.State = state
		start = time.Now()
		c = open()
		await(receive(c, transport.Interest{Durable: "d", GapWait: -1}), 10)
		best.resume = min(best.resume, time.Since(start))
		if err := c.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	return best
}

// TestFullMailbox: what is in the mailbox makes no difference, by what the server has to
// send: less than a few bytes for each old mail, which whatever looks at all of them would need.
func TestFullMailbox(t *testing.T) {
	const mails = 20_000
	var received [2]int64
	for i, n := range []int{100, mails} {
		config := full(t, n)
		p, err := proxy.Listen(strings.TrimPrefix(config.IMAP, "imap+insecure://"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		config.IMAP = "imap+insecure://" + p.Addr()
		measure(t, config, 1)
		received[i] = p.Passed(proxy.ToClient)
	}
	t.Logf("%d bytes with 100 mails, %d with %d", received[0], received[1], mails)
	if received[1]-received[0] > 10*mails {
		t.Errorf("the server has sent %d bytes with 100 mails in the mailbox and %d with %d", received[0], received[1], mails)
	}
}

// BenchmarkFullMailbox compares an empty mailbox with one that has 200,000 old mails.
func BenchmarkFullMailbox(b *testing.B) {
	for b.Loop() {
		compareFull(b, 200_000)
	}
}

// compareFull fails if something takes more than twice as long at a full mailbox, as the best of many tries.
func compareFull(t testing.TB, mails int) {
	small, large := full(t, 100), full(t, mails)
	few, many := slowest, slowest
	for try := 0; try < 5 && (try == 0 || !few.flat(many)); try++ {
		few, many = few.best(measure(t, small, 5)), many.best(measure(t, large, 5))
	}
	t.Logf("with    100 mails: %v", few)
	t.Logf("with %6d mails: %v", mails, many)
	if !few.flat(many) {
		t.Error("a full mailbox costs more than twice as much")
	}
}

var slowest = costs{time.Hour, time.Hour, time.Hour, time.Hour}

func (c costs) best(d costs) costs {
	return costs{min(c.open, d.open), min(c.latency, d.latency), min(c.resume, d.resume), min(c.last, d.last)}
}

// flat reports whether d is not much more than c; what is a matter of less than two milliseconds is no matter.
func (c costs) flat(d costs) bool {
	const noise = 2 * time.Millisecond
	return d.open <= 2*c.open+noise && d.latency <= 2*c.latency+noise && d.resume <= 2*c.resume+noise && d.last <= 2*c.last+noise
}

func (c costs) String() string {
	return fmt.Sprintf("open to first message %v, latency %v, durable resume %v, last 20 %v", c.open, c.latency, c.resume, c.last)
}
