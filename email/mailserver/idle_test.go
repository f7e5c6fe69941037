package mailserver_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/mailserver"
)

// TestIdleLosesNothing delivers a mail at every moment at which a server may
// fail to notice it: between the last command and IDLE, around "+ idling", and
// later. go-imap's own tracker fails it in the first round.
func TestIdleLosesNothing(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	deliver := func() { check(t, server.Deliver(robot, []byte(hello))) }
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	count := uint32(0)
	for i := range rounds {
		for _, when := range []string{"before", "racing", "after +", "idling"} {
			if when == "before" {
				deliver()
			}
			done := make(chan struct{})
			if when == "racing" {
				go func() { defer close(done); deliver() }()
			} else {
				close(done)
			}
			idle, err := c.Idle() // returns when "+ idling" has come
			check(t, err)
			if when == "after +" {
				deliver()
			}
			if when == "idling" {
				// A mail that is noticed proves that the client is idling now.
				deliver()
				count++
				expect(t, fmt.Sprint(i, " first of two"), c.exists, is(count))
				deliver()
			}
			count++
			expect(t, fmt.Sprint(i, when), c.exists, is(count))
			check(t, idle.Close())
			check(t, idle.Wait())
			<-done
		}
	}
}

// TestIdleThenFetch is what a receiver does: wait, fetch, wait. Under a steady
// stream of mail from elsewhere it must get all of it, once and in order.
func TestIdleThenFetch(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, data := openInbox(t, server, peer)
	const n = 2000
	sender := dialSMTP(t, server, robot)
	var sending sync.WaitGroup
	defer sending.Wait() // the last mail may be there before its 250 is
	sending.Go(func() {
		for i := range n {
			if err := send(sender, robot, []string{peer}, fmt.Sprintf("Subject: %d\r\n\r\nbody\r\n", i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	next, got, known := data.UIDNext, 0, uint32(0)
	for got < n {
		idle, err := c.Idle()
		check(t, err)
		expect(t, "mail", c.exists, func(count uint32) bool { known = count; return int(count) > got })
		check(t, idle.Close())
		check(t, idle.Wait())
		for {
			msgs, err := c.Fetch(imap.UIDSet{{Start: next}}, &imap.FetchOptions{
				UID: true, Envelope: true, BodySection: []*imap.FetchItemBodySection{bodyPeek},
			}).Collect()
			check(t, err)
			if len(msgs) == 0 || msgs[0].UID < next {
				break
			}
			for _, m := range msgs {
				if m.UID != next || m.Envelope.Subject != fmt.Sprint(got) || len(m.FindBodySection(bodyPeek)) == 0 {
					t.Fatalf("UID %d %q, want %d %d", m.UID, m.Envelope.Subject, next, got)
				}
				next++
				got++
			}
		}
		if int(known) > got {
			t.Fatalf("the server counts %d messages and gave %d", known, got)
		}
	}
	if stats := server.Stats(); stats.IMAPConnections != 1 || stats.Stored != n {
		t.Errorf("%+v", stats)
	}
}
