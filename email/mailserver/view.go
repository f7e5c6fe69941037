package mailserver

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"
)

// view is a mailbox as one client knows it: the messages it has been told of,
// in the order that gives them their sequence numbers. It changes only when
// the client is told (RFC 9051 section 7.5.1).
type view struct {
	account  *account
	box      *mailbox
	readOnly bool

	// wake holds a token when the mailbox has changed since it was last taken.
	// Changes are made before the token is put, so who takes it and then looks
	// misses none.
	wake chan struct{}

	// changed holds the messages whose flags others have changed. It is guarded
	// by account.mu and never larger than the mailbox.
	changed map[*message]struct{}

	mu       sync.Mutex // for update, which IDLE calls from a goroutine of its own
	msgs     []*message
	removals uint64
}

// newView attaches a view to the mailbox. The caller holds account.mu.
func newView(a *account, box *mailbox, readOnly bool) *view {
	v := &view{
		account:  a,
		box:      box,
		readOnly: readOnly,
		wake:     make(chan struct{}, 1),
		changed:  make(map[*message]struct{}),
		msgs:     box.msgs,
		removals: box.removals,
	}
	box.views[v] = struct{}{}
	return v
}

// close detaches the view from the mailbox.
func (v *view) close() {
	v.account.mu.Lock()
	defer v.account.mu.Unlock()
	delete(v.box.views, v)
}

// updateWriter is the part of imapserver.UpdateWriter that a view needs.
type updateWriter interface {
	WriteExpunge(seqNum uint32) error
	WriteNumMessages(n uint32) error
	WriteMessageFlags(seqNum uint32, uid imap.UID, flags []imap.Flag) error
}

// update tells the client what has changed since the last time. Without
// allowExpunge it keeps removals back, and with them new messages, because
// those would have to be counted without the removed ones. Without withFlags
// it keeps changes of flags back. Of a message that it announces it says no
// more than that: a client asks for what it wants to know.
func (v *view) update(w updateWriter, allowExpunge, withFlags bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()

	v.account.mu.Lock()
	now, removals := v.box.msgs, v.box.removals
	names := v.account.flags
	var changed []*message
	if withFlags && len(v.changed) > 0 {
		changed = slices.Collect(maps.Keys(v.changed))
		clear(v.changed)
	}
	v.account.mu.Unlock()

	kept := len(v.msgs)
	if removals != v.removals {
		if !allowExpunge {
			return writeFlags(w, v.msgs, changed, names)
		}
		var err error
		if kept, err = writeRemovals(w, v.msgs, now); err != nil {
			return err
		}
	}
	v.msgs, v.removals = now, removals
	if len(now) > kept {
		if err := w.WriteNumMessages(uint32(len(now))); err != nil {
			return err
		}
	}
	return writeFlags(w, now[:kept], changed, names)
}

// writeRemovals writes an EXPUNGE for every message of old that is not in now,
// and returns how many of old are left. Both are in the same order, and new
// messages only ever follow the old ones.
func writeRemovals(w updateWriter, old, now []*message) (kept int, err error) {
	for _, m := range old {
		if kept < len(now) && now[kept] == m {
			kept++
			continue
		}
		if err := w.WriteExpunge(uint32(kept) + 1); err != nil {
			return kept, err
		}
	}
	return kept, nil
}

func writeFlags(w updateWriter, msgs, changed []*message, names flagTable) error {
	slices.SortFunc(changed, func(a, b *message) int { return cmp.Compare(a.uid, b.uid) })
	for _, m := range changed {
		i := searchUID(msgs, m.uid)
		if i == len(msgs) || msgs[i] != m {
			continue // gone, or not announced yet
		}
		if err := w.WriteMessageFlags(uint32(i)+1, m.uid, names.list(m.flagSet())); err != nil {
			return err
		}
	}
	return nil
}

// numbered is a message with its sequence number.
type numbered struct {
	seq uint32
	*message
}

// messages returns the messages the client knows.
func (v *view) messages() []*message {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.msgs
}

// pick returns the messages in the set. saved is the result that "$" stands
// for (RFC 5182).
func (v *view) pick(set imap.NumSet, saved imap.UIDSet) []numbered {
	msgs := v.messages()
	var picked []numbered
	add := func(from int, part []*message) {
		for i, m := range part {
			picked = append(picked, numbered{uint32(from+i) + 1, m})
		}
	}
	switch set := fixed(set, msgs, saved).(type) {
	case imap.SeqSet:
		for _, r := range set {
			if last := min(r.Stop, uint32(len(msgs))); r.Start <= last {
				add(int(r.Start)-1, msgs[r.Start-1:last])
			}
		}
	case imap.UIDSet:
		for _, r := range set {
			add(byUID(msgs, r.Start, r.Stop))
		}
	}
	return picked
}

// fixed replaces "*" and "$" in a set by what they stand for, and returns the
// set with its ranges in order and apart from each other. "n:*" always has the
// last message in it, even when n is beyond it (RFC 9051 section 6.4.8).
func fixed(set imap.NumSet, msgs []*message, saved imap.UIDSet) imap.NumSet {
	if imap.IsSearchRes(set) {
		return saved
	}
	switch set := set.(type) {
	case imap.SeqSet:
		last := uint32(len(msgs))
		var out imap.SeqSet
		for _, r := range set {
			if first, last := ends(r.Start, r.Stop, last); first != 0 {
				out.AddRange(first, last)
			}
		}
		return out
	case imap.UIDSet:
		var last uint32
		if len(msgs) > 0 {
			last = uint32(msgs[len(msgs)-1].uid)
		}
		var out imap.UIDSet
		for _, r := range set {
			if first, last := ends(uint32(r.Start), uint32(r.Stop), last); first != 0 {
				out.AddRange(imap.UID(first), imap.UID(last))
			}
		}
		return out
	}
	return set
}

// ends returns the ends of a range in which 0 stands for star, in order. In an
// empty mailbox star is nothing, and so is the range: it returns zeros.
func ends(start, stop, star uint32) (uint32, uint32) {
	if start == 0 || stop == 0 {
		if star == 0 {
			return 0, 0
		}
		if start == 0 {
			start = star
		}
		if stop == 0 {
			stop = star
		}
	}
	return min(start, stop), max(start, stop)
}
