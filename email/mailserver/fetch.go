package mailserver

import (
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
)

// Fetch implements imapserver.Session. It holds no lock while it writes, so a
// slow reader delays nobody else.
func (s *session) Fetch(w *imapserver.FetchWriter, set imap.NumSet, options *imap.FetchOptions) error {
	s.server.stats.imapFetches.Add(1)
	if err := s.catchUp(set); err != nil {
		return err
	}
	msgs := s.view.pick(set, s.saved)
	read := !s.view.readOnly && marksSeen(options)
	names := s.view.flagNames()
	for _, m := range msgs {
		flags := options.Flags
		if read && m.flagSet()&flagSeen == 0 {
			s.changeFlags([]numbered{m}, func(set flagSet) flagSet { return set | flagSeen })
			flags = true // RFC 9051 section 6.4.5: say so when FETCH changes flags
		}
		resp := w.CreateMessage(m.seq)
		resp.WriteUID(m.uid)
		if flags {
			resp.WriteFlags(names.list(m.flagSet() & names.known()))
		}
		if err := writeItems(resp, m.message, options); err != nil {
			return err
		}
	}
	return nil
}

// known returns the set of all flags in the table. A message may have got a
// newer one since the table was copied.
func (t flagTable) known() flagSet {
	if len(t) >= maxFlags {
		return ^flagSet(0)
	}
	return 1<<len(t) - 1
}

// marksSeen reports whether a FETCH sets \Seen.
func marksSeen(options *imap.FetchOptions) bool {
	return slices.ContainsFunc(options.BodySection, func(item *imap.FetchItemBodySection) bool { return !item.Peek }) ||
		slices.ContainsFunc(options.BinarySection, func(item *imap.FetchItemBinarySection) bool { return !item.Peek })
}

// writeItems writes what was asked for, besides UID and flags, and ends the
// response.
func writeItems(resp *imapserver.FetchResponseWriter, m *message, options *imap.FetchOptions) error {
	if options.InternalDate {
		resp.WriteInternalDate(m.date)
	}
	if options.RFC822Size {
		resp.WriteRFC822Size(m.size())
	}
	if options.Envelope {
		resp.WriteEnvelope(m.envelope())
	}
	if options.BodyStructure != nil {
		resp.WriteBodyStructure(m.structure())
	}
	var failed error
	literal := func(w io.WriteCloser, pieces [][]byte) {
		for _, piece := range pieces {
			if _, err := w.Write(piece); err != nil && failed == nil {
				failed = err
			}
		}
		if err := w.Close(); err != nil && failed == nil {
			failed = err
		}
	}
	for _, item := range options.BodySection {
		pieces := m.section(item)
		literal(resp.WriteBodySection(item, total(pieces)), pieces)
	}
	for _, item := range options.BinarySection {
		pieces := m.binary(item.Part, item.Partial)
		literal(resp.WriteBinarySection(item, total(pieces)), pieces)
	}
	for _, item := range options.BinarySectionSize {
		resp.WriteBinarySectionSize(item, uint32(total(m.binary(item.Part, nil))))
	}
	// Close must be called in any case: it releases the connection's encoder.
	if err := resp.Close(); failed == nil {
		failed = err
	}
	return failed
}

// Store implements imapserver.Session.
func (s *session) Store(w *imapserver.FetchWriter, set imap.NumSet, store *imap.StoreFlags, options *imap.StoreOptions) error {
	v := s.view
	if v.readOnly {
		return errReadOnly
	}
	if err := s.catchUp(set); err != nil {
		return err
	}
	v.account.mu.Lock()
	operand, err := v.account.flags.set(store.Flags)
	v.account.mu.Unlock()
	if err != nil {
		return err
	}
	msgs := v.pick(set, s.saved)
	s.changeFlags(msgs, func(set flagSet) flagSet {
		switch store.Op {
		case imap.StoreFlagsAdd:
			return set | operand
		case imap.StoreFlagsDel:
			return set &^ operand
		}
		return operand
	})
	if store.Silent {
		return nil
	}
	names := v.flagNames()
	for _, m := range msgs {
		resp := w.CreateMessage(m.seq)
		resp.WriteUID(m.uid)
		resp.WriteFlags(names.list(m.flagSet() & names.known()))
		if err := resp.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) changeFlags(msgs []numbered, change func(flagSet) flagSet) {
	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range msgs {
		a.setFlags(s.view.box, m.message, change(m.flagSet()), s.view)
	}
}

// Copy implements imapserver.Session.
func (s *session) Copy(set imap.NumSet, dest string) (*imap.CopyData, error) {
	data, _, err := s.copyTo(set, dest, false)
	return data, err
}

// Move implements imapserver.SessionMove (RFC 6851). The removals are announced
// by Poll, after the COPYUID as section 4.3 wants it.
func (s *session) Move(w *imapserver.MoveWriter, set imap.NumSet, dest string) error {
	if s.view.readOnly {
		return errReadOnly
	}
	data, n, err := s.copyTo(set, dest, true)
	if err != nil || n == 0 {
		return err
	}
	return w.WriteCopyData(data)
}

// copyTo copies or moves all of the messages or none. The data is nil if there
// were none: COPYUID cannot say that.
func (s *session) copyTo(set imap.NumSet, dest string, move bool) (*imap.CopyData, int, error) {
	v, a := s.view, s.account
	if err := s.catchUp(set); err != nil {
		return nil, 0, err
	}
	picked := v.pick(set, s.saved)

	a.mu.Lock()
	defer a.mu.Unlock()
	to, ok := a.mailboxes[dest]
	if !ok {
		return nil, 0, refusal(imap.ResponseCodeTryCreate, "No such mailbox")
	}
	// The client may not know yet that some of them are gone.
	var size int64
	picked = slices.DeleteFunc(picked, func(m numbered) bool {
		i := searchUID(v.box.msgs, m.uid)
		gone := i == len(v.box.msgs) || v.box.msgs[i] != m.message
		if !gone {
			size += m.size()
		}
		return gone
	})
	if len(picked) == 0 {
		return nil, 0, nil
	}
	if !move {
		if err := a.room(len(picked), size); err != nil {
			return nil, 0, quotaError(err)
		}
	}
	data := &imap.CopyData{UIDValidity: to.uidValidity}
	moved := make(map[*message]bool)
	for _, m := range picked {
		added := a.add(to, m.head, m.body, m.date, m.flagSet())
		data.SourceUIDs = appendUID(data.SourceUIDs, m.uid)
		data.DestUIDs = appendUID(data.DestUIDs, added.uid)
		moved[m.message] = true
	}
	if move {
		a.remove(v.box, func(m *message) bool { return moved[m] })
	}
	return data, len(picked), nil
}

// appendUID adds an UID that is higher than all in the set.
func appendUID(set imap.UIDSet, uid imap.UID) imap.UIDSet {
	set.AddNum(uid)
	return set
}
