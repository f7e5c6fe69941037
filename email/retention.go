package email

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
	"go.yaml.in/yaml/v3"

	"github.com/postbus/postbus/email/wire"
)

// RetentionAction says what is done with finished messages.
type RetentionAction string

const (
	// RetainMessages leaves them as they are.
	RetainMessages RetentionAction = ""
	// MarkSeen gives them the flag \Seen.
	MarkSeen RetentionAction = "seen"
	// MoveMessages moves them to another folder.
	MoveMessages RetentionAction = "move"
	// DeleteMessages deletes them.
	DeleteMessages RetentionAction = "delete"
)

// Retention says what becomes of finished messages in the inbox. A message is finished when
// every durable interest and group of this node that wanted it has settled it, or none did.
// What has been written by people, or by anything but postbus and rmw_email, is never touched.
//
// It is for an account all of whose nodes agree: one that comes later finds no more
// than what is left.
type Retention struct {
	Action RetentionAction
	// Folder is where MoveMessages moves them. It is created if it is missing.
	Folder string
	// After is the age, by the time of arrival in the inbox, from which on something is
	// done; Keep is how many of the newest mails in the inbox are left alone. At least one has to be set; if
	// both are, a message that is older or one too many is enough.
	After time.Duration
	Keep  int
}

const (
	// retentionPause is how long after the start the first message is done away with, so that a
	// program has had time to join its groups; and the time between two rounds.
	retentionPause = time.Minute
	// retentionSize is how many UIDs are looked at at a time.
	retentionSize = 200
)

// settings returns the format of the section retention.
func (c *Retention) settings() value {
	settings := section(
		setting{key: "finished", required: true, value: c.action},
		setting{key: "after", value: text(func(s string) (err error) {
			if c.After, err = time.ParseDuration(s); err != nil || c.After <= 0 {
				return fmt.Errorf("%q is not a time greater than 0, such as 90m or 48h", s)
			}
			return nil
		})},
		setting{key: "keep", value: limit(&c.Keep)},
	)
	return func(p *parser, key string, n *yaml.Node) {
		before := len(p.errs)
		settings(p, key, n)
		if err := c.check(); err != nil && len(p.errs) == before {
			p.fail(n, key, err)
		}
	}
}

// action reads "keep", "seen", "delete", or "move: FOLDER".
func (c *Retention) action(p *parser, key string, n *yaml.Node) {
	if resolve(n).Kind == yaml.MappingNode {
		c.Action = MoveMessages
		section(setting{key: "move", required: true, value: text(func(s string) error {
			c.Folder = s
			return validFolder(s)
		})})(p, key, n)
		return
	}
	text(func(s string) error {
		switch c.Action = RetentionAction(s); s {
		case "keep":
			c.Action = RetainMessages
		case "seen", "delete":
		default:
			return fmt.Errorf("%q is not known; the values are keep, seen, delete and a section with the key move", s)
		}
		return nil
	})(p, key, n)
}

// check checks what goes together.
func (c *Retention) check() error {
	switch c.Action {
	case RetainMessages:
		return nil
	case MarkSeen, DeleteMessages:
	case MoveMessages:
		if err := validFolder(c.Folder); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown action %q", c.Action)
	}
	if c.After < 0 || c.Keep < 0 || c.After == 0 && c.Keep == 0 {
		return errors.New("after or keep is required, greater than 0")
	}
	return nil
}

// keeper is a consumer that tells what it still needs. While there is one that does not,
// everything is kept.
type keeper interface {
	// keeps says that the mails with UIDs from the first on, and these, are not finished.
	keeps() (from imap.UID, open []imap.UID)
}

// retention goes through the inbox in rounds. The first begins with the first mail, and each goes as far as the
// first message whose time has not come; there the next one begins. All of it belongs to the
// receiver's loop.
type retention struct {
	Retention
	chore
	pause    time.Duration // retentionPause, but for tests
	due      time.Time     // of the next round
	validity uint32        // of the inbox that next is about
	next     imap.UID      // the first mail not looked at
	began    bool          // a round is under way
	newest   imap.UID      // from here on mails are left alone because they are not too many
	left     imap.UID      // the first message of this round that is left for the next, or 0
}

// retain looks at some of the mails in the inbox and does away with what is finished. more says that
// there is more to do now.
func (r *receiver) retain(ctx context.Context) (more bool, err error) {
	t := &r.retention
	now := time.Now()
	if t.Action == RetainMessages || now.Before(t.due) || now.Sub(r.start) < t.pause || r.live.dates {
		return false, nil
	}
	if !t.began || t.validity != r.session.validity {
		if err := r.beginRetention(ctx); err != nil {
			return false, err
		}
	}
	if more = true; len(t.waiting) == 0 { // else the connection was lost
		if more, err = r.findFinished(ctx, now); err != nil {
			return false, err
		}
	}
	for len(t.waiting) > 0 {
		if err := r.sweep(ctx, &t.chore); err != nil {
			return false, err
		}
	}
	if !more {
		if t.left != 0 {
			t.next = t.left
		}
		t.began, t.due = false, now.Add(t.pause)
	}
	return more, nil
}

