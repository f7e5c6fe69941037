package mailserver_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/mailserver"
)

// TestSlowReader: a client that asks for a lot and reads none of it holds up
// neither delivery nor the other clients of the mailbox.
func TestSlowReader(t *testing.T) {
	server := start(t, mailserver.Config{})
	large := append([]byte("Subject: large\r\n\r\n"), bytes.Repeat([]byte("0123456789abcdef\r\n"), 1<<20)...)
	check(t, server.Deliver(robot, large))
	slow := dialRaw(t, server.IMAPAddr())
	slow.imap("LOGIN " + robot + " robot")
	slow.imap("SELECT INBOX")
	slow.send("x UID FETCH 1 BODY.PEEK[]\r\n")
	slow.line() // it has begun, and more than fits into the sockets is to come

	c, _ := openInbox(t, server, robot)
	idle, err := c.Idle()
	check(t, err)
	check(t, send(dialSMTP(t, server, peer), peer, []string{robot}, hello))
	expect(t, "EXISTS", c.exists, is(uint32(2)))
	check(t, idle.Close())
	check(t, idle.Wait())
	if got := c.fetchBodies(2); len(got) != 1 {
		t.Errorf("%d bodies", len(got))
	}
	check(t, c.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	check(t, c.Expunge().Close())
	if mails, _ := server.Messages(robot); len(mails) != 1 {
		t.Errorf("%d mails", len(mails))
	}

	// The slow client still gets all of what it asked for, and then the news.
	rest := make([]byte, len(large))
	for n := 0; n < len(rest); {
		m, err := slow.Read(rest[n:])
		check(t, err)
		n += m
	}
	if !bytes.Equal(rest, large) {
		t.Error("the mail has changed while it was sent")
	}
}

// TestManyClients lets several clients change one mailbox at the same time. All
// of them must end with the same messages under the same numbers.
func TestManyClients(t *testing.T) {
	server := start(t, mailserver.Config{})
	const n = 4
	var clients [n]*client
	for i := range clients {
		clients[i], _ = openInbox(t, server, robot)
		check(t, clients[i].Noop().Wait()) // go-imap notes the mailbox after its Select has returned
	}
	check(t, clients[0].Create("Other", nil).Wait())
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 300 {
				count := c.Mailbox().NumMessages
				pick := imap.SeqSetNum(random.Uint32N(count+1) + 1)
				var err error
				switch random.IntN(7) {
				case 0, 1:
					err = server.Deliver(robot, []byte(hello))
				case 2:
					err = c.Store(pick, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close()
				case 3:
					err = c.Expunge().Close()
				case 4:
					_, err = c.Fetch(pick, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{{}}}).Collect()
				case 5:
					_, err = c.Move(pick, "Other").Wait()
				case 6:
					idle, idleErr := c.Idle()
					if idleErr != nil {
						t.Error(idleErr)
						return
					}
					if err = idle.Close(); err == nil {
						err = idle.Wait()
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	check(t, server.Deliver(robot, []byte(hello)))
	mails, err := server.Messages(robot)
	check(t, err)
	var first []string
	for i, c := range clients {
		check(t, c.Noop().Wait())
		if got := c.Mailbox().NumMessages; int(got) != len(mails) {
			t.Errorf("client %d counts %d messages of %d", i, got, len(mails))
		}
		msgs, err := c.Fetch(imap.SeqSet{{Start: 1}}, &imap.FetchOptions{UID: true, Flags: true}).Collect()
		check(t, err)
		var list []string
		for _, m := range msgs {
			slices.Sort(m.Flags)
			list = append(list, fmt.Sprint(m.SeqNum, m.UID, m.Flags))
		}
		if i == 0 {
			first = list
		} else if !slices.Equal(list, first) {
			t.Errorf("client %d sees\n%v, the first saw\n%v", i, list, first)
		}
	}
}

func TestStats(t *testing.T) {
	server := start(t, mailserver.Config{})
	out := dialSMTP(t, server, robot)
	check(t, send(out, robot, []string{robot, peer}, hello))
	if err := send(out, robot, []string{"nobody@x"}, hello); err == nil {
		t.Error("an unknown recipient")
	}
	c, _ := openInbox(t, server, robot) // LOGIN, SELECT
	check(t, c.Noop().Wait())
	c.fetchBodies(1)
	c.append("INBOX", hello)
	idle, err := c.Idle()
	check(t, err)
	check(t, idle.Close())
	check(t, idle.Wait())
	if _, err := c.Status("none", &imap.StatusOptions{NumMessages: true}).Wait(); err == nil {
		t.Error("STATUS of no mailbox")
	}
	check(t, c.Logout().Wait())
	got := server.Stats()
	got.SMTPOpen, got.IMAPOpen = 0, 0 // the server may not have noticed yet
	want := mailserver.Stats{
		SMTPConnections: 1, IMAPConnections: 1, SMTPLogins: 1, IMAPLogins: 1,
		Accepted: 1, Rejected: 1, Stored: 3, IMAPCommands: 6, IMAPFetches: 1,
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
