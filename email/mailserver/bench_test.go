package mailserver_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email/mailserver"
)

var kilobyte = "Subject: /chatter\r\n\r\n" + strings.Repeat("0123456789abcde\r\n", 60)

// BenchmarkLatency measures one mail from SMTP to the body by IDLE and FETCH,
// one after the other.
func BenchmarkLatency(b *testing.B) {
	server := start(b, mailserver.Config{})
	out := dialSMTP(b, server, robot)
	in, data := openInbox(b, server, peer)
	uid := data.UIDNext
	for b.Loop() {
		idle, err := in.Idle()
		check(b, err)
		check(b, send(out, robot, []string{peer}, kilobyte))
		<-in.exists
		check(b, idle.Close())
		if got := in.fetchBodies(uid); len(got) != 1 {
			b.Fatalf("%d bodies", len(got))
		}
		check(b, idle.Wait())
		uid++
	}
}

// BenchmarkThroughput measures a burst from SMTP to the bodies.
func BenchmarkThroughput(b *testing.B) {
	server := start(b, mailserver.Config{})
	out := dialSMTP(b, server, robot)
	in, data := openInbox(b, server, peer)
	b.ResetTimer()
	var sender sync.WaitGroup
	sender.Go(func() {
		for range b.N {
			if err := send(out, robot, []string{peer}, kilobyte); err != nil {
				b.Error(err)
				return
			}
		}
	})
	uid := data.UIDNext
	for got := 0; got < b.N; {
		n := len(in.fetchBodies(uid))
		if n == 0 {
			idle, err := in.Idle()
			check(b, err)
			<-in.exists
			for len(in.exists) > 0 {
				<-in.exists
			}
			check(b, idle.Close())
			check(b, idle.Wait())
		}
		got += n
		uid += imap.UID(n)
	}
	sender.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "mails/s")
}

// BenchmarkLargeMailbox measures commands on a mailbox with 100,000 messages.
func BenchmarkLargeMailbox(b *testing.B) {
	server := start(b, mailserver.Config{})
	const n = 100_000
	for i := range n {
		check(b, server.Deliver(robot, fmt.Appendf(nil, "Message-ID: <%d@x>\r\nSubject: x\r\n\r\nbody\r\n", i)))
	}
	c, _ := openInbox(b, server, robot)
	b.Run("fetch the last", func(b *testing.B) {
		for b.Loop() {
			c.fetchBodies(n)
		}
	})
	b.Run("fetch all", func(b *testing.B) {
		for b.Loop() {
			if got := len(c.fetchBodies(1)); got != n {
				b.Fatal(got)
			}
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "mails/s")
	})
	b.Run("search a Message-ID", func(b *testing.B) {
		for b.Loop() {
			data, err := c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Message-ID", Value: "<77777@x>"}}}, nil).Wait()
			check(b, err)
			if data.All.String() != "77778" {
				b.Fatal(data.All)
			}
		}
	})
	b.Run("expunge one", func(b *testing.B) {
		uid := imap.UID(1)
		for b.Loop() {
			check(b, c.Store(imap.UIDSetNum(uid), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
			check(b, expunge(c.UIDExpunge(imap.UIDSetNum(uid))))
			uid++
		}
	})
}

func expunge(cmd *imapclient.ExpungeCommand) error { return cmd.Close() }
