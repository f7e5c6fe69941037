package wire

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/postbus/postbus/transport"
)

// isBatch reports whether the mail holds several messages: it says how many, and is the
// kind of multipart that is made for that.
func (h *header) isBatch() bool {
	return h.has(fieldCount) && h.has(fieldContentType) && isDigest(unfold(h.values[fieldContentType]))
}

func isDigest(contentType []byte) bool {
	kind, _, _ := bytes.Cut(contentType, []byte(";"))
	return bytes.EqualFold(trim(kind), []byte("multipart/digest"))
}

// DecodeBatch reads a mail that holds several messages, as Batch makes it: Decode gives
// ErrBatch for it. The messages come in the order in which they were added. They share no memory
// with raw, but From, ReplyTo and To, which are those of the mail, with each other.
//
// A message that is damaged costs no other: in its place comes an error. If the mail does not
// hold as many messages as it says, an error for those that are missing comes last. So the same mail
// always gives the same number of messages and errors, at most MaxBatch and one, and each is
// at the same place. These errors wrap ErrMalformed.
//
// The mail may be cut off anywhere behind its header section: what is whole is read. The error of
// DecodeBatch itself wraps ErrForeign for what is no batch, and ErrMalformed for one of which no
// message can be read.
func DecodeBatch(raw []byte) (iter.Seq2[*transport.Message, error], error) {
	var h header
	body, ended, err := scan(raw, &h)
	if err != nil {
		return nil, err
	}
	if !h.isBatch() {
		return nil, foreign("it is no batch of messages")
	}
	if h.duplicate != knownFields {
		return nil, malformed("more than one %s field", fieldNames[h.duplicate])
	}
	var around transport.Message
	h.readAddresses(&around)
	b := &batchReader{from: around.From, replyTo: around.ReplyTo, to: slices.Clip(around.To)}
	if err := b.readCount(unfold(h.values[fieldCount])); err != nil {
		return nil, err
	}
	boundary := param(unfold(h.values[fieldContentType]), "boundary")
	if len(boundary) == 0 || len(boundary) > maxBoundary {
		return nil, malformed("the %s of the batch has no boundary of 1 to %d bytes", fieldNames[fieldContentType], maxBoundary)
	}
	b.delimiter = append([]byte("\n--"), boundary...)
	if !ended {
		return nil, malformed("the batch ends within its header section")
	}
	b.body = raw[len(raw)-len(body)-1:] // with the line ending before it
	return b.messages, nil
}

// batchReader reads the parts of a batch.
type batchReader struct {
	from, replyTo string
	to            []string
	host          string // of the IDs that are not written
	count         int    // of messages, as the mail says
	delimiter     []byte // with the line ending before it
	body          []byte // of the mail, with a line ending in front
}

// readCount reads the field that says how many messages there are, and where from.
func (b *batchReader) readCount(value []byte) (err error) {
	digits, host, ok := bytes.Cut(value, []byte(";"))
	host, ok2 := bytes.CutPrefix(trim(host), []byte("host="))
	b.count, err = strconv.Atoi(string(trim(digits)))
	if !ok || !ok2 || err != nil || b.count < 1 || validID(host) != nil || len(host) > maxHost {
		return malformed("%s is %.40q", headerCount, value)
	}
	b.host = string(host)
	return nil
}

// messages yields the message, or the error, of each part.
func (b *batchReader) messages(yield func(*transport.Message, error) bool) {
	var h header
	n := 0
	_, rest, last := b.cut(b.body)
	for rest != nil && !last {
		var part []byte
		if part, rest, last = b.cut(rest); rest == nil {
			break // there is no telling whether it is whole
		}
		part, ok := partContent(part)
		if !ok {
			continue
		}
		if n == MaxBatch {
			yield(nil, malformed("the batch has more than %d messages", MaxBatch))
			return
		}
		m, err := b.decode(&h, part)
		if err != nil {
			err = fmt.Errorf("%w: part %d of the batch: %v", ErrMalformed, n, err)
		}
		if n++; !yield(m, err) {
			return
		}
	}
	if n < b.count {
		yield(nil, malformed("of %d messages of the batch %d are missing", b.count, b.count-n))
	}
}

// cut divides text, which begins with the line ending before it, at the first delimiter.
// before is without that line ending, but with the one before the delimiter: so a part is read like a
// whole mail, to which servers add one. after begins with the line ending of the delimiter, and is nil if there is no
// delimiter; last says that it is the one that ends the batch.
func (b *batchReader) cut(text []byte) (before, after []byte, last bool) {
	for from := 0; ; {
		i := bytes.Index(text[from:], b.delimiter)
		if i < 0 {
			return text[1:], nil, false
		}
		at := from + i
		from = at + len(b.delimiter)
		end := len(text)
		if i := bytes.IndexByte(text[from:], '\n'); i >= 0 {
			end = from + i
		}
		tail, last := bytes.CutPrefix(text[from:end], []byte("--"))
		if len(trim(tail)) == 0 && (last || end < len(text)) {
			return text[1:max(1, at+1)], text[end:], last
		}
	}
}

// partContent returns the mail that a part is, without the part's own header section, which is
// empty in those that Batch writes. ok is false for what is no mail: lists add texts.
func partContent(part []byte) (content []byte, ok bool) {
	if end, next := lineEnd(part, 0); end == 0 && next > 0 {
		return part[next:], true
	}
	fields, content, _ := readFields(part)
	return content, !fields.has("Content-Type") || fields.mediaType() == "message/rfc822"
}

// decode reads one part.
func (b *batchReader) decode(h *header, part []byte) (*transport.Message, error) {
	*h = header{others: h.others[:0], name: h.name, publisher: h.publisher, gid: h.gid}
	m, err := h.decode(part, h.metadata)
	if err != nil {
		return nil, err
	}
	h.name, h.publisher, h.gid = m.Name, h.values[fieldPublisherGID], m.Info.PublisherGID
	m.From, m.ReplyTo, m.To = b.from, b.replyTo, b.to
	if !h.has(fieldMessageID) {
		m.ID = usualID(m, b.host)
	}
	if m.ID.IsZero() {
		return nil, malformed("it has neither %s nor %s", fieldNames[fieldMessageID], transport.HeaderPublisherGID)
	}
	return m, nil
}
