package mailserver

import (
	"crypto/subtle"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
)

// account is a user with all that is stored for it. One lock guards all its
// mailboxes: it is only ever held for moments, never while a client is read
// from or written to.
type account struct {
	address  string
	password string
	rank     int // the order in which several accounts are locked

	maxMessages int
	maxBytes    int64

	mu        sync.Mutex
	mailboxes map[string]*mailbox
	flags     flagTable
	messages  int   // in all mailboxes
	bytes     int64 // in all mailboxes
}

// Reasons why a mail cannot be stored.
var (
	// ErrMailboxFull says that an account holds as many messages or bytes as the
	// configuration allows. Nothing was stored.
	ErrMailboxFull = errors.New("mailserver: mailbox full")
	// ErrTooLarge says that a mail is larger than the configuration allows.
	ErrTooLarge = errors.New("mailserver: mail too large")
)

func newAccount(c Account, rank int, cfg *Config) *account {
	a := &account{
		address:     c.Address,
		password:    c.Password,
		rank:        rank,
		maxMessages: cfg.MaxMailboxMessages,
		maxBytes:    cfg.MaxMailboxBytes,
		mailboxes:   make(map[string]*mailbox),
		flags:       newFlagTable(),
	}
	a.mailboxes[inboxName] = newMailbox(nextUIDValidity())
	return a
}

func (a *account) passwordIs(password string) bool {
	return subtle.ConstantTimeCompare([]byte(a.password), []byte(password)) == 1
}

// room reports whether the account can take that many more messages and bytes.
// The caller holds mu.
func (a *account) room(messages int, bytes int64) error {
	switch {
	case bytes > a.maxBytes || messages > a.maxMessages:
		return ErrTooLarge
	case a.messages > a.maxMessages-messages || a.bytes > a.maxBytes-bytes:
		return ErrMailboxFull
	}
	return nil
}

// add stores a message for which there is room. The caller holds mu.
func (a *account) add(box *mailbox, head, body []byte, date time.Time, flags flagSet) *message {
	m := &message{uid: box.uidNext, date: date, head: head, body: body}
	m.flags.Store(uint64(flags))
	box.uidNext++
	box.msgs = append(box.msgs, m)
	a.messages++
	a.bytes += m.size()
	box.wakeViews()
	return m
}

// remove takes messages out of a mailbox. The caller holds mu.
func (a *account) remove(box *mailbox, gone func(*message) bool) {
	for _, m := range box.remove(gone) {
		a.messages--
		a.bytes -= m.size()
	}
}

// setFlags changes the flags of a message and tells every view of its mailbox
// but the one that asked for it. The caller holds mu.
func (a *account) setFlags(box *mailbox, m *message, flags flagSet, source *view) {
	if m.flagSet() == flags {
		return
	}
	m.flags.Store(uint64(flags))
	for v := range box.views {
		if v != source {
			v.changed[m] = struct{}{}
		}
	}
	box.wakeViews()
}

// deliver stores a mail in the INBOX of every account, or of none. The
// accounts are in the order of their ranks, each once; head returns what goes
// in front of an account's copy.
func deliver(accounts []*account, head func(*account) []byte, body []byte, date time.Time) error {
	heads := make([][]byte, len(accounts))
	for i, a := range accounts {
		heads[i] = head(a)
	}
	for _, a := range accounts {
		a.mu.Lock()
		defer a.mu.Unlock()
	}
	for i, a := range accounts {
		if err := a.room(1, int64(len(heads[i])+len(body))); err != nil {
			return err
		}
	}
	for i, a := range accounts {
		a.add(a.mailboxes[inboxName], heads[i], body, date, 0)
	}
	return nil
}

// inbox returns the messages in the INBOX as they are now.
func (a *account) inbox() []*message {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mailboxes[inboxName].msgs
}

var lastUIDValidity atomic.Uint32

// nextUIDValidity returns a value that no mailbox has had before, in this
// process and most likely in an earlier one on the same port: the date in
// seconds (RFC 9051 section 2.3.1.1), moved on when a second has several
// mailboxes. A client that kept its cursor must not mistake a new server for
// the old one.
func nextUIDValidity() uint32 {
	for {
		last := lastUIDValidity.Load()
		next := max(uint32(time.Now().Unix()), last+1)
		if lastUIDValidity.CompareAndSwap(last, next) {
			return next
		}
	}
}

// quotaError is what an IMAP client is told when there is no room.
func quotaError(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return refusal(imap.ResponseCodeOverQuota, "More than the account may hold")
	}
	return refusal(imap.ResponseCodeOverQuota, "The account is full")
}
