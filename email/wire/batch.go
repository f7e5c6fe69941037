package wire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postbus/postbus/transport"
)

// MaxBatch is the most messages of one mail. What is beyond is neither written nor read.
const MaxBatch = 4096

// ErrBatchFull is wrapped by the errors of Batch.Add when there is no room for the message.
var ErrBatchFull = errors.New("the batch is full")

const (
	// boundary separates the messages. No line of a header section can begin with it after
	// the hyphens: a name of a field ends at the colon, and a blank follows. Quoted-printable
	// can't make it either (RFC 2045 section 6.8 proposes such a thing). A payload that holds it
	// is encoded.
	boundary  = "=:postbus"
	delimiter = "--" + boundary
)

// maxHost is the longest host of a batch. No ID that is made of it is longer than MaxID.
const maxHost = MaxID - len("18446744073709551615.00000000000000000000000000000000@")

// subjectWidth is how long the names in the subject of a batch may get, in bytes, before
// the others are left out. The first is always there.
const subjectWidth = 60

// Batch is a mail of several messages that is being written: add the messages, then take
// the mail. It belongs to one goroutine.
type Batch struct {
	id    transport.ID
	host  string // of the ID, and of the messages' IDs that need not be written
	limit int

	addresses []byte
	mail      []byte    // what is written, after room for the header section
	room      int       // for the header section
	count     int       // of messages
	since     time.Time // when the first message was published
	names     []string  // those in the subject
	others    bool      // there are more names
	topic     bool      // all are messages of the topic names[0]
}

// NewBatch begins a batch with an ID of its own, which must have been made by
// transport.NewID, addressed as the envelope says. limit is the most bytes that the mail may
// have, which the first message may exceed; 0 is no limit.
//
// The messages' IDs need not be written, and make the mail shorter, if they have the host of id.
func NewBatch(id transport.ID, e Envelope, limit int) (*Batch, error) {
	if _, _, ok := id.Origin(); !ok {
		return nil, fmt.Errorf("encode batch: its ID %.80q is not made of a GID and a number", id)
	}
	if err := validID(id.String()); err != nil {
		return nil, fmt.Errorf("encode batch: its ID: %w", err)
	}
	b := &Batch{id: id, limit: limit}
	if _, b.host, _ = strings.Cut(id.String(), "@"); len(b.host) > maxHost {
		return nil, fmt.Errorf("encode batch: the host of its ID has %d bytes, at most %d are allowed", len(b.host), maxHost)
	}
	var err error
	if b.addresses, err = appendAddresses(nil, e); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	const fields = 420 // all but addresses, names and hosts
	b.room = fields + len(b.addresses) + transport.MaxName + subjectWidth + 2*len(b.host)
	if b.room > MaxHeaderBytesWritten {
		return nil, fmt.Errorf("encode batch: %w: its header section may have %d bytes, at most %d are allowed",
			transport.ErrTooLarge, b.room, MaxHeaderBytesWritten)
	}
	b.mail = make([]byte, b.room, b.room+1024)
	return b, nil
}

// Add appends a message. It has the errors of Encode, and ErrBatchFull if the mail would get
// longer than its limit or have more than MaxBatch messages; the batch is as it was then. Of the message
// nothing is kept.
func (b *Batch) Add(m *transport.Message) error {
	if b.count == MaxBatch {
		return fmt.Errorf("encode batch: %w: it has %d messages", ErrBatchFull, MaxBatch)
	}
	mail, err := b.appendPart(m)
	if err == nil && b.isFull(len(mail)) {
		err = b.full()
	}
	if err != nil {
		return fmt.Errorf("encode batch: %w", err)
	}
	b.mail = mail
	b.note(m)
	return nil
}

// Grow makes room for so many bytes, as those of a bytes.Buffer.
func (b *Batch) Grow(bytes int) { b.mail = slices.Grow(b.mail, bytes) }

// isFull reports whether the mail gets too long with a message that makes it so long.
func (b *Batch) isFull(size int) bool { return b.limit > 0 && b.count > 0 && size+endSize > b.limit }

func (b *Batch) full() error {
	return fmt.Errorf("%w: it has %d messages, and the limit for the mail is %d bytes", ErrBatchFull, b.count, b.limit)
}

// note keeps what the header section says about the messages.
func (b *Batch) note(m *transport.Message) {
	if b.count++; b.count == 1 {
		b.since = m.Info.SourceTime
		b.names = append(b.names, m.Name)
		b.topic = m.Kind == transport.TopicMessage
		return
	}
	b.topic = b.topic && m.Kind == transport.TopicMessage && m.Name == b.names[0]
	width := 0
	for _, name := range b.names {
		if name == m.Name {
			return
		}
		width += len(name) + len(", ")
	}
	if b.others = b.others || width+len(m.Name) > subjectWidth; !b.others {
		b.names = append(b.names, m.Name)
	}
}