// beginRetention begins a round.
func (r *receiver) beginRetention(ctx context.Context) (err error) {
	t := &r.retention
	if t.validity != r.session.validity || t.next > r.live.cursor.next {
		t.validity, t.next = r.session.validity, 1
	}
	t.drop(len(t.waiting))
	t.began, t.left, t.newest = true, 0, 1
	if t.Keep > 0 {
		t.newest, err = r.session.newest(ctx, t.Keep)
	}
	return err
}

// findFinished looks at the next mails. It returns false when the round is over.
func (r *receiver) findFinished(ctx context.Context, now time.Time) (more bool, err error) {
	t := &r.retention
	end, open := r.needed()
	if t.next >= end {
		return false, nil
	}
	last := min(end-1, t.next+retentionSize-1)
	request := span(t.next, last, headBytes)
	request.header, request.dates, request.flags = true, true, true
	var finished, young, unfinished []imap.UID
	found := false
	err = r.session.fetch(ctx, request, func(f fetched) {
		if f.uid < t.next || f.uid > last || !f.hasBody {
			return
		}
		found = true
		if _, err := wire.DecodeHeader(f.body); err != nil && err != wire.ErrBatch || t.done(f.flags) {
			return
		}
		switch old := t.After > 0 && !f.arrived.IsZero() && now.Sub(f.arrived) >= t.After; {
		case !old && f.uid >= t.newest:
			young = append(young, f.uid)
		case slices.Contains(open, f.uid):
			unfinished = append(unfinished, f.uid)
		default:
			finished = append(finished, f.uid)
		}
	})
	if err != nil && !isNo(err) {
		return false, err
	}
	t.waiting = finished
	for _, uid := range slices.Concat(young, unfinished) {
		if t.left == 0 || uid < t.left {
			t.left = uid
		}
	}
	t.next = last + 1
	if !found && t.next < end {
		// UIDs can be sparse: those of mails that are not there any more may be most of them.
		if t.next, err = r.session.firstFrom(ctx, t.next, end); err != nil {
			return false, err
		}
	}
	return len(young) == 0 && t.next < end, nil
}

// done reports whether a mail with these flags needs no more.
func (t *retention) done(flags []imap.Flag) bool {
	return slices.Contains(flags, imap.FlagDeleted) || t.Action == MarkSeen && slices.Contains(flags, imap.FlagSeen)
}

// needed returns what somebody may still want: the mails with UIDs from the first on, and these.
func (r *receiver) needed() (from imap.UID, open []imap.UID) {
	if r.feeds.waiting() {
		return 0, nil
	}
	from = r.live.cursor.next
	if r.remembered != nil {
		first, more := r.remembered(r.session.validity)
		from, open = min(from, first), more
	}
	for _, f := range r.feeds.adopted {
		k, ok := f.consumer.(keeper)
		if !ok || !f.begun || f.recall != nil {
			return 0, nil
		}
		first, more := k.keeps()
		from, open = min(from, first), append(open, more...)
		if f.behind {
			from = min(from, f.reader.cursor.next)
		}
	}
	return from, open
}

// dispose does with mails what is to be done with finished messages.
func (t *retention) dispose(ctx context.Context, s *session, uids imap.UIDSet) error {
	switch t.Action {
	case MarkSeen:
		return s.command(ctx, func() error { return s.store(uids, imap.FlagSeen) })
	case MoveMessages:
		return s.move(ctx, uids, t.Folder)
	}
	return s.command(ctx, func() error { return s.remove(uids) })
}

// newest returns the UID of the oldest of the n newest mails, or the first UID if there are no more.
func (s *session) newest(ctx context.Context, n int) (uid imap.UID, err error) {
	uid = 1
	err = s.command(ctx, func() error {
		box := s.client.Mailbox()
		if box == nil || int64(box.NumMessages) <= int64(n) {
			return nil
		}
		found, err := s.client.Fetch(imap.SeqSetNum(box.NumMessages-uint32(n)+1), &imap.FetchOptions{UID: true}).Collect()
		if err == nil && len(found) > 0 {
			uid = found[0].UID
		}
		return err
	})
	if isNo(err) {
		err = nil // it has just been deleted; there is another round
	}
	return uid, err
}

// firstFrom returns the lowest UID of a mail from one on, or end if it is not below that.
func (s *session) firstFrom(ctx context.Context, from, end imap.UID) (first imap.UID, err error) {
	first = end
	options := &imap.SearchOptions{}
	if s.client.Caps().Has(imap.CapESearch) {
		options.ReturnMin = true
	}
	err = s.command(ctx, func() error {
		data, err := s.client.UIDSearch(&imap.SearchCriteria{UID: []imap.UIDSet{{{Start: from, Stop: end - 1}}}}, options).Wait()
		if err != nil {
			return err
		}
		if data.Min != 0 {
			first = min(first, imap.UID(data.Min))
		}
		for _, uid := range data.AllUIDs() {
			first = min(first, uid)
		}
		return nil
	})
	if err != nil && isRefusal(err) {
		return from, nil // then it is searched for in portions
	}
	return max(first, from), err
}
