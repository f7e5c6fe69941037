package email

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// archive is a mailbox with a carrier that does away with finished messages.
type archive struct {
	testing.TB
	server *mailserver.Server
	robot  mailserver.Account
	client *imapclient.Client
	folder string // that is watched
}

func newArchive(t testing.TB) *archive {
	t.Helper()
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	a := &archive{TB: t, server: server, robot: server.Accounts()[0], folder: inbox}
	conn, err := net.Dial("tcp", server.IMAPAddr())
	if err != nil {
		t.Fatal(err)
	}
	a.client = imapclient.New(conn, nil)
	t.Cleanup(func() { a.client.Close() })
	if err := a.client.Login(a.robot.Address, a.robot.Password).Wait(); err != nil {
		t.Fatal(err)
	}
	return a
}

// put puts a mail that has arrived so long ago into the folder that is watched.
func (a *archive) put(raw string, age time.Duration) {
	a.Helper()
	c := a.client.Append(a.folder, int64(len(raw)), &imap.AppendOptions{Time: time.Now().Add(-age)})
	_, _ = c.Write([]byte(raw))
	if err := c.Close(); err != nil {
		a.Fatal(err)
	}
	if _, err := c.Wait(); err != nil {
		a.Fatal(err)
	}
}

// list returns what is in a folder: the UIDs, with a "*" behind those that are \Seen.
func (a *archive) list(folder string) string {
	a.Helper()
	data, err := a.client.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil || data.NumMessages == 0 {
		return "" // it may be missing
	}
	mails, err := a.client.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{UID: true, Flags: true}).Collect()
	if err != nil {
		a.Fatal(err)
	}
	var uids []string
	for _, m := range mails {
		uid := fmt.Sprint(m.UID)
		if slices.Contains(m.Flags, imap.FlagSeen) {
			uid += "*"
		}
		uids = append(uids, uid)
	}
	return strings.Join(uids, " ")
}

// want waits until folders hold this.
func (a *archive) want(inbox, folder string) {
	a.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		got, moved := a.list(a.folder), a.list("Done")
		if got == inbox && moved == folder {
			return
		}
		if time.Since(start) > 20*time.Second {
			a.Fatalf("inbox %.200q, folder %.200q, want %q, %q", got, moved, inbox, folder)
		}
	}
}

// open opens a carrier at the mailbox that does not wait before it begins.
func (a *archive) open(r Retention) *Carrier { return a.openWith(r, "") }

func (a *archive) openWith(r Retention, state string) *Carrier {
	a.Helper()
	c, err := newCarrier(Config{SMTP: a.server.SMTPURL(), IMAP: a.server.IMAPURL() + "/" + a.folder, Username: a.robot.Address, Password: a.robot.Password,
		PollingPeriod: 10 * time.Millisecond, Retention: r}, Options{Logger: quietLog})
	if err != nil {
		a.Fatal(err)
	}
	c.receiver.retention.pause = 10 * time.Millisecond
	if state != "" {
		if c.durables.journal, err = openState(state); err != nil {
			a.Fatal(err)
		}
	}
	for _, err := range []error{c.sender.open(a.Context()), c.receiver.open(a.Context())} {
		if err != nil {
			a.Fatal(err)
		}
	}
	a.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			a.Error(err)
		}
	})
	return c
}

// TestRetention: finished messages, and only they, are done away with when their time has come.
func TestRetention(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	fill := func(a *archive) {
		a.put(messageMail(t, 1, ""), 3*day)
		a.put("Subject: lunch?\r\nFrom: a@b.test\r\n\r\nAt noon.\r\n", 3*day)
		a.put(strings.Replace(messageMail(t, 2, ""), "Source-Timestamp: ", "Source-Timestamp: x", 1), 3*day)
		a.put(messageMail(t, 3, ""), 2*day)
		a.put(messageMail(t, 4, ""), time.Hour)
		a.put(messageMail(t, 5, ""), 0)
	}
	for _, test := range []struct {
		name          string
		retention     Retention
		inbox, folder string
	}{
		{"keep", Retention{}, "1 2 3 4 5 6", ""},
		{"delete by age", Retention{Action: DeleteMessages, After: day}, "2 3 5 6", ""},
		{"mark by age", Retention{Action: MarkSeen, After: day}, "1* 2 3 4* 5 6", ""},
		{"move by age", Retention{Action: MoveMessages, Folder: "Done", After: day}, "2 3 5 6", "1 2"},
		{"delete by number", Retention{Action: DeleteMessages, Keep: 1}, "2 3 6", ""},
		{"by number and age", Retention{Action: DeleteMessages, Keep: 2, After: time.Minute}, "2 3 6", ""},
		{"nothing too old", Retention{Action: DeleteMessages, After: 30 * day, Keep: 100}, "1 2 3 4 5 6", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newArchive(t)
			fill(a)
			c := a.open(test.retention)
			_, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {})
			if err != nil {
				t.Fatal(err)
			}
			a.want(test.inbox, test.folder)
			time.Sleep(50 * time.Millisecond) // some more rounds
			a.want(test.inbox, test.folder)
		})
	}
}

