package nats

import (
	"cmp"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// read returns the message that a header and body are, without its name, and whether it is
// one of postbus: that of another program has none of the fields that tell. A field that can't be read
// counts as absent, and its kind is told as in mails: what replies to something is an answer, what has a client
// a request, and all else a topic message.
func read(header nats.Header, body []byte) (m *transport.Message, ours bool) {
	m = &transport.Message{Kind: transport.TopicMessage, Body: body}
	var code *int
	if readSlots(m, header) < len(header) {
		for field, values := range header {
			if len(values) > 0 && !slices.Contains(slotFields[:], field) && !readField(m, &code, field, values[0]) && !transport.ReservedHeader(field) {
				readOwn(m, field, values)
			}
		}
	}
	ours = !m.Info.SourceTime.IsZero() || !m.Info.PublisherGID.IsZero() || !m.Info.ClientGID.IsZero() || code != nil
	if m.ID.IsZero() {
		m.ID = parseID(first(header, headerDedup))
	}
	if !ours {
		m.Deadline = time.Time{} // what others mean by it is not known
	}
	switch {
	case code != nil:
		m.Kind = transport.ErrorResponse
		m.Error = &transport.RemoteError{Code: *code, Text: errorText(string(body))}
		m.Body, m.Filename = nil, ""
	case !m.InReplyTo.IsZero():
		m.Kind = transport.Response
	case !m.Info.ClientGID.IsZero():
		m.Kind = transport.Request
	}
	if len(m.Header) > 1 {
		m.Header = sorted(m.Header)
	}
	return m, ours
}

// keyOf is order.KeyOf, or the zero Key for a message that only an ID for streams tells from others: when the stream has forgotten that it
// may be another's.
func keyOf(m *transport.Message, header nats.Header) order.Key {
	key := order.KeyOf(m)
	if key.Publisher.IsZero() && len(header[headerID]) == 0 {
		return order.Key{}
	}
	return key
}

// readSlots reads the fields that most messages have, and returns how many there are. To look for them takes half as
// long as to go through the map.
func readSlots(m *transport.Message, header nats.Header) (found int) {
	for s, field := range slotFields {
		if found == len(header) {
			break
		}
		values := header[field]
		if len(values) == 0 {
			continue
		}
		found++
		switch value := values[0]; slot(s) {
		case slotID:
			m.ID = parseID(value)
			if at := strings.LastIndexByte(value, '@'); at > 0 && !m.ID.IsZero() {
				m.From = strings.TrimRight(value[at+1:], "> ")
			}
		case slotSourceTime:
			m.Info.SourceTime = readTime(value)
		case slotPublisher:
			m.Info.PublisherGID, _ = transport.ParseGID(value)
		case slotSequence:
			m.Info.Sequence = readCount(value)
		case slotClient:
			m.Info.ClientGID, _ = transport.ParseGID(value)
		case slotRequest:
			m.Info.RequestSequence = readCount(value)
		case slotDeadline:
			m.Deadline = readTime(value)
		case slotInReplyTo:
			m.InReplyTo = parseID(value)
		case slotSubject:
			if transport.ValidateName(value) == nil {
				m.Name = value
			}
		}
	}
	return found
}

// readField reads another field of our own, and returns false if it is none.
func readField(m *transport.Message, code **int, field, value string) bool {
	switch field {
	case headerFrom:
		if validID(value) == nil {
			m.From = value
		}
	case headerContentType:
		if transport.ValidateContentType(value) == nil {
			m.ContentType = value
		}
	case headerDisposition:
		m.Filename = readFilename(value)
	case transport.HeaderServiceError:
		if n, err := strconv.ParseInt(value, 10, 32); err == nil {
			c := int(n)
			*code = &c
		}
	default:
		return false
	}
	return true
}

// readOwn reads a field of the application, as far as one could have set it.
func readOwn(m *transport.Message, field string, values []string) {
	name := unescapeField(field)
	for _, v := range values {
		one := transport.Header{{Name: name, Value: v}}
		if one.Validate() == nil {
			m.Header = append(m.Header, one[0])
		}
	}
}

// sorted returns the fields in an order that does not change from message to message, and not too many.
func sorted(h transport.Header) transport.Header {
	slices.SortStableFunc(h, func(a, b transport.Field) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), strings.Compare(a.Name, b.Name))
	})
	return h[:min(len(h), transport.MaxHeaderFields)]
}

// first returns the first value of a field.
func first(header nats.Header, field string) string {
	if values := header[field]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// parseID reads a Message-ID. What can't be one is none.
func parseID(s string) transport.ID {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		s = s[1 : len(s)-1]
	}
	if validID(s) != nil {
		return transport.ID{}
	}
	return transport.ParseID(s)
}

// readTime reads nanoseconds since the Unix epoch. What can't be read is the zero time.
func readTime(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, n)
}

func readCount(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func readFilename(disposition string) string {
	if len(disposition) > maxDisposition {
		return ""
	}
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil || transport.ValidateFilename(params["filename"]) != nil {
		return ""
	}
	return params["filename"]
}

// errorText returns a text no longer than one may be, and cut between characters.
func errorText(s string) string {
	if len(s) > transport.MaxErrorText {
		return strings.ToValidUTF8(s[:transport.MaxErrorText], "")
	}
	return s
}

// readMicroError makes an error response of the answer of a micro service that says that it is one. A code
// that is no number becomes part of the text.
func readMicroError(m *transport.Message, header nats.Header) {
	text, code := header.Get(micro.ErrorHeader), header.Get(micro.ErrorCodeHeader)
	if text == "" && code == "" {
		return
	}
	if text == "" {
		text = string(m.Body)
	}
	m.Kind, m.Body, m.Filename = transport.ErrorResponse, nil, ""
	m.Error = &transport.RemoteError{Code: codeError, Text: errorText(text)}
	n, err := strconv.ParseInt(code, 10, 32)
	switch {
	case err == nil:
		m.Error.Code = int(n)
	case code != "":
		m.Error.Text = errorText(code + ": " + text)
	}
}
