package mailserver

import (
	"bytes"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	gomessage "github.com/emersion/go-message"
)

// Search implements imapserver.Session.
func (s *session) Search(kind imapserver.NumKind, criteria *imap.SearchCriteria, options *imap.SearchOptions) (*imap.SearchData, error) {
	if kind == imapserver.NumKindUID {
		if err := s.catchUp(imap.UIDSet(nil)); err != nil {
			return nil, err
		}
	}
	msgs := s.view.messages()
	fixCriteria(criteria, msgs, s.saved)
	match := matcher{flags: s.view.flagNames()}

	var (
		seqs imap.SeqSet
		uids imap.UIDSet
		data imap.SearchData
	)
	for i, m := range msgs {
		if err := s.stopped.Err(); err != nil {
			return nil, err
		}
		seq := uint32(i) + 1
		if !match.message(numbered{seq, m}, criteria) {
			continue
		}
		num := seq
		if kind == imapserver.NumKindUID {
			num = uint32(m.uid)
		}
		if data.Count == 0 {
			data.Min = num // the numbers ascend
		}
		data.Max = num
		data.Count++
		seqs.AddNum(seq)
		uids.AddNum(m.uid)
	}
	data.All = seqs
	if kind == imapserver.NumKindUID {
		data.All = uids
	}
	if options.ReturnSave {
		s.saved = uids
	}
	return &data, nil
}

// flagNames returns the names of the bits in flag sets.
func (v *view) flagNames() flagTable {
	v.account.mu.Lock()
	defer v.account.mu.Unlock()
	return v.account.flags
}

// fixCriteria replaces "*" and "$" in the criteria.
func fixCriteria(c *imap.SearchCriteria, msgs []*message, saved imap.UIDSet) {
	seqNums := c.SeqNum
	c.SeqNum = nil
	for _, set := range seqNums {
		switch set := fixed(set, msgs, saved).(type) {
		case imap.SeqSet:
			c.SeqNum = append(c.SeqNum, set)
		case imap.UIDSet:
			c.UID = append(c.UID, set)
		}
	}
	for i, set := range c.UID {
		c.UID[i] = fixed(set, msgs, saved).(imap.UIDSet)
	}
	for i := range c.Not {
		fixCriteria(&c.Not[i], msgs, saved)
	}
	for i := range c.Or {
		fixCriteria(&c.Or[i][0], msgs, saved)
		fixCriteria(&c.Or[i][1], msgs, saved)
	}
}

// matcher evaluates search criteria (RFC 9051 section 6.4.4), the cheap ones
// first.
type matcher struct{ flags flagTable }

func (s matcher) message(m numbered, c *imap.SearchCriteria) bool {
	for _, set := range c.SeqNum {
		if !set.Contains(m.seq) {
			return false
		}
	}
	for _, set := range c.UID {
		if !set.Contains(m.uid) {
			return false
		}
	}
	if !s.hasFlags(m.message, c) || !within(m.date, c.Since, c.Before) {
		return false
	}
	if c.Larger != 0 && m.size() <= c.Larger || c.Smaller != 0 && m.size() >= c.Smaller {
		return false
	}
	if !matchHeader(m.message, c) || !matchTexts(m.message, c) {
		return false
	}
	for i := range c.Not {
		if s.message(m, &c.Not[i]) {
			return false
		}
	}
	for i := range c.Or {
		if !s.message(m, &c.Or[i][0]) && !s.message(m, &c.Or[i][1]) {
			return false
		}
	}
	return true
}

func (s matcher) hasFlags(m *message, c *imap.SearchCriteria) bool {
	set := m.flagSet()
	for _, flag := range c.Flag {
		if set&s.flags.bit(flag) == 0 {
			return false
		}
	}
	for _, flag := range c.NotFlag {
		if set&s.flags.bit(flag) != 0 {
			return false
		}
	}
	return true
}

// within compares dates as RFC 9051 wants it: without time of day and zone.
func within(t, since, before time.Time) bool {
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	return (since.IsZero() || !day.Before(since)) && (before.IsZero() || day.Before(before))
}

func matchHeader(m *message, c *imap.SearchCriteria) bool {
	sent := !c.SentSince.IsZero() || !c.SentBefore.IsZero()
	if len(c.Header) == 0 && !sent {
		return true
	}
	header, _ := m.split()
	for _, want := range c.Header {
		if !hasField(header, want.Key, strings.ToLower(want.Value)) {
			return false
		}
	}
	if sent {
		env := m.envelope()
		if env.Date.IsZero() || !within(env.Date, c.SentSince, c.SentBefore) {
			return false
		}
	}
	return true
}

// hasField reports whether a field of that name contains the text, or any
// field does if the name is empty.
func hasField(header []byte, name, lowerText string) bool {
	for field, raw := range fields(header) {
		if name != "" && !strings.EqualFold(string(field), name) {
			continue
		}
		if strings.Contains(strings.ToLower(fieldText(raw)), lowerText) {
			return true
		}
	}
	return false
}

func matchTexts(m *message, c *imap.SearchCriteria) bool {
	if len(c.Body) == 0 && len(c.Text) == 0 {
		return true
	}
	header, body := m.split()
	contains := func(text []byte) bool {
		return bytes.Contains(bytes.ToLower(body), text) || decodedContains(m, text)
	}
	for _, text := range c.Body {
		if !contains(bytes.ToLower([]byte(text))) {
			return false
		}
	}
	for _, text := range c.Text {
		lower := strings.ToLower(text)
		if !hasField(header, "", lower) && !contains([]byte(lower)) {
			return false
		}
	}
	return true
}

// decodedContains looks into the text parts of the message with their transfer
// encodings undone.
func decodedContains(m *message, lowerText []byte) bool {
	entity, _ := gomessage.Read(m.reader())
	return entity != nil && entityContains(entity, lowerText, 0)
}

func entityContains(entity *gomessage.Entity, lowerText []byte, depth int) bool {
	if parts := entity.MultipartReader(); parts != nil {
		for depth < maxPartDepth {
			part, _ := parts.NextPart()
			if part == nil {
				break
			}
			if entityContains(part, lowerText, depth+1) {
				return true
			}
		}
		return false
	}
	if mediaType, _, _ := entity.Header.ContentType(); !strings.HasPrefix(mediaType, "text/") {
		return false
	}
	text, _ := io.ReadAll(entity.Body)
	return bytes.Contains(bytes.ToLower(text), lowerText)
}
