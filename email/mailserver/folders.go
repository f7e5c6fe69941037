package mailserver

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
)

const (
	inboxName      = "INBOX"
	delimiter rune = '/'
)

// Create implements imapserver.Session. It also creates the mailboxes above
// (RFC 9051 section 6.3.4).
func (s *session) Create(name string, options *imap.CreateOptions) error {
	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.create(strings.TrimRight(name, string(delimiter)))
}

// create makes a mailbox and those above it, or none. The caller holds mu.
func (a *account) create(name string) error {
	if a.mailboxes[name] != nil {
		return refusal(imap.ResponseCodeAlreadyExists, "The mailbox exists")
	}
	if name == "" || len(name) > maxMailboxName || slices.Contains(strings.Split(name, string(delimiter)), "") {
		return refusal(imap.ResponseCodeCannot, "Not a name for a mailbox")
	}
	names := []string{name}
	for parent := parentOf(name); parent != "" && a.mailboxes[parent] == nil; parent = parentOf(parent) {
		names = append(names, parent)
	}
	if len(a.mailboxes)+len(names) > maxMailboxes {
		return refusal(imap.ResponseCodeLimit, "Too many mailboxes")
	}
	for _, name := range names {
		a.mailboxes[name] = newMailbox(nextUIDValidity())
	}
	return nil
}

func parentOf(name string) string {
	i := strings.LastIndexByte(name, byte(delimiter))
	return name[:max(i, 0)]
}

// below returns the names of the mailboxes below one. The caller holds mu.
func (a *account) below(name string) []string {
	var names []string
	for other := range a.mailboxes {
		if strings.HasPrefix(other, name+string(delimiter)) {
			names = append(names, other)
		}
	}
	return names
}

// Delete implements imapserver.Session.
func (s *session) Delete(name string) error {
	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	box := a.mailboxes[name]
	switch {
	case box == nil:
		return refusal(imap.ResponseCodeNonExistent, "No such mailbox")
	case name == inboxName:
		return refusal(imap.ResponseCodeCannot, "INBOX cannot be deleted")
	case len(a.below(name)) > 0:
		return refusal(imap.ResponseCodeHasChildren, "There are mailboxes below")
	}
	delete(a.mailboxes, name)
	// Sessions that have it selected see it become empty.
	a.remove(box, func(*message) bool { return true })
	return nil
}

// Rename implements imapserver.Session. Mailboxes below move along; renaming
// INBOX moves its messages and leaves it empty (RFC 9051 section 6.3.6).
func (s *session) Rename(name, newName string, options *imap.RenameOptions) error {
	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	newName = strings.TrimRight(newName, string(delimiter))
	box := a.mailboxes[name]
	if box == nil {
		return refusal(imap.ResponseCodeNonExistent, "No such mailbox")
	}
	if strings.HasPrefix(newName, name+string(delimiter)) && name != inboxName {
		return refusal(imap.ResponseCodeCannot, "A mailbox cannot go below itself")
	}
	below := a.below(name)
	for _, old := range below {
		if len(newName)+len(old)-len(name) > maxMailboxName {
			return refusal(imap.ResponseCodeCannot, "The name of a mailbox below would be too long")
		}
	}
	if err := a.create(newName); err != nil {
		return err
	}
	if name == inboxName {
		for _, m := range box.msgs {
			a.add(a.mailboxes[newName], m.head, m.body, m.date, m.flagSet())
		}
		a.remove(box, func(*message) bool { return true })
		return nil
	}
	a.mailboxes[newName] = box
	delete(a.mailboxes, name)
	for _, old := range below {
		a.mailboxes[newName+strings.TrimPrefix(old, name)] = a.mailboxes[old]
		delete(a.mailboxes, old)
	}
	return nil
}

// Subscribe implements imapserver.Session.
func (s *session) Subscribe(name string) error { return s.setSubscribed(name, true) }

// Unsubscribe implements imapserver.Session.
func (s *session) Unsubscribe(name string) error { return s.setSubscribed(name, false) }

func (s *session) setSubscribed(name string, subscribed bool) error {
	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	box := a.mailboxes[name]
	if box == nil {
		return refusal(imap.ResponseCodeNonExistent, "No such mailbox")
	}
	box.subscribed = subscribed
	return nil
}

