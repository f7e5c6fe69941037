package wire

import (
	"bytes"
	"math"
	"net/mail"
	"strconv"
	"time"

	"github.com/postbus/postbus/transport"
)

// Decode reads a whole mail. The message shares no memory with raw. Line endings may be
// CRLF or LF.
//
// From is the bare address of the From field, ReplyTo that of Reply-To or else From, To
// the bare addresses of the To field; SourceTime is in UTC, and ReceivedTime is left
// to the caller. Fields that are neither the format's nor reserved become Header.
//
// Errors wrap ErrForeign or ErrMalformed; they say why in a bounded number of printable
// characters. For a mail of several messages, which DecodeBatch reads, the error is ErrBatch.
func Decode(raw []byte) (*transport.Message, error) {
	var h header
	return h.decode(raw, h.message)
}

// decode reads a mail, or a part of one. message makes a message of the header that has been read.
func (h *header) decode(raw []byte, message func() (*transport.Message, error)) (*transport.Message, error) {
	rest, _, err := scan(raw, h)
	if err != nil {
		return nil, err
	}
	m, err := message()
	if err != nil {
		return nil, err
	}
	body, err := h.body(rest)
	if err != nil {
		return nil, err
	}
	setPayload(m, body)
	return m, nil
}

// setPayload puts the payload where the kind of message has it.
func setPayload(m *transport.Message, payload []byte) {
	if m.Kind == transport.ErrorResponse {
		m.Error.Text = string(payload)
	} else {
		m.Body = payload
	}
}

// DecodeHeader reads the header section of a mail of which only the beginning is given,
// and returns the message without its body (for an ErrorResponse, without the text).
// MaxHeaderBytes bytes are always enough; if the header section does not end in what
// is given, the mail counts as foreign. Its errors are those of Decode.
func DecodeHeader(raw []byte) (*transport.Message, error) {
	var h header
	_, ended, err := scan(raw, &h)
	if err != nil {
		return nil, err
	}
	if !ended {
		return nil, foreign("its header section does not end within %d bytes", len(raw))
	}
	return h.message()
}

// message assembles the message without its body.
func (h *header) message() (*transport.Message, error) {
	if h.isBatch() {
		return nil, ErrBatch
	}
	m, err := h.metadata()
	if err != nil {
		return nil, err
	}
	h.readAddresses(m)
	return m, nil
}

// metadata assembles the message without addresses and body.
func (h *header) metadata() (*transport.Message, error) {
	if !h.has(fieldSourceTimestamp) && !h.has(fieldPublisherGID) && !h.has(fieldClientGID) && !h.has(fieldServiceError) {
		return nil, foreign("it has none of our header fields")
	}
	m := &transport.Message{Name: h.name}
	if subject := unfold(h.values[fieldSubject]); string(subject) != h.name {
		m.Name = string(subject)
	}
	if m.Name == "" || m.Name != h.name {
		if err := transport.ValidateName(m.Name); err != nil {
			return nil, foreign("its subject is not a name: %v", err)
		}
	}
	contentType, err := h.contentType()
	if err != nil {
		return nil, err
	}
	if h.duplicate != knownFields {
		return nil, malformed("more than one %s field", fieldNames[h.duplicate])
	}
	m.ContentType = contentType
	for _, step := range [...]func(*transport.Message) error{h.readInfo, h.readIDs, h.readKind} {
		if err := step(m); err != nil {
			return nil, err
		}
	}
	if m.Kind != transport.ErrorResponse { // the text of an error is no file, whatever it is called
		if m.Filename, err = h.filename(); err != nil {
			return nil, err
		}
	}
	m.Header = h.application()
	return m, nil
}

// readInfo reads times, GIDs and numbers.
func (h *header) readInfo(m *transport.Message) (err error) {
	info := &m.Info
	if info.SourceTime, err = h.time(fieldSourceTimestamp); err != nil {
		return err
	}
	if info.SourceTime.IsZero() && h.has(fieldDate) {
		if date, err := mail.ParseDate(string(unfold(h.values[fieldDate]))); err == nil && countable(date) {
			info.SourceTime = date.UTC()
		}
	}
	if m.Deadline, err = h.time(fieldDeadline); err != nil {
		return err
	}
	if text := h.values[fieldPublisherGID]; len(text) > 0 && bytes.Equal(text, h.publisher) {
		info.PublisherGID = h.gid
	} else if info.PublisherGID, err = h.readGID(fieldPublisherGID); err != nil {
		return err
	}
	if info.ClientGID, err = h.readGID(fieldClientGID); err != nil {
		return err
	}
	if info.Sequence, err = h.sequence(fieldPublisherSequence); err != nil {
		return err
	}
	info.RequestSequence, err = h.sequence(fieldRequestSequence)
	return err
}

