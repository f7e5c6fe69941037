package mailserver

import (
	"bytes"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
)

// maxPartDepth is how deep a MIME structure is followed. Every level costs a
// pass over what it contains, so a hostile mail could make a server very busy.
const maxPartDepth = 32

// section returns the bytes of a FETCH BODY[...] item, in pieces to be joined.
// Whole messages, headers and texts are the stored bytes themselves; only the
// parts of a multipart have to be looked for.
func (m *message) section(item *imap.FetchItemBodySection) [][]byte {
	if len(item.Part) > 0 {
		return clip(item.Partial, m.part(item))
	}
	switch item.Specifier {
	case imap.PartSpecifierNone:
		return clip(item.Partial, m.head, m.body)
	case imap.PartSpecifierText:
		_, text := m.split()
		return clip(item.Partial, text)
	}
	header, _ := m.split()
	if len(item.HeaderFields) > 0 || len(item.HeaderFieldsNot) > 0 {
		header = filterHeader(header, item.HeaderFields, item.HeaderFieldsNot)
	}
	return clip(item.Partial, header)
}

// split returns the header block, with the empty line, and the rest.
func (m *message) split() (header, text []byte) {
	if bytes.HasSuffix(m.head, []byte("\r\n\r\n")) {
		return m.head, m.body // the mail came without a header
	}
	n := headerEnd(m.body)
	if len(m.head) == 0 {
		return m.body[:n], m.body[n:]
	}
	return slices.Concat(m.head, m.body[:n]), m.body[n:]
}

// filterHeader returns the fields named in only, or else all but those named
// in except, with an empty line at the end (RFC 9051 section 6.4.5.1).
func filterHeader(header []byte, only, except []string) []byte {
	var out []byte
	for name, raw := range fields(header) {
		is := func(s string) bool { return strings.EqualFold(s, string(name)) }
		if len(only) > 0 && slices.ContainsFunc(only, is) || len(only) == 0 && !slices.ContainsFunc(except, is) {
			out = append(out, raw...)
		}
	}
	return append(out, "\r\n"...)
}

// part returns a part of a multipart message, or nothing if there is no such
// part.
func (m *message) part(item *imap.FetchItemBodySection) []byte {
	if len(item.Part) > maxPartDepth {
		return nil
	}
	whole := *item
	whole.Partial = nil // clip guards against overflow, the library does not
	return imapserver.ExtractBodySection(m.reader(), &whole)
}

// binary returns a part with its transfer encoding undone (RFC 3516).
func (m *message) binary(part []int, partial *imap.SectionPartial) [][]byte {
	if len(part) > maxPartDepth {
		return nil
	}
	return clip(partial, imapserver.ExtractBinarySection(m.reader(), &imap.FetchItemBinarySection{Part: part}))
}

func (m *message) envelope() *imap.Envelope {
	header, _ := m.split()
	return imapserver.ExtractEnvelope(parseHeader(header))
}

// clip returns the part of the joined pieces that partial asks for, all of it
// if partial is nil. Beyond the end there is nothing (RFC 9051 section 6.4.5).
func clip(partial *imap.SectionPartial, pieces ...[]byte) [][]byte {
	if partial == nil {
		return pieces
	}
	offset, size := max(partial.Offset, 0), max(partial.Size, 0)
	var out [][]byte
	for _, piece := range pieces {
		skip := min(offset, int64(len(piece)))
		offset -= skip
		piece = piece[skip:]
		piece = piece[:min(size, int64(len(piece)))]
		size -= int64(len(piece))
		out = append(out, piece)
	}
	return out
}

func total(pieces [][]byte) (n int64) {
	for _, piece := range pieces {
		n += int64(len(piece))
	}
	return n
}
