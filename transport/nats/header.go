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

// slot is a field that most messages have: it has a place of its own in an envelope. First come those of
// all messages, then those of requests and answers.
type slot uint8

const (
	slotID slot = iota
	slotSourceTime
	slotPublisher
	slotSequence
	slotClient
	slotRequest
	slotDeadline
	slotInReplyTo
	slotSubject
	slots
)

var slotFields = [slots]string{
	headerID, transport.HeaderSourceTimestamp, transport.HeaderPublisherGID, transport.HeaderPublisherSequence,
	transport.HeaderClientGID, transport.HeaderRequestSequence, transport.HeaderDeadline, headerInReplyTo, headerSubject,
}

// envelope is what a message is made ready in, one after the other. The header keeps the fields of the slots that the last
// message had: the next one mostly has the same, and only their values change.
type envelope struct {
	msg     nats.Msg
	slots   [slots]string // values; those of msg.Header are slices of it
	present uint16        // the slots that are in msg.Header
	text    []byte        // of the values
	parts   []part        // of text

	fields []string // the other fields that are in msg.Header
	values []string // theirs, of which those of msg.Header are slices

	name, subject string // of the last message that was sent to a name
}

// part is a value that ends at that index of the text, where the next one begins.
type part struct {
	slot slot
	end  int
}

// usualFields is how many fields a message has at most, as a rule. Go's maps are much faster up to this size.
const usualFields = 8

// envelopes are those that have been used, by the kind of message that they were used for: the next of the kind has the same fields.
var envelopes [transport.ErrorResponse + 1]sync.Pool

func envelopesOf(kind transport.Kind) *sync.Pool {
	return &envelopes[min(kind, transport.ErrorResponse)] // others can't be sent
}

// envelopeFor returns an envelope for a message of a kind.
func envelopeFor(kind transport.Kind) *envelope {
	if e, ok := envelopesOf(kind).Get().(*envelope); ok {
		return e
	}
	return newEnvelope()
}

func newEnvelope() *envelope {
	return &envelope{
		msg:   nats.Msg{Header: make(nats.Header, usualFields)},
		text:  make([]byte, 0, 384),
		parts: make([]part, 0, slots),
	}
}

// release gives an envelope back, whose message has been written. It was of that kind.
func (e *envelope) release(kind transport.Kind) {
	if len(e.msg.Header) > usualFields {
		return // its map has grown for good
	}
	e.reset()
	envelopesOf(kind).Put(e)
}

// reset makes the envelope ready for the next message.
func (e *envelope) reset() {
	for _, field := range e.fields {
		delete(e.msg.Header, field)
	}
	clear(e.values)
	e.msg.Subject, e.msg.Reply, e.msg.Data = "", "", nil
	e.text, e.parts, e.fields, e.values = e.text[:0], e.parts[:0], e.fields[:0], e.values[:0]
}

// address makes a name the one that the message goes to.
func (e *envelope) address(name string) {
	if name != e.name {
		e.name, e.subject = name, Subject(name)
	}
	e.msg.Subject = e.subject
}

// set adds a field that has no slot.
func (e *envelope) set(field, value string) {
	e.fields = append(e.fields, field)
	e.values = append(e.values, value)
	n := len(e.values)
	e.msg.Header[field] = e.values[n-1 : n : n]
}

// fill fills a slot with what has been appended to e.text.
func (e *envelope) fill(s slot) { e.parts = append(e.parts, part{s, len(e.text)}) }

func (e *envelope) fillInt(s slot, n int64) {
	e.text = strconv.AppendInt(e.text, n, 10)
	e.fill(s)
}

func (e *envelope) fillUint(s slot, n uint64) {
	e.text = strconv.AppendUint(e.text, n, 10)
	e.fill(s)
}

func (e *envelope) fillGID(s slot, g transport.GID) {
	e.text, _ = g.AppendText(e.text) // it never fails
	e.fill(s)
}

// fillID fills a slot with an ID, and returns its text, which is valid until the next one is filled.
func (e *envelope) fillID(s slot, id transport.ID) []byte {
	start := len(e.text)
	e.text, _ = id.AppendText(e.text) // it never fails
	e.fill(s)
	return e.text[start:]
}

// finish makes the header have the slots that were filled, and no others.
func (e *envelope) finish() {
	text, start, filled := string(e.text), 0, uint16(0)
	for _, p := range e.parts {
		e.slots[p.slot] = text[start:p.end]
		start = p.end
		filled |= 1 << p.slot
	}
	if filled == e.present {
		return
	}
	for s := range slots { // first, so that the map does not grow
		if e.present&^filled&(1<<s) != 0 {
			delete(e.msg.Header, slotFields[s])
		}
	}
	for s := range slots {
		if filled&^e.present&(1<<s) != 0 {
			e.msg.Header[slotFields[s]] = e.slots[s : s+1 : s+1]
		}
	}
	e.present = filled
}

// write makes a message ready, but for its subjects. address is that of the carrier.
func (e *envelope) write(m *transport.Message, address string) error {
	if err := checkKind(m); err != nil {
		return err
	}
	e.msg.Data = m.Body
	id := e.fillID(slotID, m.ID)
	_, _, own := m.ID.Origin()
	if at := len(id) - len(address) - 1; at < 0 || id[at] != '@' || string(id[at+1:]) != address {
		e.set(headerFrom, address)
		own = false
	}
	if !own { // else there is nothing in it that could be wrong
		if err := validID(id); err != nil {
			return fmt.Errorf("the message's ID: %w", err)
		}
	}
	if !m.InReplyTo.IsZero() {
		if err := validID(e.fillID(slotInReplyTo, m.InReplyTo)); err != nil {
			return fmt.Errorf("the ID of the request that is answered: %w", err)
		}
	}
	if m.Kind == transport.Response || m.Kind == transport.ErrorResponse {
		e.text = append(e.text, m.Name...)
		e.fill(slotSubject)
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
		e.fillInt(slotSourceTime, nanoseconds(info.SourceTime))
	}
	if !info.PublisherGID.IsZero() {
		e.fillGID(slotPublisher, info.PublisherGID)
	}
	if info.Sequence != 0 {
		e.fillUint(slotSequence, info.Sequence)
	}
	if !info.ClientGID.IsZero() {
		e.fillGID(slotClient, info.ClientGID)
		e.fillUint(slotRequest, info.RequestSequence)
	}
	if !m.Deadline.IsZero() {
		e.fillInt(slotDeadline, nanoseconds(m.Deadline))
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
		e.set(transport.HeaderServiceError, strconv.Itoa(m.Error.Code))
		e.writeMicroError(m.Error)
	}
	for i, f := range m.Header {
		e.add(m.Header[:i], f)
	}
}

// writeMicroError makes the message an error for clients of micro services, too.
func (e *envelope) writeMicroError(err *transport.RemoteError) {
	e.set(micro.ErrorCodeHeader, strconv.Itoa(err.Code))
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
	const most = math.MaxInt64 / int64(time.Second)
	n, seconds := t.UnixNano(), t.Unix()
	switch {
	case -most < seconds && seconds < most, time.Unix(0, n).Equal(t):
		return n
	case seconds < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}
