package transport

import (
	"fmt"
	"time"
)

// Kind says what a message is for.
type Kind uint8

const (
	// TopicMessage is a message published to a topic.
	TopicMessage Kind = iota + 1
	// Request asks a service for an answer.
	Request
	// Response answers a request with a result.
	Response
	// ErrorResponse answers a request with a [RemoteError].
	ErrorResponse
	// Undeliverable reports that a message could not be delivered (a bounce). It is
	// only received: the entity whose message it was gets it, as it gets answers.
	Undeliverable
)

// String returns "topic message", "request", "response", "error response" or
// "undeliverable".
func (k Kind) String() string {
	switch k {
	case TopicMessage:
		return "topic message"
	case Request:
		return "request"
	case Response:
		return "response"
	case ErrorResponse:
		return "error response"
	case Undeliverable:
		return "undeliverable"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Message is one message with its metadata. A received message is shared by all
// its receivers in the process: treat it, with Body and Header, as read-only.
type Message struct {
	// Kind says whether this is a topic message, a request or an answer.
	Kind Kind
	// Name is the topic or service.
	Name string
	// Body is the payload, byte for byte as published. It may be empty. For an
	// ErrorResponse it is empty; the text is in Error.
	Body []byte
	// ContentType is the media type of Body (RFC 2045 section 5.1) as the sender
	// declared it, or "" if it did not.
	ContentType string
	// Filename is the name of the file that Body is (see ValidateFilename), or "" if
	// it is none. An ErrorResponse has no file.
	Filename string
	// Header holds the application's own header fields.
	Header Header
	// Info says who sent the message, and when.
	Info Info

	// ID is the Message-ID. A zero ID is filled in by Node.Send.
	ID ID
	// InReplyTo is, in answers, the ID of the request, and in an Undeliverable that
	// of the message that could not be delivered.
	InReplyTo ID
	// From is the address of the sender in the carrier's terms. It is set by the
	// receiving carrier.
	From string
	// ReplyTo is where an answer to a request goes: an address that is opaque to
	// all but the carrier that set it on receiving the request.
	ReplyTo string
	// To lists the recipients in the carrier's terms. When it is empty Node.Send
	// fills it in from the node's routes; when no route matches it stays empty,
	// and the carrier sends to its default recipients.
	To []string
	// Deadline is when the message stops being of use to its sender: the end of
	// a topic message's lifespan, or the time until which a caller waits. It is
	// an absolute time on the sender's clock; zero means none.
	Deadline time.Time
	// Error is the error that an ErrorResponse carries, or why a message is
	// Undeliverable: the reply code and words of the mail server that says so, or CodeNoResponder. It is
	// nil in all other kinds.
	Error *RemoteError
	// Person says that a person wrote the message, in a mail client: Body is the
	// person's own words as UTF-8 text, without quotation and signature. It is set
	// by the receiving carrier.
	Person bool
}

// Expired reports whether the message has a deadline and now is not before it.
func (m *Message) Expired(now time.Time) bool {
	return !m.Deadline.IsZero() && !now.Before(m.Deadline)
}

// Caller returns the client that an answer is for, and the client's number of the
// request (for an Undeliverable, the sender of the message and its number): as the answer itself says or, if it does not (a person wrote it), as the
// ID that it replies to says. A server of rmw_email says it in the terms of
// [GID.Short] and with a number that is less by one; then the ID counts too. It
// returns false if neither says it, or if they contradict each other.
func (m *Message) Caller() (client GID, sequence uint64, ok bool) {
	client, sequence, ok = m.InReplyTo.Origin()
	if m.Info.ClientGID.IsZero() {
		return client, sequence, ok
	}
	switch {
	case !ok, client == m.Info.ClientGID && sequence == m.Info.RequestSequence:
		return m.Info.ClientGID, m.Info.RequestSequence, true
	case client != client.Short() && client.Short() == m.Info.ClientGID && sequence-1 == m.Info.RequestSequence:
		return client, sequence, true
	}
	return GID{}, 0, false
}

// Info is the metadata of a message. Times have nanosecond precision.
type Info struct {
	// SourceTime is when the message was published, by the sender's clock.
	SourceTime time.Time
	// ReceivedTime is when it was received, by the receiver's clock. In messages that are being
	// sent it is when Node.Send was called, and so it may be in those that a carrier delivers in process: there it can equal SourceTime.
	ReceivedTime time.Time
	// PublisherGID identifies the sending entity: a topic message's publisher, a
	// request's client, an answer's server. Zero if unknown.
	PublisherGID GID
	// Sequence counts the messages of the sending entity from 1. Zero if unknown.
	Sequence uint64
	// ClientGID identifies, in requests and answers, the calling client.
	ClientGID GID
	// RequestSequence is, in requests and answers, the client's number of the request.
	RequestSequence uint64
}

// Delivery is a message on its way up from a carrier, with the means to tell the
// carrier what became of it. Exactly one of Ack, Nack and Term should be called; a further
// call does nothing. They are safe to call on deliveries of carriers that do not track them.
type Delivery struct {
	// Message is the message. It is never nil.
	Message *Message
	// Settler hears what became of the message. It is nil where the carrier does
	// not track the delivery.
	Settler Settler
	// Attempt counts the times the message has been delivered to the durable interest
	// or group, from 1. It is 0 where the delivery is not tracked.
	Attempt int
	// Repeated says that the message has been handled already, as far as the carrier
	// remembers. Only requests are delivered then, so that the server can answer once more with
	// what it has kept; it does not run its handler again.
	Repeated bool
}

// Settler is implemented by carriers that keep a message until it is settled. All
// methods may be called concurrently; the first call counts.
type Settler interface {
	// Ack: the message has been handled. It returns nil when that is on record: from
	// then on the message is not delivered again to the durable interest or group, whatever
	// happens. An error says that it may be, to whoever uses the durable name next or to another
	// member; the delivery is settled all the same, and its receiver need not wait for the message.
	Ack() error
	// Nack: the message has not been handled; deliver it again after delay, or, when that has
	// been done often enough, keep it as a dead letter with the reason. It does not block. A negative delay
	// gives back a message that nobody has tried to handle: it is delivered again at once, to another
	// member of a group if there is one, and this delivery does not count (Attempt, MaxDeliver).
	Nack(delay time.Duration, reason string)
	// Term: the message cannot be handled; do not deliver it again, but keep it as a dead
	// letter with the reason. It does not block.
	Term(reason string)
}

// LeasedSettler is an add-on to Settler, of carriers that give a message to somebody else
// when its receiver has been silent for too long.
type LeasedSettler interface {
	Settler
	// Lost reports whether the delivery may be somebody else's by now. It is quick and takes
	// no lock that is held while something is delivered.
	Lost() bool
}

// Lost reports whether the message may have been given to somebody else meanwhile: then
// it must not be handled any more, and whoever has not begun to does not.
func (d Delivery) Lost() bool {
	leased, ok := d.Settler.(LeasedSettler)
	return ok && leased.Lost()
}

// Ack says that the message has been handled. It blocks until that is on record.
func (d Delivery) Ack() error {
	if d.Settler == nil {
		return nil
	}
	return d.Settler.Ack()
}

// Nack asks for the message to be delivered again after delay; a negative one gives it back as if
// it had not been delivered. The reason is kept should it become a dead letter.
func (d Delivery) Nack(delay time.Duration, reason string) {
	if d.Settler != nil {
		d.Settler.Nack(delay, reason)
	}
}

// Term says that the message cannot be handled and why; it is not delivered again.
func (d Delivery) Term(reason string) {
	if d.Settler != nil {
		d.Settler.Term(reason)
	}
}
