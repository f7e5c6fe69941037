package mailserver

import (
	"fmt"

	"github.com/emersion/go-imap/v2"
)

// Renumber gives the mails in the INBOX of an account new UIDs, from 1 on, and the INBOX a
// new UIDVALIDITY, as a server does that has lost its index or was restored from a backup
// (RFC 9051 section 2.3.1.1). IMAP connections break: no client can go on with the old
// numbers. The error is [ErrUnknownAccount].
func (s *Server) Renumber(address string) error {
	a := s.account(address)
	if a == nil {
		return fmt.Errorf("%w: %s", ErrUnknownAccount, address)
	}
	a.renumber()
	s.Disconnect(IMAP)
	return nil
}

func (a *account) renumber() {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.mailboxes[inboxName]
	box := newMailbox(nextUIDValidity())
	box.subscribed = old.subscribed
	box.msgs = make([]*message, len(old.msgs))
	for i, m := range old.msgs {
		// Views share the old message, whose UID does not change.
		moved := &message{uid: imap.UID(i + 1), date: m.date, head: m.head, body: m.body}
		moved.flags.Store(m.flags.Load())
		box.msgs[i] = moved
	}
	box.uidNext = imap.UID(len(box.msgs) + 1)
	a.mailboxes[inboxName] = box
	// Who still looks at the old one sees it emptied; the account holds as much as before.
	old.remove(func(*message) bool { return true })
}
