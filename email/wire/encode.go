package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/postbus/postbus/transport"
)

// foldAt is the column beyond which address lists are folded (RFC 5322 section 2.1.1).
const foldAt = 78

// Encode returns m as a mail with CRLF line endings, ready for SMTP's DATA but for
// dot-stuffing, and addressed as the envelope says (m.From, m.ReplyTo and m.To do not
// count). The mail is 7bit: it needs no SMTP extension.
//
// m must have an ID, a source time between the years 1678 and 2262, and what its kind
// asks for: a request Info.ClientGID, an answer InReplyTo, an ErrorResponse Error and
// neither Body nor Filename. A message that Decode could not give back the same is refused;
// errors wrap those of transport.ValidateName, transport.ValidateFilename and
// transport.Header.Validate where they apply, and transport.ErrTooLarge when the header
// section exceeds MaxHeaderBytesWritten. Two values are not kept exactly: a deadline after
// 2262 becomes the last instant that nanoseconds can count, and times come back in UTC.
func Encode(m *transport.Message, e Envelope) ([]byte, error) {
	if err := check(m); err != nil {
		return nil, fmt.Errorf("encode mail: %w", err)
	}
	p := planBody(m)
	dst := make([]byte, 0, 1024+32*(len(e.To)+len(e.Cc))+p.size)
	dst, err := appendAddresses(dst, e)
	if err != nil {
		return nil, fmt.Errorf("encode mail: %w", err)
	}
	dst = appendStandard(dst, m)
	dst = appendMetadata(dst, m)
	for _, f := range m.Header {
		dst = appendField(dst, f)
	}
	dst = p.appendFields(dst, m.ContentType)
	dst = append(dst, "\r\n"...)
	if len(dst) > MaxHeaderBytesWritten {
		return nil, fmt.Errorf("encode mail: %w: its header section has %d bytes, at most %d are allowed",
			transport.ErrTooLarge, len(dst), MaxHeaderBytesWritten)
	}
	return p.appendBody(dst), nil
}

// check refuses what could not be told from another message on reading.
func check(m *transport.Message) error {
	if err := checkContent(m); err != nil {
		return err
	}
	if err := validID(m.ID.String()); err != nil {
		return fmt.Errorf("the message's ID: %w", err)
	}
	return nil
}

// checkContent checks all but the message's ID.
func checkContent(m *transport.Message) error {
	if err := transport.ValidateName(m.Name); err != nil {
		return err
	}
	if err := checkKind(m); err != nil {
		return err
	}
	if t := m.Info.SourceTime; t.IsZero() || !countable(t) {
		return fmt.Errorf("the message's source time %s can't be counted in nanoseconds", t.UTC().Format(time.RFC3339))
	}
	if m.ContentType != "" {
		if err := transport.ValidateContentType(m.ContentType); err != nil {
			return err
		}
	}
	if m.Filename != "" {
		if err := transport.ValidateFilename(m.Filename); err != nil {
			return err
		}
	}
	if m.Header == nil {
		return nil
	}
	return m.Header.Validate()
}

// checkKind refuses a message whose metadata says something else than its kind.
func checkKind(m *transport.Message) error {
	answer, client := !m.InReplyTo.IsZero(), !m.Info.ClientGID.IsZero()
	if !client && m.Info.RequestSequence != 0 {
		return errors.New("the message has a request sequence number but no client GID")
	}
	switch m.Kind {
	case transport.TopicMessage:
		if answer || client {
			return errors.New("a topic message can't have a client GID or answer anything")
		}
	case transport.Request:
		if answer || !client {
			return errors.New("a request needs a client GID and can't answer anything")
		}
	case transport.Response, transport.ErrorResponse:
		if err := validID(m.InReplyTo.String()); err != nil {
			return fmt.Errorf("the ID of the request that is answered: %w", err)
		}
		if contradicts(m) {
			return errors.New("the answer's client and the ID of the request contradict each other")
		}
	default:
		return fmt.Errorf("a message of %s can't be sent", m.Kind)
	}
	if (m.Kind == transport.ErrorResponse) != (m.Error != nil) || m.Error != nil && (len(m.Body) > 0 || m.Filename != "") {
		return errors.New("an error response needs an error and no body or file, other messages no error")
	}
	if m.Error != nil && (m.Error.Code < math.MinInt32 || m.Error.Code > math.MaxInt32) {
		return fmt.Errorf("the error code %d has more than 32 bits", m.Error.Code)
	}
	return nil
}

// validID checks that a Message-ID can travel: printable ASCII without blanks and angle
// brackets. RFC 5322 section 3.6.4 asks for more, but mail programs don't.
func validID[T string | []byte](id T) error {
	if len(id) == 0 || len(id) > MaxID {
		return fmt.Errorf("it has %d bytes, 1 to %d are allowed", len(id), MaxID)
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			return fmt.Errorf("byte %q at index %d is not allowed", c, i)
		}
	}
	return nil
}

// appendAddresses writes the address fields.
func appendAddresses(dst []byte, e Envelope) ([]byte, error) {
	if e.From == "" {
		return nil, errors.New("the envelope has no sender")
	}
	dst, err := appendAddress(append(dst, "From:"...), len("From:"), e.From)
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	dst = append(dst, "\r\n"...)
	if e.ReplyTo != "" {
		if dst, err = appendAddress(append(dst, "Reply-To:"...), len("Reply-To:"), e.ReplyTo); err != nil {
			return nil, fmt.Errorf("reply address: %w", err)
		}
		dst = append(dst, "\r\n"...)
	}
	if dst, err = appendAddressList(dst, "To:", e.To); err != nil {
		return nil, err
	}
	return appendAddressList(dst, "Cc:", e.Cc)
}

