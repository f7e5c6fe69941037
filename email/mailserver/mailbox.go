package mailserver

import (
	"bytes"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
)

// message is one mail in one mailbox. All but its flags is immutable, so it is
// read without a lock, however slowly a client takes it.
type message struct {
	uid  imap.UID
	date time.Time // INTERNALDATE

	// head holds what the server put in front of this copy, body the mail as it
	// came, which the copies for several recipients share.
	head, body []byte

	flags atomic.Uint64 // a flagSet, written under account.mu
}

func (m *message) size() int64 { return int64(len(m.head)) + int64(len(m.body)) }

func (m *message) flagSet() flagSet { return flagSet(m.flags.Load()) }

func (m *message) reader() io.Reader {
	return io.MultiReader(bytes.NewReader(m.head), bytes.NewReader(m.body))
}

func (m *message) bytes() []byte { return slices.Concat(m.head, m.body) }

// mailbox is a list of messages in the order of their UIDs, without gaps in
// the list. All its fields are guarded by account.mu.
//
// The array behind msgs is never changed where a message already stands:
// messages are appended, and removing some makes a new array. A view can thus
// keep msgs as it was at some moment at no cost, and finds out what has
// happened since by comparing the two lists. Nothing is queued for a session,
// so a session that never looks costs nothing.
type mailbox struct {
	uidValidity uint32
	uidNext     imap.UID
	msgs        []*message
	removals    uint64 // how often msgs became another array with less in it
	subscribed  bool
	views       map[*view]struct{}
}

func newMailbox(uidValidity uint32) *mailbox {
	return &mailbox{uidValidity: uidValidity, uidNext: 1, views: make(map[*view]struct{})}
}

// wakeViews makes everyone who looks at the mailbox look again.
func (b *mailbox) wakeViews() {
	for v := range b.views {
		select {
		case v.wake <- struct{}{}:
		default: // it has not got round to the previous call yet
		}
	}
}

// remove takes the messages for which gone reports true out of the mailbox and
// returns them.
func (b *mailbox) remove(gone func(*message) bool) []*message {
	var removed []*message
	kept := make([]*message, 0, len(b.msgs))
	for _, m := range b.msgs {
		if gone(m) {
			removed = append(removed, m)
		} else {
			kept = append(kept, m)
		}
	}
	if len(removed) > 0 {
		b.msgs = kept
		b.removals++
		b.wakeViews()
	}
	return removed
}

// byUID returns the part of msgs with UIDs from first to last, and the index
// where it starts.
func byUID(msgs []*message, first, last imap.UID) (int, []*message) {
	from := searchUID(msgs, first)
	to := len(msgs)
	if last < ^imap.UID(0) {
		to = searchUID(msgs, last+1)
	}
	return from, msgs[from:max(from, to)]
}

// searchUID returns the index of the first message with that UID or a higher
// one.
func searchUID(msgs []*message, uid imap.UID) int {
	i, _ := slices.BinarySearchFunc(msgs, uid, func(m *message, uid imap.UID) int {
		switch {
		case m.uid < uid:
			return -1
		case m.uid > uid:
			return 1
		}
		return 0
	})
	return i
}
