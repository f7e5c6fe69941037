package mailserver_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/mailserver"
)

// TestRenumber: the mails stay, under new numbers, and the old connections are gone.
func TestRenumber(t *testing.T) {
	server := start(t, mailserver.Config{MaxMailboxMessages: 4})
	for range 3 {
		check(t, server.Deliver(robot, []byte(hello)))
	}
	c, before := openInbox(t, server, robot)
	check(t, c.Store(imap.UIDSetNum(3), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagSeen}}, nil).Close())
	check(t, c.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	check(t, c.Expunge().Close())

	check(t, server.Renumber(robot))
	<-c.Closed()
	c, after := openInbox(t, server, robot)
	if after.UIDValidity <= before.UIDValidity || after.UIDNext != 3 || after.NumMessages != 2 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	mails, err := c.Fetch(imap.UIDSetNum(1, 2), &imap.FetchOptions{Flags: true, UID: true}).Collect()
	check(t, err)
	if len(mails) != 2 || len(mails[0].Flags) != 0 || !slices.Equal(mails[1].Flags, []imap.Flag{imap.FlagSeen}) {
		t.Errorf("mails %+v", mails)
	}
	// The account still knows how much it holds, and the new inbox takes more.
	for i := range 3 {
		if err := server.Deliver(robot, []byte(hello)); errors.Is(err, mailserver.ErrMailboxFull) != (i == 2) {
			t.Errorf("mail %d: %v", i+1, err)
		}
	}
	if err := server.Renumber("nobody@localhost.test"); !errors.Is(err, mailserver.ErrUnknownAccount) {
		t.Errorf("error %v", err)
	}
}
