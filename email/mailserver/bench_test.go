package mailserver_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email/mailserver"
)

var kilobyte = "Subject: /chatter\r\n\r\n" + strings.Repeat("0123456789abcde\r\n", 60)

// BenchmarkLatency measures one mail at a time, from before MAIL until its body
// is there by IDLE and FETCH.
func BenchmarkLatency(b *testing.B) {
	server := start(b, mailserver.Config{})
	out := dialSMTP(b, server, robot)
	in, data := openInbox(b, server, peer)
	uid := data.UIDNext
	var took []time.Duration
	for b.Loop() {
		idle, err := in.Idle()
		check(b, err)
		sent := make(chan error)
		begin := time.Now()
		go func() { sent <- send(out, robot, []string{peer}, kilobyte) }()
		<-in.exists
		check(b, idle.Close()) // sends DONE; FETCH follows without waiting
		if got := in.fetchBodies(uid); len(got) != 1 {
			b.Fatalf("%d bodies", len(got))
		}
		took = append(took, time.Since(begin))
		check(b, idle.Wait())
		check(b, <-sent)
		uid++
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkThroughput measures a burst from SMTP to the bodies.
func BenchmarkThroughput(b *testing.B) {
	for _, senders := range []int{1, 4} {
		b.Run(fmt.Sprint("senders=", senders), func(b *testing.B) { burst(b, senders) })
	}
}

func burst(b *testing.B, senders int) {
	server := start(b, mailserver.Config{})
	in, data := openInbox(b, server, peer)
	clients := make([]*smtp.Client, senders)
	for i := range clients {
		clients[i] = dialSMTP(b, server, robot)
	}
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var sending sync.WaitGroup
	for _, out := range clients {
		sending.Go(func() {
			for left.Add(-1) >= 0 {
				if err := send(out, robot, []string{peer}, kilobyte); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	uid := data.UIDNext
	for got := 0; got < b.N; {
		n := len(in.fetchBodies(uid))
		if n == 0 {
			idle, err := in.Idle()
			check(b, err)
			<-in.exists
			check(b, idle.Close())
			check(b, idle.Wait())
		}
		for len(in.exists) > 0 {
			<-in.exists // the next FETCH sees what they announced
		}
		got += n
		uid += imap.UID(n)
	}
	sending.Wait()
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
