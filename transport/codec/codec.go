// Package codec turns Go values into message bodies and back, for the typed forms of
// publishers, subscriptions, clients and servers.
//
// [Text] and [JSON] are here; packages yaml and protobuf, below this one, are apart so
// that only the programs that use them link the libraries they need.
//
// # Content types
//
// A sender states its codec's content type in the message. A reader does not compare
// it with its own: it decodes what it gets, and it is the body that decides. A
// person who answers from a mail client sends text/plain whatever the text is, other
// programs name the same format in several ways, and carriers need not convey a
// content type at all. Programs that want to select by content type read
// transport.Message.ContentType.
package codec

import (
	"errors"
	"fmt"
)

// ErrDecode is wrapped by the errors of [Decode]: the body is not what its reader
// expects. The same body fails again, so that the reader can only skip the message.
var ErrDecode = errors.New("cannot decode body")

// Codec turns values of T into bodies and back. A codec may be used concurrently.
type Codec[T any] interface {
	// Encode returns the body for v. The caller may keep and change it.
	Encode(v T) ([]byte, error)
	// Decode returns the value of a body, or the zero value and an error; it does
	// not panic whatever the body holds. A received body is shared: Decode does not
	// change it, and neither it nor the value keeps a reference to it.
	Decode(body []byte) (T, error)
	// ContentType returns the media type of the bodies that Encode makes, with its
	// parameters (RFC 2045 section 5.1).
	ContentType() string
}

// Decode decodes a received body with c. Whatever error c returns, Decode's wraps it
// and [ErrDecode], and names the content type of c. The typed readers of packages
// pubsub and service decode with it.
func Decode[T any](c Codec[T], body []byte) (T, error) {
	v, err := c.Decode(body)
	if err != nil {
		var zero T
		return zero, fmt.Errorf("%w as %s: %w", ErrDecode, c.ContentType(), err)
	}
	return v, nil
}
