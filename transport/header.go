package transport

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The names of the header fields in which carriers that have headers (mail, NATS)
// send a message's metadata. They begin without "X-" (RFC 6648).
const (
	HeaderSourceTimestamp   = "Source-Timestamp"          // Info.SourceTime, nanoseconds since the Unix epoch, decimal
	HeaderPublisherGID      = "Publisher-GID"             // Info.PublisherGID
	HeaderPublisherSequence = "Publisher-Sequence-Number" // Info.Sequence, decimal
	HeaderClientGID         = "Client-GID"                // Info.ClientGID
	HeaderRequestSequence   = "Request-Sequence-Number"   // Info.RequestSequence, decimal
	HeaderDeadline          = "Deadline"                  // Message.Deadline, nanoseconds since the Unix epoch, decimal
	HeaderServiceError      = "Service-Error"             // Message.Error.Code, decimal
)

// Limits of an application's header fields.
const (
	// MaxHeaderFields is the most fields a Header may have.
	MaxHeaderFields = 64
	// MaxHeaderName is the longest field name, in bytes.
	MaxHeaderName = 64
	// MaxHeaderValue is the longest field value, in bytes.
	MaxHeaderValue = 768
)

// Field is one header field of the application.
type Field struct{ Name, Value string }

// Header is a list of header fields in order. Names are compared without regard to
// case (RFC 5322 section 1.2.2). The nil Header is empty and ready to use.
type Header []Field

// Get returns the value of the first field called name, or "".
func (h Header) Get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Values returns the values of all fields called name, in order.
func (h Header) Values(name string) []string {
	var values []string
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Add appends a field.
func (h *Header) Add(name, value string) {
	*h = append(*h, Field{name, value})
}

// Validate checks that the fields can travel over every carrier unchanged: at most
// MaxHeaderFields; names of printable ASCII without colon, at most MaxHeaderName
// bytes and not reserved (see [ReservedHeader]); values of valid UTF-8 without
// control characters, without blanks at either end, at most MaxHeaderValue bytes.
// Its errors wrap ErrInvalidHeader.
func (h Header) Validate() error {
	if len(h) > MaxHeaderFields {
		return fmt.Errorf("%w: %d fields, at most %d are allowed", ErrInvalidHeader, len(h), MaxHeaderFields)
	}
	for _, f := range h {
		if err := f.validate(); err != nil {
			return fmt.Errorf("%w: field %.80q: %w", ErrInvalidHeader, f.Name, err)
		}
	}
	return nil
}

func (f Field) validate() error {
	if f.Name == "" || len(f.Name) > MaxHeaderName {
		return fmt.Errorf("the name has %d bytes, 1 to %d are allowed", len(f.Name), MaxHeaderName)
	}
	for i := range len(f.Name) {
		if c := f.Name[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return fmt.Errorf("byte %q at index %d of the name is not allowed", f.Name[i:i+1], i)
		}
	}
	if ReservedHeader(f.Name) {
		return fmt.Errorf("the name is reserved")
	}
	if len(f.Value) > MaxHeaderValue {
		return fmt.Errorf("the value has %d bytes, at most %d are allowed", len(f.Value), MaxHeaderValue)
	}
	if !utf8.ValidString(f.Value) {
		return fmt.Errorf("the value is not valid UTF-8")
	}
	for i, r := range f.Value {
		if unicode.IsControl(r) {
			return fmt.Errorf("control character %q at index %d of the value", r, i)
		}
	}
	if strings.Trim(f.Value, " ") != f.Value {
		return fmt.Errorf("the value begins or ends with a blank")
	}
	return nil
}

// ReservedHeader reports whether a header field name, in any case, belongs to the
// carriers: the metadata fields above, the structure and trace fields of mail
// (RFC 5322 section 3.6, RFC 2045, and those that servers add on the way) and the
// fields of NATS. Such a field can't be set by an application, and a carrier does
// not pass one on in Message.Header.
func ReservedHeader(name string) bool {
	for _, prefix := range [...]string{"Content-", "Body-", "Resent-", "List-", "ARC-", "Nats-"} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return reservedHeaders[strings.ToLower(name)]
}

var reservedHeaders = map[string]bool{
	// ours
	strings.ToLower(HeaderSourceTimestamp):   true,
	strings.ToLower(HeaderPublisherGID):      true,
	strings.ToLower(HeaderPublisherSequence): true,
	strings.ToLower(HeaderClientGID):         true,
	strings.ToLower(HeaderRequestSequence):   true,
	strings.ToLower(HeaderDeadline):          true,
	strings.ToLower(HeaderServiceError):      true,

	// RFC 5322
	"date": true, "from": true, "sender": true, "reply-to": true, "to": true, "cc": true, "bcc": true,
	"message-id": true, "in-reply-to": true, "references": true, "subject": true, "comments": true,
	"keywords": true, "return-path": true, "received": true,
	// MIME and automatic answers (RFC 2045, RFC 3834)
	"mime-version": true, "auto-submitted": true, "precedence": true,
	// added on the way
	"delivered-to": true, "x-original-to": true, "envelope-to": true, "authentication-results": true,
	"received-spf": true, "dkim-signature": true, "domainkey-signature": true, "status": true, "x-status": true,
}
