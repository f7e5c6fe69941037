package wire

import (
	"bytes"
	"fmt"

	"github.com/postbus/postbus/transport"
)

// field is a header field that the format gives a meaning to.
type field uint8

const (
	fieldSubject field = iota
	fieldFrom
	fieldReplyTo
	fieldTo
	fieldDate
	fieldMessageID
	fieldInReplyTo
	fieldReferences
	fieldContentType
	fieldEncoding
	fieldDisposition
	fieldSourceTimestamp
	fieldPublisherGID
	fieldPublisherSequence
	fieldClientGID
	fieldRequestSequence
	fieldDeadline
	fieldServiceError
	fieldLineEnding
	fieldBodyType
	fieldCount
	knownFields

	// fieldSkipped are fields that every mail has and the format does not use.
	fieldSkipped field = 255
)

// Header fields of the format beyond those of package transport. Applications can't
// set them: the prefix Body- is reserved.
const (
	headerLineEnding = "Body-Line-Ending"
	headerBodyType   = "Body-Content-Type"
	headerCount      = "Body-Message-Count"
)

// fieldNames are the names as they are written, and as they are shown in errors.
var fieldNames = [knownFields]string{
	fieldSubject:           "Subject",
	fieldFrom:              "From",
	fieldReplyTo:           "Reply-To",
	fieldTo:                "To",
	fieldDate:              "Date",
	fieldMessageID:         "Message-ID",
	fieldInReplyTo:         "In-Reply-To",
	fieldReferences:        "References",
	fieldContentType:       "Content-Type",
	fieldEncoding:          "Content-Transfer-Encoding",
	fieldDisposition:       "Content-Disposition",
	fieldSourceTimestamp:   transport.HeaderSourceTimestamp,
	fieldPublisherGID:      transport.HeaderPublisherGID,
	fieldPublisherSequence: transport.HeaderPublisherSequence,
	fieldClientGID:         transport.HeaderClientGID,
	fieldRequestSequence:   transport.HeaderRequestSequence,
	fieldDeadline:          transport.HeaderDeadline,
	fieldServiceError:      transport.HeaderServiceError,
	fieldLineEnding:        headerLineEnding,
	fieldBodyType:          headerBodyType,
	fieldCount:             headerCount,
}

// fieldsByLength are the fields with names of a length. The skipped ones are listed so
// that most fields of a mail are dealt with by one lookup.
var fieldsByLength = func() (table [transport.MaxHeaderName + 1][]namedField) {
	add := func(name string, f field) {
		table[len(name)] = append(table[len(name)], namedField{name, f})
	}
	for f, name := range fieldNames {
		add(name, field(f))
	}
	for _, name := range [...]string{
		"Received", "Return-Path", "Delivered-To", "Envelope-To", "X-Original-To", "Cc", "Bcc", "Sender",
		"MIME-Version", "Auto-Submitted", "DKIM-Signature", "Authentication-Results", "Received-SPF",
	} {
		add(name, fieldSkipped)
	}
	return table
}()

type namedField struct {
	name  string
	field field
}

// fieldNamed finds a field by a name that isFieldName approves.
func fieldNamed(name []byte) (f field, known bool) {
	for _, candidate := range fieldsByLength[len(name)] {
		if isNamed(name, candidate.name) {
			return candidate.field, true
		}
	}
	return 0, false
}

// header is the header section of a mail, split into fields. The values are parts of
// the mail: still folded (RFC 5322 section 2.2.3), without blanks at either end.
type header struct {
	values [knownFields][]byte // nil when absent
	// duplicate is the first known field that occurs twice, or knownFields.
	duplicate field
	// others are the fields that may be the application's, in order.
	others []rawField
	// name is a valid name that the subject is likely to be, or ""; publisher is what
	// Publisher-GID is likely to be, as it is written, and gid what it means.
	name      string
	publisher []byte
	gid       transport.GID
}

type rawField struct{ name, value []byte }

// has reports whether the mail has the field.
func (h *header) has(f field) bool { return h.values[f] != nil }

// scan splits the beginning of a mail into its header fields. rest is what follows the
// empty line; ended is false if there is none, in which case all of raw was header.
// Lines that are no fields are skipped, as mail readers do.
func scan(raw []byte, h *header) (rest []byte, ended bool, err error) {
	h.duplicate = knownFields
	section := raw[:min(len(raw), MaxHeaderBytes)]
	fields := 0
	for at := 0; at < len(section); {
		end, next := lineEnd(section, at)
		if end == at {
			return raw[next:], true, nil
		}
		start := at
		for next < len(section) && isBlank(section[next]) { // folded
			end, next = lineEnd(section, next)
		}
		at = next
		if fields++; fields > MaxFields {
			return nil, false, foreign("it has more than %d header fields", MaxFields)
		}
		h.add(section[start:end])
	}
	if len(raw) > len(section) {
		return nil, false, foreign("its header section is longer than %d bytes", MaxHeaderBytes)
	}
	return nil, false, nil
}

// lineEnd returns where the line that begins at start ends, and where the next begins.
// Mail has CRLF; a bare LF is what files and some stores make of it.
func lineEnd(b []byte, start int) (end, next int) {
	i := bytes.IndexByte(b[start:], '\n')
	if i < 0 {
		return len(b), len(b)
	}
	end = start + i
	next = end + 1
	if end > start && b[end-1] == '\r' {
		end--
	}
	return end, next
}

// add files one field, folded or not, without its last line ending.
func (h *header) add(line []byte) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return
	}
	name := bytes.TrimRight(line[:colon], " \t") // RFC 5322 section 4.5 allows blanks here
	if !isFieldName(name) {
		return
	}
	value := trim(line[colon+1:])
	f, known := fieldNamed(name)
	switch {
	case !known:
		h.others = append(h.others, rawField{name, value})
	case f == fieldSkipped:
	case h.values[f] == nil:
		h.values[f] = value
	case h.duplicate == knownFields:
		h.duplicate = f
	}
}

// trim cuts blanks and folds off both ends. Unlike bytes.TrimSpace it never returns nil.
func trim(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func isSpace(c byte) bool { return isBlank(c) || c == '\r' || c == '\n' }

// unfold takes the line endings out of a folded value (RFC 5322 section 2.2.3).
func unfold(value []byte) []byte {
	if bytes.IndexByte(value, '\n') < 0 {
		return value
	}
	flat := make([]byte, 0, len(value))
	for at := 0; at < len(value); {
		end, next := lineEnd(value, at)
		flat = append(flat, value[at:end]...)
		at = next
	}
	return flat
}

func foreign(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrForeign, fmt.Sprintf(format, args...))
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
