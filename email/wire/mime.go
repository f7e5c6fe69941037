package wire

import (
	"bytes"
	"encoding/base64"
	"iter"
	"strings"

	"github.com/postbus/postbus/transport"
)

// Limits on the mail of others. What is beyond them is not looked at: the rest of such a
// mail is read as if it ended there.
const (
	// maxDepth is how deep multiparts may nest. Mail programs reach four (a signed
	// mail with an attachment, an alternative and pictures in it).
	maxDepth = 8
	// maxParts is the most parts of a mail that are looked at. The text comes first
	// and the rest are attachments.
	maxParts = 64
	// maxBoundary is the longest boundary. RFC 2046 section 5.1.1 allows 70.
	maxBoundary = 256
	// maxText is the most of a text that is decoded, in bytes. Nobody types more.
	maxText = 1 << 20
)

// fieldList is a header section as it is: every field, in order, values still folded.
// Unlike header it keeps those that the format has no use for.
type fieldList []rawField

// readFields splits the beginning of a mail, or of a part of one, into its header fields.
// rest is what follows the empty line. Lines that are no fields are skipped. whole is
// false if there are more fields or bytes than are read; then rest is empty.
func readFields(raw []byte) (fields fieldList, rest []byte, whole bool) {
	section := raw[:min(len(raw), MaxHeaderBytes)]
	for at := 0; at < len(section); {
		end, next := lineEnd(section, at)
		if end == at {
			return fields, raw[next:], true
		}
		start := at
		for next < len(section) && isBlank(section[next]) { // folded
			end, next = lineEnd(section, next)
		}
		at = next
		name, value, ok := bytes.Cut(section[start:end], []byte(":"))
		if name = bytes.TrimRight(name, " \t"); !ok || !isFieldName(name) {
			continue
		}
		if len(fields) == MaxFields {
			return fields, nil, false
		}
		fields = append(fields, rawField{name, trim(value)})
	}
	return fields, nil, len(raw) == len(section)
}

func isFieldName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return 0 < len(name) && len(name) <= transport.MaxHeaderName
}

// get returns the value of the first field of the name, unfolded, or nil.
func (l fieldList) get(name string) []byte {
	for _, f := range l {
		if isNamed(f.name, name) {
			return unfold(f.value)
		}
	}
	return nil
}

// has reports whether there is a field of the name.
func (l fieldList) has(name string) bool {
	for _, f := range l {
		if isNamed(f.name, name) {
			return true
		}
	}
	return false
}

// isNamed compares without regard to case; it is much called, and lengths differ mostly.
func isNamed(name []byte, as string) bool {
	return len(name) == len(as) && name[0]|0x20 == as[0]|0x20 && (string(name) == as || bytes.EqualFold(name, []byte(as)))
}

// part is a mail or a part of one (RFC 2045, RFC 2046).
type part struct {
	fields fieldList
	kind   string // media type without parameters, in lower case
	body   []byte // not decoded
	parts  []*part
}

// readMail splits a mail into its parts. It is tolerant: a mail that has been cut off, or
// whose boundaries are missing, gives what there is.
func readMail(fields fieldList, body []byte) *part {
	budget := maxParts
	return newPart(fields, body, 0, &budget)
}

func newPart(fields fieldList, body []byte, depth int, budget *int) *part {
	p := &part{fields: fields, body: body, kind: fields.mediaType()}
	if !p.is("multipart/") || depth == maxDepth {
		return p
	}
	boundary := param(fields.get("Content-Type"), "boundary")
	if len(boundary) == 0 || len(boundary) > maxBoundary {
		p.kind = "text/plain" // what a person would see of it
		return p
	}
	raws, found := split(body, boundary, *budget)
	*budget -= len(raws)
	for _, raw := range raws {
		if fields, rest, whole := readFields(raw); whole {
			p.parts = append(p.parts, newPart(fields, rest, depth+1, budget))
		}
	}
	if !found {
		p.kind = "text/plain"
	}
	return p
}

// mediaType returns what Content-Type says without its parameters, in lower case.
func (l fieldList) mediaType() string {
	t := l.get("Content-Type")
	if len(t) == 0 {
		return "text/plain" // RFC 2045 section 5.2
	}
	t, _, _ = bytes.Cut(t, []byte(";"))
	return string(bytes.ToLower(trim(t)))
}

// is reports whether the media type begins with prefix.
func (p *part) is(prefix string) bool { return strings.HasPrefix(p.kind, prefix) }

// all yields p and its parts in the order of the mail.
func (p *part) all() iter.Seq[*part] {
	return func(yield func(*part) bool) { p.walk(yield) }
}

func (p *part) walk(yield func(*part) bool) bool {
	if !yield(p) {
		return false
	}
	for _, child := range p.parts {
		if !child.walk(yield) {
			return false
		}
	}
	return true
}

