package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postbus/postbus/transport"
)

// Limits of mails for rmw_email.
const (
	// MaxRMWBody is the longest body of a mail for rmw_email, in bytes, with its line
	// endings as CRLF. Its reader crashes on bodies above some 26,000 bytes.
	MaxRMWBody = 24_000
	// MaxRMWLine is the longest line of such a mail, in bytes without the line ending
	// (RFC 5322 section 2.1.1): nothing in it is encoded or folded.
	MaxRMWLine = 998
)

// EncodeRMW returns m as a mail that rmw_email 0.8 reads: its header fields, each on one
// line, and the payload as it is, with CRLF line endings. Decode reads it too. The envelope's
// display names are left out, for rmw_email answers to the sender as it is written.
//
// GIDs are written in their short form (see transport.GID.Short), and numbers of requests
// from 0, as rmw_email counts: one less than m says, except where the client's GID is short
// already, and so m or its request comes from rmw_email. An ErrorResponse is written as a
// response whose payload is the text, because rmw_email knows no errors and its client
// would wait for ever; what of the text can't travel is replaced. Deadline, sequence
// number, content type, error code and application fields are written in fields that
// rmw_email passes over and Decode reads.
//
// A payload that would not come back the same from Decode, or that rmw_email could not
// read, is refused: with a NUL, a CR without LF, line endings of both kinds, more than nine
// line endings at the end, a line over MaxRMWLine, or what looks like a field that the mail
// lacks. So are files, and answers that name no client. These errors wrap
// transport.ErrNotSupported, that of a body over MaxRMWBody transport.ErrTooLarge; the others
// are those of Encode. The mail may need 8BITMIME: see Is8Bit.
func EncodeRMW(m *transport.Message, e Envelope) ([]byte, error) {
	mail, err := encodeRMW(m, e)
	if err != nil {
		return nil, fmt.Errorf("encode mail for rmw_email: %w", err)
	}
	return mail, nil
}

