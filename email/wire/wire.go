// Package wire is the format in which messages travel as mail: it turns a
// [transport.Message] into the bytes of an Internet message (RFC 5322) and back.
//
// The functions are pure: no I/O, no clock, no randomness, and the same input always
// gives the same output. Bodies come back byte for byte, whatever the mail servers
// between do to line endings. [Decode] takes any bytes: its time and memory are
// bounded by the size of the input, it never panics, and it tells mail of others
// ([ErrForeign]) from damaged mail of ours ([ErrMalformed]).
//
// The format is specified in docs/wire-format.md; it can be read and written without
// this package. A [Batch] makes one mail of several messages, and [DecodeBatch] reads it.
// Mail of rmw_email 0.8 is read as well, and [EncodeRMW] writes mail that
// it reads. What is foreign to the format may still be for a program: [DecodeReport]
// reads what mail servers report, and [DecodeLetter] what people write.
package wire

import (
	"errors"

	"github.com/postbus/postbus/transport"
)

// Limits of the format.
const (
	// MaxHeaderBytes is the longest header section that is read, in bytes, with its
	// empty line. A mail with a longer one is foreign.
	MaxHeaderBytes = 64 << 10
	// MaxHeaderBytesWritten is the longest header section that is written. It is less
	// than MaxHeaderBytes because every server on the way adds fields.
	MaxHeaderBytesWritten = 56 << 10
	// MaxFields is the most header fields that are read. A mail with more is foreign.
	MaxFields = 500
	// MaxAddresses is the most addresses of one field that are read; what is beyond
	// is dropped.
	MaxAddresses = 1000
	// MaxAddress is the longest address, with its display name, in bytes.
	MaxAddress = 512
	// MaxID is the longest Message-ID, in bytes, without angle brackets.
	MaxID = 900
	// MaxContentType is the longest content type, in bytes.
	MaxContentType = transport.MaxContentType
	// MaxTextLine is the longest line of a payload that travels as it is, in bytes
	// without the line ending. RFC 5322 section 2.1.1 allows 998; servers have been
	// seen to break lines earlier.
	MaxTextLine = 900
)

var (
	// ErrForeign is wrapped by the errors of Decode and DecodeHeader for what is
	// not a message in this format: a person's mail, a bounce, junk.
	ErrForeign = errors.New("not a postbus message")

	// ErrMalformed is wrapped by the errors of Decode and DecodeHeader for a mail
	// that carries our metadata but is damaged or contradicts itself.
	ErrMalformed = errors.New("malformed postbus message")

	// ErrBatch is the error of Decode and DecodeHeader for a mail that holds several
	// messages.
	ErrBatch = errors.New("a batch of postbus messages")
)

// Envelope holds the addresses of an outgoing mail. Each is an RFC 5322 mailbox, with
// or without a display name: "robot@example.org", "Robot <robot@example.org>". The
// address itself must be ASCII. Recipients that must not be seen (Bcc) are the
// business of SMTP alone and never appear in a mail.
type Envelope struct {
	// From is the sender. It is required.
	From string
	// ReplyTo is where answers go, if not to From.
	ReplyTo string
	// To and Cc are the visible recipients. Both may be empty.
	To, Cc []string
}