// Namespace implements imapserver.SessionNamespace.
func (s *session) Namespace() (*imap.NamespaceData, error) {
	return &imap.NamespaceData{Personal: []imap.NamespaceDescriptor{{Delim: delimiter}}}, nil
}

// List implements imapserver.Session.
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, options *imap.ListOptions) error {
	if len(patterns) == 0 {
		// A question for the delimiter (RFC 9051 section 6.3.9).
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: delimiter})
	}
	for _, data := range s.account.list(ref, patterns, options) {
		if err := w.WriteList(&data); err != nil {
			return err
		}
	}
	return nil
}

func (a *account) list(ref string, patterns []string, options *imap.ListOptions) []imap.ListData {
	a.mu.Lock()
	defer a.mu.Unlock()
	parents := make(map[string]bool)
	for name := range a.mailboxes {
		parents[parentOf(name)] = true
	}
	var found []imap.ListData
	for name, box := range a.mailboxes {
		match := slices.ContainsFunc(patterns, func(pattern string) bool { return matchMailbox(name, ref, pattern) })
		if !match || options.SelectSpecialUse || options.SelectSubscribed && !box.subscribed {
			continue
		}
		data := imap.ListData{Mailbox: name, Delim: delimiter, Attrs: []imap.MailboxAttr{imap.MailboxAttrHasNoChildren}}
		if parents[name] {
			data.Attrs[0] = imap.MailboxAttrHasChildren
		}
		if box.subscribed && (options.SelectSubscribed || options.ReturnSubscribed) {
			data.Attrs = append(data.Attrs, imap.MailboxAttrSubscribed)
		}
		if options.ReturnStatus != nil {
			data.Status = box.status(name, options.ReturnStatus)
		}
		found = append(found, data)
	}
	slices.SortFunc(found, func(x, y imap.ListData) int { return strings.Compare(x.Mailbox, y.Mailbox) })
	return found
}

// matchMailbox matches a name against a reference and a pattern of LIST, where
// "*" stands for anything and "%" for anything without a delimiter (RFC 9051
// section 6.3.9). The library's matching takes exponential time for some
// patterns; this one keeps, for every length, whether the pattern so far can
// match the start of the name.
func matchMailbox(name, ref, pattern string) bool {
	pattern = ref + pattern
	if strings.EqualFold(pattern, inboxName) {
		return name == inboxName
	}
	if len(pattern) > 2*maxMailboxName {
		return false
	}
	match := make([]bool, len(name)+1)
	match[0] = true
	for _, p := range []byte(pattern) {
		if p == '*' || p == '%' {
			for i := range len(name) {
				match[i+1] = match[i+1] || match[i] && (p == '*' || name[i] != byte(delimiter))
			}
			continue
		}
		for i := len(name) - 1; i >= 0; i-- {
			match[i+1] = match[i] && name[i] == p
		}
		match[0] = false
	}
	return match[len(name)]
}

// Status implements imapserver.Session.
func (s *session) Status(name string, options *imap.StatusOptions) (*imap.StatusData, error) {
	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	box := a.mailboxes[name]
	if box == nil {
		return nil, refusal(imap.ResponseCodeNonExistent, "No such mailbox")
	}
	data := box.status(name, options)
	if options.AppendLimit {
		limit := s.AppendLimit()
		data.AppendLimit = &limit
	}
	return data, nil
}

// status describes the mailbox. The caller holds account.mu.
func (b *mailbox) status(name string, options *imap.StatusOptions) *imap.StatusData {
	var unseen, deleted, recent uint32
	var size, deletedSize int64
	if options.NumUnseen || options.NumDeleted || options.Size || options.DeletedStorage {
		for _, m := range b.msgs {
			size += m.size()
			if m.flagSet()&flagSeen == 0 {
				unseen++
			}
			if m.flagSet()&flagDeleted != 0 {
				deleted++
				deletedSize += m.size()
			}
		}
	}
	messages := uint32(len(b.msgs))
	return &imap.StatusData{
		Mailbox:        name,
		NumMessages:    &messages,
		NumRecent:      &recent,
		UIDNext:        b.uidNext,
		UIDValidity:    b.uidValidity,
		NumUnseen:      &unseen,
		NumDeleted:     &deleted,
		Size:           &size,
		DeletedStorage: &deletedSize,
	}
}
