package nats

import (
	"fmt"
	"math"
	"mime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/postbus/postbus/transport"
)

// The header fields of messages besides those that package transport names. Case matters in NATS: they are
// read as they are written here.
const (
	headerID          = "Message-ID"
	headerInReplyTo   = "In-Reply-To"
	headerFrom        = "From"    // if it is not what follows the @ of the Message-ID
	headerSubject     = "Subject" // of answers, which come to an inbox: the name of the service
	headerContentType = "Content-Type"
	headerDisposition = "Content-Disposition"
	headerReplyTo     = "Reply-To" // of requests that a stream keeps: where the answer is wanted
	headerDedup       = nats.MsgIdHdr
	headerStatus      = "Status"
)

// The limits of what is read.
const (
	maxID          = 900  // bytes, as in mails
	maxDisposition = 2048 // bytes
)

// codeError is the code of an error of a micro service that is no number: that of HTTP for a server's.
const codeError = 500

// envelope is what a message is made ready in. The header and its values are used again.
type envelope struct {
	msg    nats.Msg
	values []string // those of msg.Header are slices of it
	text   []byte   // of the values that are made here
	parts  []part   // of text
}

// part is a value that ends at that index of the text, where the next one begins.
type part struct {
	field string
	end   int
}

// usualFields is how many fields a message has at most, as a rule. Go's maps are much faster up to this size.
const usualFields = 8

var envelopes = sync.Pool{New: func() any { return newEnvelope() }}

func newEnvelope() *envelope {
	return &envelope{
		msg:    nats.Msg{Header: make(nats.Header, usualFields)},
		values: make([]string, 0, 16),
		text:   make([]byte, 0, 384),
		parts:  make([]part, 0, 8),
	}
}

// release gives an envelope back, whose message has been written.
func (e *envelope) release() {
	if len(e.msg.Header) > usualFields {
		return // its map has grown for good
	}
	clear(e.msg.Header)
	clear(e.values)
	e.msg.Subject, e.msg.Reply, e.msg.Data = "", "", nil
	e.values, e.text, e.parts = e.values[:0], e.text[:0], e.parts[:0]
	envelopes.Put(e)
}

// set adds a field.
func (e *envelope) set(field, value string) {
	e.values = append(e.values, value)
	n := len(e.values)
	e.msg.Header[field] = e.values[n-1 : n : n]
}

// made adds a field whose value has been appended to e.text.
func (e *envelope) made(field string) { e.parts = append(e.parts, part{field, len(e.text)}) }

func (e *envelope) setInt(field string, n int64) {
	e.text = strconv.AppendInt(e.text, n, 10)
	e.made(field)
}

func (e *envelope) setUint(field string, n uint64) {
	e.text = strconv.AppendUint(e.text, n, 10)
	e.made(field)
}

func (e *envelope) setGID(field string, g transport.GID) {
	e.text, _ = g.AppendText(e.text) // it never fails
	e.made(field)
}

// setID adds an ID, and returns its text, which is valid until the next field is added.
func (e *envelope) setID(field string, id transport.ID) ([]byte, error) {
	start := len(e.text)
	e.text, _ = id.AppendText(e.text) // it never fails
	e.made(field)
	return e.text[start:], validID(e.text[start:])
}

// finish adds the fields that were made.
func (e *envelope) finish() {
	text, start := string(e.text), 0
	for _, p := range e.parts {
		e.set(p.field, text[start:p.end])
		start = p.end
	}
}

// write makes a message ready, but for its subjects. address is that of the carrier.
func (e *envelope) write(m *transport.Message, address string) error {
	if err := checkKind(m); err != nil {
		return err
	}
	e.msg.Data = m.Body
	id, err := e.setID(headerID, m.ID)
	if err != nil {
		return fmt.Errorf("the message's ID: %w", err)
	}
	if at := len(id) - len(address) - 1; at < 0 || id[at] != '@' || string(id[at+1:]) != address {
		e.set(headerFrom, address)
	}
	if !m.InReplyTo.IsZero() {
		if _, err := e.setID(headerInReplyTo, m.InReplyTo); err != nil {
			return fmt.Errorf("the ID of the request that is answered: %w", err)
		}
	}
	e.writeInfo(m)
	e.writeContent(m)
	e.finish()
	return nil
}

