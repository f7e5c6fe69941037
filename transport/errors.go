package transport

import (
	"context"
	"errors"
	"fmt"
)

// The conditions a program can tell apart with errors.Is. Errors that wrap them
// say what happened, where, and what to do.
var (
	// ErrClosed is returned for any use of a node or entity after its Close.
	ErrClosed = errors.New("closed")

	// ErrTimeout says that an answer or event did not come in time. Errors that
	// wrap it because a context ended also wrap the context's error.
	ErrTimeout = errors.New("timeout")

	// ErrNoResponder says that nobody serves the service that was called. Only with
	// carriers that can know it a call fails at once, because Send does or an Undeliverable says so
	// (see CodeNoResponder); over others such a call ends with ErrTimeout.
	ErrNoResponder = errors.New("no responder")

	// ErrUndeliverable says that a recipient does not exist or cannot be
	// reached for good: the next hop refused the recipient, or a bounce came back.
	ErrUndeliverable = errors.New("undeliverable")

	// ErrRefused says that the next hop refused the sender or the message for
	// good: authentication, policy or content.
	ErrRefused = errors.New("refused")

	// ErrTooLarge says that a message is over a size limit, the node's own
	// (Options.MaxBody) or one the next hop has stated.
	ErrTooLarge = errors.New("message too large")

	// ErrNotSupported says that the carrier in use cannot do what was asked.
	ErrNotSupported = errors.New("not supported by this carrier")

	// ErrFull says that what is to keep a message until it can be sent has no room for
	// it: an outbox.
	ErrFull = errors.New("full")

	// ErrInUse says that something that only one can use at a time is in use: a durable
	// name, a file.
	ErrInUse = errors.New("in use")

	// ErrInvalidName is wrapped by the errors of [ValidateName] and [ValidatePattern].
	ErrInvalidName = errors.New("invalid name")

	// ErrInvalidKind says that a message to be sent has no kind, or an error that does
	// not go with its kind.
	ErrInvalidKind = errors.New("invalid kind of message")

	// ErrInvalidHeader is wrapped by the errors of [Header.Validate].
	ErrInvalidHeader = errors.New("invalid header")

	// ErrInvalidFilename is wrapped by the errors of [ValidateFilename].
	ErrInvalidFilename = errors.New("invalid name of a file")
)

// ContextError returns the error of an operation that ended because ctx did: it wraps
// ctx.Err() and, if a deadline has passed, ErrTimeout.
func ContextError(ctx context.Context) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

// Outcome says what is known about a message whose Send failed.
type Outcome uint8

const (
	// Temporary: certainly not sent; trying again later may succeed.
	Temporary Outcome = iota + 1
	// Permanent: certainly not sent; trying again will fail again.
	Permanent
	// Unknown: the connection was lost after the message was handed over; it may
	// or may not have been taken. Sending the same message (same ID) again is
	// safe where receivers drop duplicates.
	Unknown
)

// String returns "temporary", "permanent" or "unknown".
func (o Outcome) String() string {
	switch o {
	case Temporary:
		return "temporary"
	case Permanent:
		return "permanent"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// SendError is the error of a message that could not be handed to the next hop.
type SendError struct {
	// Name is the topic or service of the message.
	Name string
	// Outcome says whether to try again, and whether it may have been sent.
	Outcome Outcome
	// Taken is how many messages of the same call of Sender.Send, those before this one,
	// have been taken.
	Taken int
	// With is how many messages of that call, those after this one, went with it in one mail: they
	// have the same outcome. The others have not been tried.
	With int
	// NextHop says that the error is about the next hop, which can't be reached or does not want the
	// account, and not about this message: others would fare the same now.
	NextHop bool
	// Code is the next hop's reply code (for SMTP three digits, RFC 5321 section
	// 4.2), or 0 when there was none.
	Code int
	// Err is the cause. It wraps one of the Err values above where one applies.
	Err error
}

// Error implements error.
func (e *SendError) Error() string {
	switch e.Outcome {
	case Unknown:
		return fmt.Sprintf("send %s: outcome unknown: %v", e.Name, e.Err)
	case Temporary:
		return fmt.Sprintf("send %s: not sent, try again later: %v", e.Name, e.Err)
	default:
		return fmt.Sprintf("send %s: not sent: %v", e.Name, e.Err)
	}
}

// Unwrap returns the cause.
func (e *SendError) Unwrap() error { return e.Err }

// CodeNoResponder is the code of the Error of an Undeliverable that says that nobody serves the service that was
// called. Mail servers have no negative codes.
const CodeNoResponder = -1

// Bounce returns the error that an Undeliverable stands for, about a message to name: a
// [*SendError] that wraps ErrUndeliverable, or ErrNoResponder if that is what it says.
func (m *Message) Bounce(name string) error {
	e := &SendError{Name: name, Outcome: Permanent, Err: ErrUndeliverable}
	if m.Error != nil && m.Error.Code == CodeNoResponder {
		e.Err = ErrNoResponder
		return e
	}
	if m.Error != nil {
		e.Code = m.Error.Code
		e.Err = fmt.Errorf("%w: %s", ErrUndeliverable, m.Error.Text)
	}
	return e
}

// MaxErrorText is the length of the longest text of a RemoteError that is sent, in bytes.
const MaxErrorText = 4096

// RemoteError is an error that the other side of a service answered with. Servers
// return it from handlers to choose the code; clients get it from calls.
type RemoteError struct {
	// Code classifies the error; package service names the codes it uses itself.
	Code int
	// Text says what went wrong, for people, in at most MaxErrorText bytes. It travels
	// as the body of the answer.
	Text string
}

// Error implements error. It accepts a nil e: handlers return those by mistake.
func (e *RemoteError) Error() string {
	if e == nil {
		return "remote error"
	}
	return fmt.Sprintf("remote error %d: %s", e.Code, e.Text)
}
