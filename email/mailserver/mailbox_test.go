package mailserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email/mailserver"
)

func TestStoreAndExpunge(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	other, _ := openInbox(t, server, robot)
	for i := range 6 {
		c.append("INBOX", hello, imap.Flag(fmt.Sprintf("$k%d", i)))
	}
	check(t, other.Noop().Wait())
	expect(t, "EXISTS", other.exists, is(uint32(6)))

	store := func(set imap.NumSet, op imap.StoreFlagsOp, flags ...imap.Flag) []*imapclient.FetchMessageBuffer {
		msgs, err := c.Store(set, &imap.StoreFlags{Op: op, Flags: flags}, nil).Collect()
		check(t, err)
		return msgs
	}
	msgs := store(imap.UIDSetNum(1), imap.StoreFlagsAdd, imap.FlagFlagged, "$K0", "new")
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagFlagged, "$k0", "new"}) {
		t.Errorf("add: %v", msgs[0].Flags)
	}
	msgs = store(imap.UIDSetNum(1), imap.StoreFlagsDel, "$k0")
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagFlagged, "new"}) {
		t.Errorf("remove: %v", msgs[0].Flags)
	}
	msgs = store(imap.UIDSetNum(1), imap.StoreFlagsSet, imap.FlagSeen)
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagSeen}) {
		t.Errorf("replace: %v", msgs[0].Flags)
	}
	store(imap.UIDSetNum(2, 3, 5), imap.StoreFlagsAdd, imap.FlagDeleted)

	// UID EXPUNGE takes only what is named, EXPUNGE the rest.
	check(t, c.UIDExpunge(imap.UIDSetNum(1, 2)).Close())
	check(t, c.Expunge().Close())
	check(t, other.Noop().Wait())
	for _, seq := range []uint32{2, 2, 3} {
		if got := <-other.expunged; got != seq {
			t.Errorf("EXPUNGE %d, want %d", got, seq)
		}
	}
	left, err := other.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	check(t, err)
	if got := left.AllUIDs(); !slices.Equal(got, []imap.UID{1, 4, 6}) {
		t.Errorf("left: %v", got)
	}

	store(imap.UIDSetNum(4), imap.StoreFlagsAdd, imap.FlagDeleted)
	check(t, c.UnselectAndExpunge().Wait()) // CLOSE
	mails, err := server.Messages(robot)
	check(t, err)
	if len(mails) != 2 {
		t.Errorf("CLOSE left %d mails", len(mails))
	}
}