// Is8Bit reports whether a mail has bytes beyond ASCII, so that SMTP must be told
// BODY=8BITMIME (RFC 6152). Mails of Encode never have any.
func Is8Bit(mail []byte) bool {
	for _, c := range mail {
		if c >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

func encodeRMW(m *transport.Message, e Envelope) ([]byte, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	payload, ending, err := rmwPayload(m)
	if err != nil {
		return nil, err
	}
	dst := make([]byte, 0, 1024+32*(len(e.To)+len(e.Cc))+len(payload)+len(payload)/16)
	if dst, err = appendRMWInfo(dst, m); err != nil {
		return nil, err
	}
	request := ""
	if !m.InReplyTo.IsZero() {
		request = "<" + m.InReplyTo.String() + ">"
	}
	dst = appendLine(dst, "In-Reply-To", request)
	dst = appendLine(dst, "References", request)
	if dst, err = appendRMWAddresses(dst, e); err != nil {
		return nil, err
	}
	dst = appendLine(dst, "Subject", m.Name)
	dst = appendLine(dst, "Message-ID", "<"+m.ID.String()+">")
	dst = appendLine(dst, "Date", m.Info.SourceTime.UTC().Format(time.RFC1123Z))
	own := len(dst)
	dst = appendRMWExtras(dst, m)
	dst = ending.appendField(dst)
	dst = append(dst, "\r\n"...)
	if len(dst) > MaxHeaderBytesWritten {
		return nil, fmt.Errorf("%w: its header section has %d bytes, at most %d are allowed",
			transport.ErrTooLarge, len(dst), MaxHeaderBytesWritten)
	}
	dst = appendLines(dst, payload)
	if err := checkRMWFields(dst[own:], m.Kind); err != nil {
		return nil, err
	}
	return dst, nil
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", transport.ErrNotSupported, fmt.Sprintf(format, args...))
}

// appendRMWInfo writes the fields that rmw_email calls custom, in its order: alphabetical.
func appendRMWInfo(dst []byte, m *transport.Message) ([]byte, error) {
	client, number, err := rmwCall(m)
	if err != nil {
		return nil, err
	}
	if !client.IsZero() {
		dst = appendLine(dst, transport.HeaderClientGID, client.String())
	}
	if m.InReplyTo.IsZero() { // a subscription could take an answer for a topic message
		publisher := m.Info.PublisherGID
		if publisher.IsZero() {
			publisher, _, _ = m.ID.Origin()
		}
		if publisher.IsZero() {
			return nil, unsupported("a message of no known publisher")
		}
		dst = appendLine(dst, transport.HeaderPublisherGID, publisher.Short().String())
	}
	if !client.IsZero() {
		dst = appendUint(dst, transport.HeaderRequestSequence, number)
	}
	return appendInt(dst, transport.HeaderSourceTimestamp, m.Info.SourceTime.UnixNano()), nil
}

// rmwCall returns which call a request or an answer is part of, in the terms of rmw_email.
func rmwCall(m *transport.Message) (client transport.GID, number uint64, err error) {
	if m.Kind == transport.TopicMessage {
		return client, 0, nil
	}
	client, number = m.Info.ClientGID, m.Info.RequestSequence
	if client.IsZero() {
		client, number, _ = m.InReplyTo.Origin()
	}
	if client.IsZero() {
		return client, 0, unsupported("an answer to a request that names no client")
	}
	if client != client.Short() {
		if number == 0 {
			return client, 0, unsupported("request number 0: numbers begin with 1")
		}
		client, number = client.Short(), number-1
	}
	if number > math.MaxInt64 {
		return client, 0, unsupported("request number %d has more than 63 bits", number)
	}
	return client, number, nil
}

// appendRMWAddresses writes the address fields, also the empty ones.
func appendRMWAddresses(dst []byte, e Envelope) ([]byte, error) {
	if e.From == "" {
		return nil, errors.New("the envelope has no sender")
	}
	for _, f := range [...]struct {
		name string
		list []string
	}{{"To", e.To}, {"Cc", e.Cc}, {"Bcc", nil}, {"From", []string{e.From}}} {
		bare := make([]string, len(f.list))
		for i, address := range f.list {
			text, err := formatAddress(address)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			if bare[i] = bareAddress([]byte(text)); bare[i] == "" {
				return nil, fmt.Errorf("%s: address %.80q can't be written without its display name", f.name, address)
			}
		}
		line := strings.Join(bare, ", ")
		if len(f.name)+2+len(line) > MaxRMWLine {
			return nil, unsupported("%d addresses in one field: they need more than one line", len(bare))
		}
		dst = appendLine(dst, f.name, line)
	}
	if e.ReplyTo == "" {
		return dst, nil
	}
	dst, err := appendAddress(append(dst, "Reply-To:"...), len("Reply-To:"), e.ReplyTo)
	if err != nil {
		return nil, fmt.Errorf("reply address: %w", err)
	}
	return append(dst, "\r\n"...), nil
}

// appendRMWExtras writes the fields that rmw_email passes over.
func appendRMWExtras(dst []byte, m *transport.Message) []byte {
	submitted := "auto-generated"
	if !m.InReplyTo.IsZero() {
		submitted = "auto-replied"
	}
	dst = appendLine(dst, "Auto-Submitted", submitted)
	if m.Info.Sequence != 0 && m.InReplyTo.IsZero() { // it counts nobody's messages without the publisher
		dst = appendUint(dst, transport.HeaderPublisherSequence, m.Info.Sequence)
	}
	if !m.Deadline.IsZero() {
		dst = appendInt(dst, transport.HeaderDeadline, saturatedNano(m.Deadline))
	}
	if m.Error != nil {
		dst = appendInt(dst, transport.HeaderServiceError, int64(m.Error.Code))
	}
	for _, f := range m.Header {
		dst = appendField(dst, f)
	}
	if m.ContentType != "" {
		dst = appendBodyType(dst, m.ContentType)
	}
	return dst
}

// checkRMWFields refuses a mail in which the reader of rmw_email would find a field that
// the mail lacks. It looks for fields everywhere, also in the body, and takes the first
// of a name, so that those the mail has are safe.
func checkRMWFields(rest []byte, kind transport.Kind) error {
	lacking := []string{transport.HeaderPublisherGID}
	switch kind {
	case transport.TopicMessage:
		lacking = []string{transport.HeaderClientGID, transport.HeaderRequestSequence}
	case transport.Request:
		return nil
	}
	for line := range bytes.SplitSeq(rest, []byte("\r\n")) {
		if name := rmwField(line); slices.Contains(lacking, string(name)) {
			return unsupported("a payload or header field with %q, which would count as a field of the mail", name)
		}
	}
	return nil
}

// rmwField returns the name of the header field that the reader of rmw_email finds in a
// line by the regular expression ([a-zA-Z\-]+): (.*)\r, or nothing.
func rmwField(line []byte) []byte {
	for at := 0; ; {
		i := bytes.Index(line[at:], []byte(": "))
		if i < 0 {
			return nil
		}
		end := at + i
		start := end
		for start > at && isRMWName(line[start-1]) {
			start--
		}
		if start < end {
			return line[start:end]
		}
		at = end + 2
	}
}

func isRMWName(c byte) bool {
	return c == '-' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// rmwPayload returns the payload to write, and what restores it.
func rmwPayload(m *transport.Message) ([]byte, lineEnding, error) {
	if m.Filename != "" {
		return nil, lineEnding{}, unsupported("a file")
	}
	payload := m.Body
	if m.Error != nil {
		payload = []byte(m.Error.Text)
		if _, err := rmwLines(payload); err != nil {
			payload = readableText(m.Error.Text)
		}
	}
	ending, err := rmwLines(payload)
	if err != nil {
		return nil, ending, err
	}
	size := len(payload)
	if !ending.crlf {
		size += bytes.Count(payload, []byte("\n"))
	}
	if size > MaxRMWBody {
		return nil, ending, fmt.Errorf("%w: a body of %d bytes, at most %d are allowed", transport.ErrTooLarge, size, MaxRMWBody)
	}
	return payload, ending, nil
}

// rmwLines finds out whether and how a payload can be restored whose line endings have
// become those of mail.
func rmwLines(b []byte) (e lineEnding, err error) {
	ending := []byte("\n")
	if i := bytes.IndexByte(b, '\n'); i > 0 && b[i-1] == '\r' {
		e.crlf, ending = true, []byte("\r\n")
	}
	for ; bytes.HasSuffix(b, ending); b = b[:len(b)-len(ending)] {
		if e.final++; e.final > maxFinalEndings {
			return e, unsupported("a payload with more than %d line endings at its end", maxFinalEndings)
		}
	}
	for more := true; more; {
		var line []byte
		line, b, more = bytes.Cut(b, ending)
		if i := bytes.IndexAny(line, "\x00\r\n"); i >= 0 {
			return e, unsupported("a payload with NUL, a bare CR, or both LF and CRLF: byte %q", line[i])
		}
		if len(line) > MaxRMWLine {
			return e, unsupported("a payload with a line of %d bytes, at most %d are allowed", len(line), MaxRMWLine)
		}
	}
	return e, nil
}

// readableText makes any text for people fit for a mail to rmw_email.
func readableText(text string) []byte {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", " ").Replace(text)
	var b []byte
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		for len(line) > MaxRMWLine {
			n := MaxRMWLine
			for n > MaxRMWLine-utf8.UTFMax && !utf8.RuneStart(line[n]) {
				n--
			}
			b = append(b, line[:n]...)
			b = append(b, '\n')
			line = line[n:]
		}
		b = append(b, line...)
		b = append(b, '\n')
	}
	return b[:len(b)-1]
}