// readIDs reads Message-ID and, for what may be an answer, what it answers.
func (h *header) readIDs(m *transport.Message) error {
	if h.has(fieldMessageID) {
		id := trimBrackets(unfold(h.values[fieldMessageID]))
		if err := validID(id); err != nil {
			return malformed("Message-ID: %v", err)
		}
		m.ID = transport.ParseID(string(id))
	}
	m.InReplyTo = pickID(unfold(h.values[fieldInReplyTo]), true)
	if m.InReplyTo.IsZero() && len(h.values[fieldInReplyTo]) > 0 {
		return malformed("In-Reply-To holds no usable ID") // or an answer would pass for a request
	}
	if m.InReplyTo.IsZero() && (h.has(fieldClientGID) || h.has(fieldServiceError)) {
		// Some mail programs keep only References. A topic message may have them
		// too, to be shown as part of a thread; it answers nothing.
		m.InReplyTo = pickID(unfold(h.values[fieldReferences]), false)
	}
	return nil
}

// readKind tells what the message is for from the fields that it has.
func (h *header) readKind(m *transport.Message) error {
	answer, client := !m.InReplyTo.IsZero(), h.has(fieldClientGID)
	if client != h.has(fieldRequestSequence) {
		return malformed("%s and %s must come together", transport.HeaderClientGID, transport.HeaderRequestSequence)
	}
	switch {
	case h.has(fieldServiceError):
		if !answer {
			return malformed("it has %s but answers no request", transport.HeaderServiceError)
		}
		code, ok := parseInt(h.values[fieldServiceError])
		if !ok || code < math.MinInt32 || code > math.MaxInt32 {
			return malformed("%s is %.40q, not a 32-bit decimal number", transport.HeaderServiceError, h.values[fieldServiceError])
		}
		m.Kind = transport.ErrorResponse
		m.Error = &transport.RemoteError{Code: int(code)}
	case answer:
		m.Kind = transport.Response
	case client:
		m.Kind = transport.Request
	default:
		m.Kind = transport.TopicMessage
	}
	if contradicts(m) {
		return malformed("%s and %s contradict each other", fieldNames[fieldInReplyTo], transport.HeaderClientGID)
	}
	return nil
}

// contradicts reports whether an answer names one call in its metadata and another in
// its In-Reply-To.
func contradicts(m *transport.Message) bool {
	if m.InReplyTo.IsZero() || m.Info.ClientGID.IsZero() {
		return false
	}
	_, _, ok := m.Caller()
	return !ok
}

// time reads nanoseconds since the Unix epoch; an absent field is the zero time.
func (h *header) time(f field) (time.Time, error) {
	if !h.has(f) {
		return time.Time{}, nil
	}
	ns, ok := parseInt(h.values[f])
	if !ok {
		return time.Time{}, malformed("%s is %.40q, not a number of nanoseconds", fieldNames[f], h.values[f])
	}
	return time.Unix(0, ns).UTC(), nil
}

// readGID reads a GID; an absent field is the zero GID, which itself is not allowed.
func (h *header) readGID(f field) (transport.GID, error) {
	if !h.has(f) {
		return transport.GID{}, nil
	}
	g, err := transport.ParseGID(string(h.values[f]))
	if err != nil || g.IsZero() {
		return transport.GID{}, malformed("%s is %.40q, not a GID", fieldNames[f], h.values[f])
	}
	return g, nil
}

// sequence reads a number of a message; an absent field is 0.
func (h *header) sequence(f field) (uint64, error) {
	if !h.has(f) {
		return 0, nil
	}
	v := h.values[f]
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil {
		return 0, malformed("%s is %.40q, not a decimal number", fieldNames[f], v)
	}
	return n, nil
}

// parseInt reads a decimal number as the format has it: strconv also takes a plus sign.
func parseInt(b []byte) (int64, bool) {
	if len(b) == 0 || b[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

// pickID chooses from the Message-IDs of In-Reply-To or References the last that has the
// form of ours or, if none has and foreign ones are acceptable, the first. IDs that
// could not be written again are passed over.
func pickID(value []byte, acceptForeign bool) (picked transport.ID) {
	if len(value) == 0 {
		return picked
	}
	if acceptForeign && bytes.IndexByte(value, '<') < 0 && validID(value) == nil {
		return transport.ParseID(string(value)) // without brackets
	}
	for {
		_, after, ok := bytes.Cut(value, []byte("<"))
		if !ok {
			return picked
		}
		var text []byte
		if text, value, ok = bytes.Cut(after, []byte(">")); !ok {
			return picked
		}
		if validID(text) != nil {
			continue
		}
		id := transport.ParseID(string(text))
		if _, _, ours := id.Origin(); ours || acceptForeign && picked.IsZero() {
			picked = id
		}
	}
}

func trimBrackets(id []byte) []byte {
	if len(id) >= 2 && id[0] == '<' && id[len(id)-1] == '>' {
		return id[1 : len(id)-1]
	}
	return id
}