// TestSequenceNumbersHold: while a client uses sequence numbers only, messages
// that others remove keep theirs (RFC 9051 section 7.5.1).
func TestSequenceNumbersHold(t *testing.T) {
	server := start(t, mailserver.Config{})
	for i := range 3 {
		check(t, server.Deliver(robot, fmt.Appendf(nil, "Subject: %d\r\n\r\n", i)))
	}
	c, _ := openInbox(t, server, robot)
	other, _ := openInbox(t, server, robot)
	check(t, other.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	check(t, other.Expunge().Close())
	check(t, server.Deliver(robot, []byte("Subject: 3\r\n\r\n")))
	for range 2 {
		for seq := uint32(1); seq <= 3; seq++ {
			msgs, err := c.Fetch(imap.SeqSetNum(seq), &imap.FetchOptions{UID: true, Envelope: true}).Collect()
			check(t, err)
			if len(msgs) != 1 || msgs[0].UID != imap.UID(seq) || msgs[0].Envelope.Subject != fmt.Sprint(seq-1) {
				t.Fatalf("%d: %+v", seq, msgs)
			}
		}
	}
	if len(c.exists)+len(c.expunged) != 0 {
		t.Error("the numbers changed during FETCH")
	}
	check(t, c.Noop().Wait())
	expect(t, "EXPUNGE", c.expunged, is(uint32(1)))
	expect(t, "EXISTS", c.exists, is(uint32(3)))
}

func TestCopyAndMove(t *testing.T) {
	server := start(t, mailserver.Config{MaxMailboxMessages: 5})
	for i := range 3 {
		check(t, server.Deliver(robot, fmt.Appendf(nil, "Subject: %d\r\n\r\n", i)))
	}
	c, _ := openInbox(t, server, robot)
	other, _ := openInbox(t, server, robot)
	if _, err := c.Copy(imap.SeqSetNum(1), "Archive").Wait(); responseCode(err) != "NO TRYCREATE" {
		t.Error(err)
	}
	check(t, c.Create("Archive", nil).Wait())
	copied, err := c.Copy(imap.UIDSetNum(1, 2), "Archive").Wait()
	check(t, err)
	if copied.SourceUIDs.String() != "1:2" || copied.DestUIDs.String() != "1:2" || copied.UIDValidity == 0 {
		t.Errorf("%+v", copied)
	}
	if _, err := c.Copy(imap.UIDSetNum(1), "Archive").Wait(); responseCode(err) != "NO OVERQUOTA" {
		t.Error(err)
	}
	// Moving needs no room.
	moved, err := c.Move(imap.UIDSetNum(2, 3), "Archive").Wait()
	check(t, err)
	if moved.SourceUIDs.(imap.UIDSet).String() != "2:3" || moved.DestUIDs.(imap.UIDSet).String() != "3:4" {
		t.Errorf("%+v", moved)
	}
	// The other client moves what is gone already, and is then told.
	if _, err := other.Move(imap.UIDSetNum(2), "Archive").Wait(); err != nil {
		t.Error(err)
	}
	expect(t, "EXPUNGE", other.expunged, is(uint32(2)))
	_, err = c.Select("Archive", nil).Wait()
	check(t, err)
	if got := c.fetchBodies(1); len(got) != 4 || got[3] != "Subject: 2\r\n\r\n" {
		t.Errorf("%q", got)
	}
}

func TestAppend(t *testing.T) {
	server := start(t, mailserver.Config{MaxMessageBytes: 10_000, MaxMailboxMessages: 3})
	c, data := openInbox(t, server, robot)
	cmd := c.Append("INBOX", int64(len(hello)), &imap.AppendOptions{Time: time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC), Flags: []imap.Flag{imap.FlagSeen}})
	_, err := cmd.Write([]byte(hello))
	check(t, err)
	check(t, cmd.Close())
	appended, err := cmd.Wait()
	check(t, err)
	if appended.UID != 1 || appended.UIDValidity != data.UIDValidity {
		t.Errorf("%+v", appended)
	}
	msgs, err := c.Fetch(imap.UIDSetNum(1), &imap.FetchOptions{InternalDate: true, Flags: true}).Collect()
	check(t, err)
	if msgs[0].InternalDate.UTC().Year() != 2001 || !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagSeen}) {
		t.Errorf("%+v", msgs[0])
	}
	// The client library closes a connection on which a literal was refused.
	try := func(mailbox string, size int) string {
		c := dialIMAP(t, server, robot)
		cmd := c.Append(mailbox, int64(size), nil)
		cmd.Write([]byte(strings.Repeat("x", size)))
		cmd.Close()
		_, err := cmd.Wait()
		return responseCode(err)
	}
	if got := try("Nowhere", 100); got != "NO TRYCREATE" {
		t.Error(got)
	}
	if got := try("INBOX", 10_001); got != "NO TOOBIG" {
		t.Error(got)
	}
	c.append("INBOX", hello)
	c.append("INBOX", hello)
	if got := try("INBOX", 100); got != "NO OVERQUOTA" {
		t.Error(got)
	}
	if mails, _ := server.Messages(robot); len(mails) != 3 || string(mails[0]) != hello {
		t.Errorf("%q", mails)
	}
}

func TestKeywordsAreBounded(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	c.append("INBOX", hello)
	for i := 0; ; i++ {
		err := c.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.Flag(fmt.Sprint("k", i))}}, nil).Close()
		if err != nil {
			if got := responseCode(err); got != "NO LIMIT" || i < 50 {
				t.Errorf("%d: %s", i, got)
			}
			break
		}
	}
	msgs, err := c.Fetch(imap.UIDSetNum(1), &imap.FetchOptions{Flags: true}).Collect()
	check(t, err)
	if n := len(msgs[0].Flags); n != 59 {
		t.Errorf("%d keywords", n)
	}
}
