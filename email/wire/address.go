package wire

import (
	"bytes"
	"fmt"
	"iter"
	"net/mail"
	"slices"
	"strings"

	"github.com/postbus/postbus/transport"
)

// formatAddress returns a configured address as it is written in a header field: all
// ASCII, a display name quoted or encoded as needed.
func formatAddress(s string) (string, error) {
	if len(s) > MaxAddress {
		return "", fmt.Errorf("address %.40q… has %d bytes, at most %d are allowed", s, len(s), MaxAddress)
	}
	if isSimpleAddress(s) {
		return s, nil
	}
	parsed, err := mail.ParseAddress(s)
	if err != nil {
		return "", fmt.Errorf("address %.80q: %.120v", s, err)
	}
	text := parsed.String()
	if !printable(text) {
		return "", fmt.Errorf("address %.80q has characters that mail can't carry everywhere (RFC 6531)", s)
	}
	if parsed.Name == "" {
		return strings.TrimSuffix(strings.TrimPrefix(text, "<"), ">"), nil
	}
	// There are display names that net/mail writes and then can't read.
	if bareAddress([]byte(text)) == "" {
		return "", fmt.Errorf("address %.80q has a display name that can't be written", s)
	}
	return text, nil
}

// isSimpleAddress reports whether s is a local part and a domain without any quoting
// (dot-atoms of RFC 5322 section 3.2.3), as nearly all addresses are.
func isSimpleAddress[T string | []byte](s T) bool {
	at := -1
	dot := true // where a dot may not come
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '+':
			dot = false
		case c == '.' && !dot:
			dot = true
		case c == '@' && !dot && at < 0:
			at, dot = i, true
		default:
			return false
		}
	}
	return at > 0 && !dot
}

// bareAddress returns the address in one element of an address list, without display
// name, brackets and comments, or "" if there is no usable one.
func bareAddress(element []byte) string {
	element = trim(element)
	if len(element) <= MaxAddress && isSimpleAddress(element) {
		return string(element)
	}
	if open := bytes.LastIndexByte(element, '<'); open >= 0 && element[len(element)-1] == '>' {
		if inner := element[open+1 : len(element)-1]; isSimpleAddress(inner) && len(inner) <= MaxAddress {
			return string(inner)
		}
	}
	if len(element) > MaxAddress {
		return ""
	}
	parsed, err := mail.ParseAddress(string(element))
	if err != nil {
		return ""
	}
	text, err := formatAddress((&mail.Address{Address: parsed.Address}).String())
	if err != nil {
		return ""
	}
	return text
}

// addresses yields the bare addresses of an address list (RFC 5322 section 3.4), those of
// groups included. What can't be read is passed over: a mail should not be lost because
// one of its many recipients is spelled oddly.
func addresses(value []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		value = unfold(value)
		for start, tries := 0, 0; start < len(value) && tries < MaxAddresses; tries++ {
			end, group := elementEnd(value, start)
			if !group {
				if a := bareAddress(value[start:end]); a != "" && !yield(a) {
					return
				}
			}
			start = end + 1
		}
	}
}

// elementEnd returns the end of the list element that begins at start: the next comma,
// semicolon or, when it is the name of a group, colon outside quotes, comments and
// brackets.
func elementEnd(value []byte, start int) (end int, group bool) {
	quoted, comment, bracket := false, 0, false
	for i := start; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '\\':
			i++
		case c == '"' && comment == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			comment++
		case c == ')' && comment > 0:
			comment--
		case comment > 0:
		case c == '<':
			bracket = true
		case c == '>':
			bracket = false
		case bracket:
		case c == ',' || c == ';':
			return i, false
		case c == ':':
			return i, true
		}
	}
	return len(value), false
}

// readAddresses fills in sender, reply address and recipients.
func (h *header) readAddresses(m *transport.Message) {
	for m.From = range addresses(h.values[fieldFrom]) {
		break
	}
	m.ReplyTo = m.From
	for m.ReplyTo = range addresses(h.values[fieldReplyTo]) {
		break
	}
	m.To = slices.Collect(addresses(h.values[fieldTo]))
}