// writeInfo adds the fields of package transport.
func (e *envelope) writeInfo(m *transport.Message) {
	info := &m.Info
	if !info.SourceTime.IsZero() {
		e.setInt(transport.HeaderSourceTimestamp, nanoseconds(info.SourceTime))
	}
	if !info.PublisherGID.IsZero() {
		e.setGID(transport.HeaderPublisherGID, info.PublisherGID)
	}
	if info.Sequence != 0 {
		e.setUint(transport.HeaderPublisherSequence, info.Sequence)
	}
	if !info.ClientGID.IsZero() {
		e.setGID(transport.HeaderClientGID, info.ClientGID)
		e.setUint(transport.HeaderRequestSequence, info.RequestSequence)
	}
	if !m.Deadline.IsZero() {
		e.setInt(transport.HeaderDeadline, nanoseconds(m.Deadline))
	}
}

// writeContent adds what is said about the body, the error, and the application's fields.
func (e *envelope) writeContent(m *transport.Message) {
	if m.ContentType != "" {
		e.set(headerContentType, m.ContentType)
	}
	if m.Filename != "" {
		e.set(headerDisposition, mime.FormatMediaType("attachment", map[string]string{"filename": m.Filename}))
	}
	if m.Error != nil {
		e.setInt(transport.HeaderServiceError, int64(m.Error.Code))
		e.writeMicroError(m.Error)
	}
	for i, f := range m.Header {
		e.add(m.Header[:i], f)
	}
}

// writeMicroError makes the message an error for clients of micro services, too.
func (e *envelope) writeMicroError(err *transport.RemoteError) {
	e.setInt(micro.ErrorCodeHeader, int64(err.Code))
	e.set(micro.ErrorHeader, oneLine(err.Text))
	e.msg.Data = []byte(err.Text)
}

// oneLine returns what of a text fits into a header field. Clients of micro services take an empty one
// for no error.
func oneLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	line = strings.TrimSpace(line)
	if line == "" {
		return "error"
	}
	return line
}

// add adds a field of the application. Those before it may have the same name in another case, which
// NATS would take for another one.
func (e *envelope) add(before transport.Header, f transport.Field) {
	for _, b := range before {
		if strings.EqualFold(b.Name, f.Name) {
			name := escapeField(b.Name)
			e.msg.Header[name] = append(e.msg.Header[name], f.Value)
			return
		}
	}
	e.set(escapeField(f.Name), f.Value)
}

// fieldEscapes are the bytes of names of fields that NATS does not allow, and "%".
const fieldEscapes = "\"()/,;<=>?@[\\]{}%"

// escapeField returns the name of a field as NATS allows it: other bytes as "%" and two digits.
func escapeField(name string) string {
	if !strings.ContainsAny(name, fieldEscapes) {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		if strings.IndexByte(fieldEscapes, name[i]) < 0 {
			b.WriteByte(name[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", name[i])
		}
	}
	return b.String()
}

// unescapeField undoes escapeField, and leaves alone what is not of its making.
func unescapeField(name string) string {
	if !strings.Contains(name, "%") {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '%' && i+2 < len(name) {
			n, err := strconv.ParseUint(name[i+1:i+3], 16, 8)
			if err == nil && strings.IndexByte(fieldEscapes, byte(n)) >= 0 {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// checkKind refuses a message whose metadata says something else than its kind.
func checkKind(m *transport.Message) error {
	switch m.Kind {
	case transport.TopicMessage:
		if !m.InReplyTo.IsZero() || !m.Info.ClientGID.IsZero() {
			return fmt.Errorf("%w: a topic message can't have a client GID or answer anything", transport.ErrInvalidKind)
		}
	case transport.Request:
		if !m.InReplyTo.IsZero() || m.Info.ClientGID.IsZero() {
			return fmt.Errorf("%w: a request needs a client GID and can't answer anything", transport.ErrInvalidKind)
		}
	case transport.Response:
	case transport.ErrorResponse:
		if m.Error == nil || len(m.Body) > 0 {
			return fmt.Errorf("%w: an error response needs an error and no body", transport.ErrInvalidKind)
		}
	default:
		return fmt.Errorf("%w: a message of %s can't be sent", transport.ErrInvalidKind, m.Kind)
	}
	return nil
}

// validID checks that a Message-ID is printable ASCII without blanks and angle brackets, as in mails.
func validID[T string | []byte](id T) error {
	if len(id) == 0 || len(id) > maxID {
		return fmt.Errorf("it has %d bytes, 1 to %d are allowed", len(id), maxID)
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			return fmt.Errorf("byte %q at index %d is not allowed", c, i)
		}
	}
	return nil
}

// nanoseconds returns t in nanoseconds since the Unix epoch, or the nearest number that there is.
func nanoseconds(t time.Time) int64 {
	n := t.UnixNano()
	switch {
	case time.Unix(0, n).Equal(t):
		return n
	case t.Unix() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}
