package transport

import (
	"fmt"
	"math"
	"mime"
	"strings"
)

// MaxContentType is the length of the longest content type, in bytes.
const MaxContentType = 512

// validate checks what the application has said about a message, so that every carrier
// can carry it unchanged.
func (m *Message) validate(maxBody int) error {
	if err := ValidateName(m.Name); err != nil {
		return err
	}
	if err := m.validateKind(); err != nil {
		return fmt.Errorf("send %s: %w", m.Name, err)
	}
	if len(m.Body) > maxBody {
		return fmt.Errorf("send %s: %w: the body has %d bytes, this node's limit is %d", m.Name, ErrTooLarge, len(m.Body), maxBody)
	}
	if m.Header != nil {
		if err := m.Header.Validate(); err != nil {
			return fmt.Errorf("send %s: %w", m.Name, err)
		}
	}
	if m.ContentType != "" {
		if err := ValidateContentType(m.ContentType); err != nil {
			return fmt.Errorf("send %s: %w", m.Name, err)
		}
	}
	if m.Filename != "" {
		if err := ValidateFilename(m.Filename); err != nil {
			return fmt.Errorf("send %s: %w", m.Name, err)
		}
	}
	return nil
}

// validateKind checks the kind, and the error that goes with it.
func (m *Message) validateKind() error {
	if m.Kind < TopicMessage || m.Kind > ErrorResponse || (m.Kind == ErrorResponse) != (m.Error != nil) {
		return fmt.Errorf("%w: %s with error %v", ErrInvalidKind, m.Kind, m.Error)
	}
	if m.Error == nil {
		return nil
	}
	if m.Filename != "" {
		return fmt.Errorf("%w: an error response has no file", ErrInvalidFilename)
	}
	if len(m.Error.Text) > MaxErrorText {
		return fmt.Errorf("%w: the error text has %d bytes, the limit is %d", ErrTooLarge, len(m.Error.Text), MaxErrorText)
	}
	if m.Error.Code < math.MinInt32 || m.Error.Code > math.MaxInt32 {
		return fmt.Errorf("%w: the error code %d has more than 32 bits", ErrInvalidKind, m.Error.Code)
	}
	return nil
}

// ValidateContentType checks that s is a media type (RFC 2045 section 5.1) that can
// travel in a header field unchanged: at most MaxContentType bytes of printable ASCII
// without blanks at either end, and with a subtype. Its errors wrap ErrInvalidHeader.
func ValidateContentType(s string) error {
	if err := checkContentType(s); err != nil {
		return fmt.Errorf("%w: content type %.80q %w", ErrInvalidHeader, s, err)
	}
	return nil
}

func checkContentType(s string) error {
	if len(s) > MaxContentType {
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), MaxContentType)
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return fmt.Errorf("has byte %q at index %d, which is not allowed", c, i)
		}
	}
	if strings.Trim(s, " ") != s || !strings.Contains(s, "/") {
		return fmt.Errorf("is not a type and subtype")
	}
	if _, _, err := mime.ParseMediaType(s); err != nil {
		return fmt.Errorf("is not valid: %w", err)
	}
	return nil
}