// Len returns the number of messages.
func (b *Batch) Len() int { return b.count }

// Size returns the most bytes that the mail has: it may be some hundred less.
func (b *Batch) Size() int { return len(b.mail) + endSize }

// endSize is the length of the last line.
const endSize = len(delimiter + "--\r\n")

// Mail returns the mail, as Encode does. There must be a message in it, and there can't be more
// after it: the mail is the batch's memory.
func (b *Batch) Mail() []byte {
	head := b.appendHead(make([]byte, 0, b.room))
	start := b.room - len(head)
	copy(b.mail[start:], head)
	return append(b.mail[start:], delimiter+"--\r\n"...)
}

// appendHead writes the header section.
func (b *Batch) appendHead(dst []byte) []byte {
	dst = append(dst, b.addresses...)
	dst = append(dst, "Subject: "...)
	dst = strconv.AppendInt(dst, int64(b.count), 10)
	dst = append(dst, " messages: "...)
	for i, name := range b.names {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, name...)
	}
	if b.others {
		dst = append(dst, ", ..."...)
	}
	dst = append(dst, "\r\nDate: "...)
	dst = b.since.UTC().AppendFormat(dst, time.RFC1123Z)
	dst = append(dst, "\r\nMessage-ID: <"...)
	dst = append(dst, b.id.String()...)
	dst = append(dst, ">\r\n"...)
	if b.topic {
		dst = appendThread(dst, b.names[0])
	}
	dst = append(dst, "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: multipart/digest; boundary=\""+boundary+"\"\r\n"+headerCount+": "...)
	dst = strconv.AppendInt(dst, int64(b.count), 10)
	dst = append(dst, "; host="...)
	dst = append(dst, b.host...)
	return append(dst, "\r\n\r\n"...)
}

// appendPart writes a message as the next part: without what the mail around it says.
func (b *Batch) appendPart(m *transport.Message) ([]byte, error) {
	if err := checkContent(m); err != nil {
		return nil, err
	}
	p := planBody(m)
	if p.plain && bytes.Contains(p.payload, []byte(delimiter)) {
		p.encode()
	}
	dst := b.mail
	size := p.size + len(m.Name)
	if b.isFull(len(dst) + size) {
		return nil, b.full() // before there is made room for it in vain
	}
	if size += usualFields; cap(dst)-len(dst) < size {
		more := len(dst) // append would grow by less, and copy more
		if b.limit > 0 {
			more = min(more, b.limit-len(dst))
		}
		dst = slices.Grow(dst, max(size, more))
	}
	dst = append(dst, delimiter+"\r\n\r\n"...)
	dst = appendLine(dst, "Subject", m.Name)
	if m.ID != usualID(m, b.host) {
		id := m.ID.String()
		if err := validID(id); err != nil {
			return nil, fmt.Errorf("the message's ID: %w", err)
		}
		dst = append(dst, "Message-ID: <"...)
		dst = append(dst, id...)
		dst = append(dst, ">\r\n"...)
	}
	if !m.InReplyTo.IsZero() {
		dst = append(dst, "In-Reply-To: <"...)
		dst = append(dst, m.InReplyTo.String()...)
		dst = append(dst, ">\r\n"...)
	}
	dst = appendMetadata(dst, m)
	for _, f := range m.Header {
		dst = appendField(dst, f)
	}
	if p.plain && m.ContentType == "" { // RFC 2045 section 5.2 has these for defaults
		dst = p.ending.appendField(dst)
	} else {
		dst = p.appendFields(dst, m.ContentType)
	}
	dst = append(dst, "\r\n"...)
	if n := len(dst) - len(b.mail); n > MaxHeaderBytesWritten {
		return nil, fmt.Errorf("%w: the header section of a message has %d bytes, at most %d are allowed", transport.ErrTooLarge, n, MaxHeaderBytesWritten)
	}
	return p.appendBody(dst), nil
}

// usualFields is how long the header section of a message in a batch is, but for its name.
const usualFields = 320

// usualID returns the ID that a message without Message-ID has in a batch from host, or
// the zero ID if it can't tell.
func usualID(m *transport.Message, host string) transport.ID {
	if m.Info.PublisherGID.IsZero() {
		return transport.ID{}
	}
	return transport.NewID(m.Info.PublisherGID, m.Info.Sequence, host)
}
