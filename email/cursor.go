package email

import (
	"maps"
	"math"

	"github.com/emersion/go-imap/v2"
)

// cursor is the place in the inbox up to which everything has been delivered.
//
// UIDs only grow (RFC 9051 section 2.3.1.1): when the server has sent all it has, UIDs
// below the highest sent that did not come belong to no mail and never will. A mail
// that it has mentioned without sending it proves nothing: it may have arrived during
// the FETCH, with others before it. It holds back the mails behind it.
type cursor struct {
	validity uint32
	next     imap.UID
	// ahead are mails delivered at or after next, when a FETCH broke off and what is
	// between them is unknown. They are not delivered again.
	ahead map[imap.UID]struct{}
	// window is how many UIDs to ask for, 0 for all. It starts at one after a large
	// mail, so that many of them in a row are not all begun again and again, and
	// grows until there is no more.
	window imap.UID
	// last is the last UID to ask for, 0 for all that there are. What is up to it has arrived.
	last imap.UID
}

// lastUID is the highest UID that there can be.
const lastUID imap.UID = math.MaxUint32

// widestWindow is the number of UIDs beyond which a window is opened entirely.
const widestWindow = 1024

// batch is what one FETCH has found.
type batch struct {
	from, to imap.UID // asked for
	found    bool     // there was a mail not delivered yet
	highest  imap.UID // that came with its body
	blocked  imap.UID // the first mail that could not be delivered, or 0
	large    imap.UID // a mail of which the rest must be fetched, or 0
	refused  imap.UID // a mail for which there is no room now, or 0
}

// begin returns the next batch to ask for.
func (c *cursor) begin() batch {
	b := batch{from: c.next, to: lastUID}
	if c.last != 0 {
		b.to = max(c.last, b.from)
	}
	if c.window != 0 && c.window < b.to-b.from {
		b.to = b.from + c.window - 1
	}
	return b
}

// accept notes a mail that the server has mentioned, and reports whether it is to be
// delivered now: not if it has been, nor if an earlier one must come first.
func (c *cursor) accept(b *batch, uid imap.UID, hasBody bool) bool {
	if uid < c.next {
		return false
	}
	if hasBody {
		b.highest = max(b.highest, uid)
	}
	if _, done := c.ahead[uid]; done {
		return false
	}
	b.found = true
	if !hasBody {
		b.block(uid)
	}
	return b.blocked == 0 || uid < b.blocked
}

// block notes a mail that can't be delivered now.
func (b *batch) block(uid imap.UID) {
	if b.blocked == 0 || uid < b.blocked {
		b.blocked = uid
	}
}

// delivered notes a mail that needs no more attention.
func (c *cursor) delivered(uid imap.UID) {
	if c.ahead == nil {
		c.ahead = make(map[imap.UID]struct{})
	}
	c.ahead[uid] = struct{}{}
}

// finish moves the cursor past the batch. complete says that the server has told all
// about it; otherwise only what is certain counts.
func (c *cursor) finish(b *batch, complete bool) {
	switch {
	case complete && b.blocked != 0:
		c.pass(min(b.highest, b.blocked-1))
	case complete && c.last != 0:
		c.pass(b.to) // what did not come is not there
	case complete && b.highest != 0:
		c.pass(b.highest)
	default:
		end := c.next
		for _, done := c.ahead[end]; done && end != lastUID; _, done = c.ahead[end] {
			end++
		}
		if end != c.next {
			c.pass(end - 1)
		}
	}
	if c.window *= 2; !complete || !b.found && c.last == 0 || b.blocked != 0 || c.window > widestWindow {
		c.window = 0
	}
}

// covers reports whether a cursor is not behind another one. Behind the last UID that there can be is no
// place: there it matters whether its mail has been delivered.
func (c *cursor) covers(other *cursor) bool {
	_, done := c.ahead[lastUID]
	return c.next >= other.next && (done || other.end() != lastUID)
}

// end returns the highest UID that the cursor is past.
func (c *cursor) end() imap.UID {
	if _, done := c.ahead[lastUID]; done && c.next == lastUID {
		return lastUID
	}
	return c.next - 1
}

// passKnown moves the cursor past the delivered ones of these UIDs, which are all that
// there are. It returns true if some are missing.
func (c *cursor) passKnown(uids []imap.UID) (missing bool) {
	var highest, lowest imap.UID // delivered; missing
	for _, uid := range uids {
		if _, done := c.ahead[uid]; done {
			highest = max(highest, uid)
		} else if lowest == 0 || uid < lowest {
			lowest = uid
		}
	}
	switch {
	case lowest != 0:
		c.pass(lowest - 1)
	case highest != 0:
		c.pass(highest)
	}
	return lowest != 0
}

// pass moves the cursor behind a UID.
func (c *cursor) pass(uid imap.UID) {
	c.next = max(c.next, after(uid))
	maps.DeleteFunc(c.ahead, func(uid imap.UID, _ struct{}) bool { return uid < c.next })
}

// renumbered reports whether the inbox, opened anew, is another one than before: UIDs do not
// mean the same.
func (c *cursor) renumbered(validity uint32, next imap.UID) bool {
	return validity != c.validity || next < c.next
}

// after returns the next UID. The last one there is has none; hostile servers use it.
func after(uid imap.UID) imap.UID {
	if uid == lastUID {
		return uid
	}
	return uid + 1
}