// TestRetentionElsewhere: where another folder is watched, that one is cleared and the inbox left alone.
func TestRetentionElsewhere(t *testing.T) {
	a := newArchive(t)
	a.put(messageMail(t, 1, ""), time.Hour)
	if err := a.client.Create("Robots", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	a.folder = "Robots"
	a.put(messageMail(t, 1, ""), time.Hour)
	a.put(messageMail(t, 2, ""), 0)
	a.open(Retention{Action: MoveMessages, Folder: "Done", After: time.Minute})
	a.want("2", "1")
	if got := a.list(inbox); got != "1" {
		t.Errorf("the inbox has %q", got)
	}
}

// TestRetentionOfNew: what has come since the start is done away with when it gets old, too, whether
// somebody wanted it or not.
func TestRetentionOfNew(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.open(Retention{Action: DeleteMessages, After: 500 * time.Millisecond})
	got := make(chan uint64, 10)
	_, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", GapWait: -1}, func(d transport.Delivery) { got <- d.Message.Info.Sequence })
	if err != nil {
		t.Fatal(err)
	}
	a.put(messageMail(t, 1, ""), 0)
	a.put("Subject: lunch?\r\n\r\nAt noon.\r\n", 0)
	a.put(strings.Replace(messageMail(t, 2, ""), "Subject: /t", "Subject: /u", 1), 0)
	a.put(messageMail(t, 3, ""), 0)
	if first, second := <-got, <-got; first != 1 || second != 3 {
		t.Errorf("messages %d and %d came", first, second)
	}
	a.want("2", "")
}

// TestRetentionOfMany: a full mailbox is worked off in portions.
func TestRetentionOfMany(t *testing.T) {
	a := newArchive(t)
	for n := 1; n <= 1000; n++ {
		if err := a.server.Deliver(a.robot.Address, []byte(messageMail(t, n, ""))); err != nil {
			t.Fatal(err)
		}
	}
	a.open(Retention{Action: DeleteMessages, Keep: 10})
	a.want("991 992 993 994 995 996 997 998 999 1000", "")
}

// unsure is a consumer that may need mails again.
type unsure struct {
	picky
	open []imap.UID
}

func (u *unsure) keeps() (imap.UID, []imap.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.place, u.open
}

// TestRetentionWaits: what a consumer has not finished stays, and all that it may not
// have been offered.
func TestRetentionWaits(t *testing.T) {
	a := newArchive(t)
	for n := 1; n <= 6; n++ {
		a.put(messageMail(t, n, ""), time.Hour)
	}
	c := a.open(Retention{Action: DeleteMessages, After: time.Minute})
	interest := transport.Interest{Kind: transport.TopicMessage, Name: "/t"}
	u := &unsure{picky: picky{t: t, from: 1, takes: func(n uint64) bool { return n < 5 }}, open: []imap.UID{2}}
	u.feed = c.receiver.newFeed(interest)
	u.feed.start(u)
	a.want("2 5 6", "")
	u.mu.Lock()
	u.open, u.takes = nil, nil
	u.mu.Unlock()
	u.feed.poke()
	a.want("", "")
}

// TestRetentionKeepsForStrangers: a consumer that does not tell what it needs needs everything.
func TestRetentionKeepsForStrangers(t *testing.T) {
	a := newArchive(t)
	a.put(messageMail(t, 1, ""), time.Hour)
	c := a.open(Retention{Action: DeleteMessages, After: time.Minute})
	p := &picky{t: t}
	p.feed = c.receiver.newFeed(transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	p.feed.start(p)
	time.Sleep(100 * time.Millisecond)
	a.want("1", "")
	p.feed.stop()
	a.want("", "")
}

// TestRetentionOfDurable: a durable name keeps what it has not settled, also while nobody uses it.
func TestRetentionOfDurable(t *testing.T) {
	a := newArchive(t)
	state := t.TempDir() + "/state"
	interest := transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}
	open := func() *Carrier { return a.openWith(Retention{Action: DeleteMessages, After: time.Millisecond}, state) }
	c := open()
	deliveries := make(chan transport.Delivery, 10)
	stop, err := c.Receive(interest, func(d transport.Delivery) { deliveries <- d })
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 4; n++ {
		a.put(messageMail(t, n, ""), 0)
	}
	var got []transport.Delivery
	for range 4 {
		got = append(got, <-deliveries)
	}
	for _, n := range []int{1, 3} { // messages 2 and 4
		if err := got[n].Settler.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	a.want("1 3", "")
	stop()
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	a.put(messageMail(t, 5, ""), 0)
	a.put("Subject: lunch?\r\n\r\nAt noon.\r\n", 0)
	c = open()
	time.Sleep(100 * time.Millisecond)
	a.want("1 3 5 6", "")
	if _, err = c.Receive(interest, func(d transport.Delivery) { deliveries <- d }); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d := <-deliveries
		if err := d.Settler.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	a.want("6", "")
}

// TestRetentionOfGroup: a group keeps what no member has settled.
func TestRetentionOfGroup(t *testing.T) {
	a := newArchive(t)
	c := a.open(Retention{Action: DeleteMessages, After: time.Millisecond})
	deliveries := make(chan transport.Delivery, 10)
	_, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}, func(d transport.Delivery) { deliveries <- d })
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	for n := 1; n <= 4; n++ {
		a.put(messageMail(t, n, ""), 0)
	}
	var unsettled []transport.Delivery
	for range 4 {
		if d := <-deliveries; d.Message.Info.Sequence%2 == 1 {
			unsettled = append(unsettled, d)
		} else if err := d.Settler.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	a.want("1 3", "")
	for _, d := range unsettled {
		if err := d.Settler.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	a.want("", "")
}