// appendAddressList writes a field of addresses, or nothing if there are none (RFC 5322
// section 3.6.3 allows no empty list).
func appendAddressList(dst []byte, name string, list []string) ([]byte, error) {
	if len(list) == 0 {
		return dst, nil
	}
	lineStart := len(dst)
	dst = append(dst, name...)
	for i, address := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		before := len(dst)
		var err error
		if dst, err = appendAddress(dst, before-lineStart, address); err != nil {
			return nil, fmt.Errorf("recipient: %w", err)
		}
		if fold := bytes.LastIndexByte(dst[before:], '\n'); fold >= 0 {
			lineStart = before + fold + 1
		}
	}
	return append(dst, "\r\n"...), nil
}

// appendAddress writes a blank and an address, folding at blanks where the line would
// become longer than foldAt.
func appendAddress(dst []byte, column int, address string) ([]byte, error) {
	text, err := formatAddress(address)
	if err != nil {
		return nil, err
	}
	for text != "" {
		// A part ends before a blank. What begins with several blanks stays whole,
		// since a line of nothing but blanks is no longer allowed.
		n := 1
		for n < len(text) && !(text[n] == ' ' && text[n-1] != ' ') {
			n++
		}
		part := text[:n]
		text = text[n:]
		blank := 0
		if part[0] != ' ' {
			blank = 1
		}
		if column+blank+len(part) >= foldAt && column > 1 && !endsWithBlank(part) {
			dst = append(dst, "\r\n"...)
			column = 0
		}
		if blank == 1 {
			dst = append(dst, ' ')
		}
		dst = append(dst, part...)
		column += blank + len(part)
	}
	return dst, nil
}

func endsWithBlank(s string) bool { return s[len(s)-1] == ' ' }

// appendStandard writes the fields that any mail program understands.
func appendStandard(dst []byte, m *transport.Message) []byte {
	dst = appendLine(dst, "Subject", m.Name)
	dst = append(dst, "Date: "...)
	dst = m.Info.SourceTime.UTC().AppendFormat(dst, time.RFC1123Z)
	dst = append(dst, "\r\nMessage-ID: <"...)
	dst = append(dst, m.ID.String()...)
	dst = append(dst, ">\r\n"...)
	if m.InReplyTo.IsZero() {
		if m.Kind == transport.TopicMessage {
			dst = appendThread(dst, m.Name)
		}
		return append(dst, "Auto-Submitted: auto-generated\r\n"...)
	}
	request := m.InReplyTo.String()
	for _, name := range [...]string{"In-Reply-To: <", "References: <"} {
		dst = append(dst, name...)
		dst = append(dst, request...)
		dst = append(dst, ">\r\n"...)
	}
	return append(dst, "Auto-Submitted: auto-replied\r\n"...)
}

// appendThread makes a topic message part of the topic's thread: it refers to a mail that
// does not exist and that all messages of the topic, whoever publishes them, seem to come
// after. There is no In-Reply-To, because that makes an answer. The ID can't be taken for
// that of a message, and no host has this name (RFC 2606 section 2).
func appendThread(dst []byte, topic string) []byte {
	hash := sha256.Sum256([]byte(topic))
	dst = append(dst, "References: <topic."...)
	dst = hex.AppendEncode(dst, hash[:8])
	return append(dst, "@postbus.invalid>\r\n"...)
}

// appendMetadata writes the fields of package transport.
func appendMetadata(dst []byte, m *transport.Message) []byte {
	info := &m.Info
	dst = appendInt(dst, transport.HeaderSourceTimestamp, info.SourceTime.UnixNano())
	if !info.PublisherGID.IsZero() {
		dst = appendGID(dst, transport.HeaderPublisherGID, info.PublisherGID)
	}
	if info.Sequence != 0 {
		dst = appendUint(dst, transport.HeaderPublisherSequence, info.Sequence)
	}
	if !info.ClientGID.IsZero() {
		dst = appendGID(dst, transport.HeaderClientGID, info.ClientGID)
		dst = appendUint(dst, transport.HeaderRequestSequence, info.RequestSequence)
	}
	if !m.Deadline.IsZero() {
		dst = appendInt(dst, transport.HeaderDeadline, saturatedNano(m.Deadline))
	}
	if m.Error != nil {
		dst = appendInt(dst, transport.HeaderServiceError, int64(m.Error.Code))
	}
	return dst
}

// countable reports whether t, in nanoseconds since the Unix epoch, fits an int64.
func countable(t time.Time) bool { return time.Unix(0, t.UnixNano()).Equal(t) }

// saturatedNano returns t in nanoseconds since the Unix epoch, or the nearest number
// that there is.
func saturatedNano(t time.Time) int64 {
	switch {
	case countable(t):
		return t.UnixNano()
	case t.Unix() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

func appendLine(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

func appendGID(dst []byte, name string, g transport.GID) []byte {
	if g == g.Short() {
		return appendLine(dst, name, g.String()) // decimal
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = hex.AppendEncode(dst, g[:])
	return append(dst, "\r\n"...)
}

func appendInt(dst []byte, name string, n int64) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

func appendUint(dst []byte, name string, n uint64) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = strconv.AppendUint(dst, n, 10)
	return append(dst, "\r\n"...)
}