// split returns what is between the delimiter lines of a multipart, the first limit of
// it, and whether there is any such line. The last part may end without one, in a mail
// that has been cut off.
func split(body, boundary []byte, limit int) (parts [][]byte, found bool) {
	start := -1 // of the part; before the first delimiter is the preamble
	for at := 0; at < len(body); {
		end, next := lineEnd(body, at)
		delimiter, last := isDelimiter(body[at:end], boundary)
		if delimiter {
			if found = true; start >= 0 {
				parts = append(parts, cutLineEnding(body[start:at]))
			}
			if start = next; last || len(parts) == limit {
				return parts, found
			}
		}
		at = next
	}
	if start >= 0 {
		parts = append(parts, body[start:])
	}
	return parts, found
}

// isDelimiter reports whether a line is a delimiter, and whether it is the last.
func isDelimiter(line, boundary []byte) (is, last bool) {
	rest, ok := bytes.CutPrefix(line, []byte("--"))
	if !ok {
		return false, false
	}
	if rest, ok = bytes.CutPrefix(rest, boundary); !ok {
		return false, false
	}
	rest, last = bytes.CutPrefix(rest, []byte("--"))
	return len(trim(rest)) == 0, last
}

// param returns a parameter of an unfolded Content-Type or Content-Disposition value, or
// nil. mime.ParseMediaType gives up on what some servers write: a part after a last
// semicolon that is no parameter, a comment, or the same parameter twice.
func param(value []byte, name string) []byte {
	_, value, _ = bytes.Cut(value, []byte(";"))
	for len(value) > 0 {
		var key, text []byte
		end := paramEnd(value)
		key, text, _ = bytes.Cut(value[:end], []byte("="))
		if bytes.EqualFold(trim(key), []byte(name)) {
			return paramText(trim(text))
		}
		value = value[min(end+1, len(value)):]
	}
	return nil
}

// paramEnd returns the index of the first semicolon outside of quotes.
func paramEnd(value []byte) int {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ';' && !quoted:
			return i
		}
	}
	return len(value)
}

// paramText undoes the quoting of a parameter, and cuts a comment off one without quotes.
func paramText(text []byte) []byte {
	if len(text) == 0 || text[0] != '"' {
		if i := bytes.IndexAny(text, " \t("); i >= 0 {
			text = text[:i]
		}
		return text
	}
	plain := make([]byte, 0, len(text))
	for i := 1; i < len(text) && text[i] != '"'; i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		plain = append(plain, text[i])
	}
	return plain
}

// decoded returns the body with the transfer encoding undone, at most maxText bytes of it.
// Damage costs what is damaged and no more. It may share memory with the mail.
func (p *part) decoded() []byte {
	encoding := p.fields.get("Content-Transfer-Encoding")
	switch {
	case bytes.EqualFold(encoding, []byte("base64")):
		return mendBase64(p.body)
	case bytes.EqualFold(encoding, []byte("quoted-printable")):
		return mendQuotedPrintable(p.body)
	}
	return p.body[:min(len(p.body), maxText)]
}

// mendBase64 decodes what is of the alphabet, up to the padding: what follows that is a
// footer which a mailing list has added (RFC 2045 section 6.8).
func mendBase64(b []byte) []byte {
	text := make([]byte, 0, min(base64.RawStdEncoding.DecodedLen(len(b)), maxText)+2)
	var bits uint32
	count := 0
	for _, c := range b {
		if c == '=' || len(text) >= maxText {
			break
		}
		value, ok := sextet(c)
		if !ok {
			continue
		}
		if bits, count = bits<<6|value, count+1; count == 4 {
			text = append(text, byte(bits>>16), byte(bits>>8), byte(bits))
			bits, count = 0, 0
		}
	}
	switch { // the last one or two bytes; a single sextet is none
	case count == 2:
		text = append(text, byte(bits>>4))
	case count == 3:
		text = append(text, byte(bits>>10), byte(bits>>2))
	}
	return text[:min(len(text), maxText)]
}

func sextet(c byte) (value uint32, ok bool) {
	switch {
	case 'A' <= c && c <= 'Z':
		return uint32(c - 'A'), true
	case 'a' <= c && c <= 'z':
		return uint32(c-'a') + 26, true
	case '0' <= c && c <= '9':
		return uint32(c-'0') + 52, true
	case c == '+':
		return 62, true
	case c == '/':
		return 63, true
	}
	return 0, false
}

// mendQuotedPrintable decodes RFC 2045 section 6.7; what is no encoding stays as it is.
func mendQuotedPrintable(b []byte) []byte {
	text := make([]byte, 0, min(len(b), maxText))
	for at := 0; at < len(b) && len(text) < maxText; {
		end, next := lineEnd(b, at)
		line := bytes.TrimRight(b[at:end], " \t") // blanks at the end are not the writer's
		line, soft := bytes.CutSuffix(line, []byte("="))
		text = appendUnescaped(text, line)
		if !soft {
			text = append(text, b[end:next]...)
		}
		at = next
	}
	return text[:min(len(text), maxText)]
}

// appendUnescaped appends text in which "=" and two hexadecimal digits are a byte.
func appendUnescaped(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		if text[i] == '=' && i+2 < len(text) && isHex(text[i+1]) && isHex(text[i+2]) {
			dst = append(dst, unhex(text[i+1])<<4|unhex(text[i+2]))
			i += 2
			continue
		}
		dst = append(dst, text[i])
	}
	return dst
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' || 'a' <= c && c <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
