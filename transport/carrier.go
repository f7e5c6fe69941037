package transport

import "context"

// Sender takes messages to the next hop. Implementations must allow concurrent calls.
type Sender interface {
	// Send returns nil when the next hop has durably taken every message, in the
	// order given. The node has validated the messages and filled in their ID,
	// source time and, where a route matched, recipients.
	//
	// The Message values pass to the sender: it may deliver them as they are, and
	// the caller does not change them afterwards. Body is only borrowed: a sender
	// that needs it after Send has returned copies it.
	//
	// An error is a *SendError with the outcome of the first message that failed;
	// those before it have been taken, those after it have not been tried. Send
	// makes each attempt that certainly cannot duplicate a message (for example
	// once more on a fresh connection when an idle one turns out dead before the
	// message was handed over); retrying beyond that is the caller's business.
	// When ctx ends, Send returns soon, with an error that wraps ctx.Err().
	Send(ctx context.Context, msgs ...*Message) error

	// Address returns where answers to messages of this sender go, in the
	// carrier's own terms: a mailbox, an inbox subject. It does not change.
	Address() string
}

// Receiver delivers the messages that match stated interests.
type Receiver interface {
	// Receive states an interest: from now on, until stop is called or the
	// receiver is closed, deliver is called with each matching message that
	// arrives. It does not wait for the network. An interest that the carrier
	// cannot serve gets an error that wraps ErrNotSupported.
	//
	// Calls of deliver for one interest come one at a time, in the order of
	// arrival. deliver does not block; it may settle the delivery, and calls Send,
	// Receive and stop from other goroutines only. It may still be called once by a
	// delivery that was under way when stop was called. stop does not wait, and may
	// be called more than once, also after Close.
	Receive(interest Interest, deliver func(Delivery)) (stop func(), err error)
}

// Carrier is one participant's connection to a means of transport. It is used by
// exactly one node, which closes it.
//
// A carrier never logs, retries or wraps what its caller can do better: it returns
// errors that say what, where and what to do. What happens in the background (a
// lost connection, a mail that is not ours) it logs, once per change of state.
type Carrier interface {
	Sender
	Receiver

	// Close releases everything and returns when no call of a deliver function
	// is under way any more and all goroutines have ended, or, with ctx's error,
	// when ctx ends first. The node calls it after the last Send has returned,
	// unless it has run out of time: then Sends under way end with an error. A
	// second Close does nothing and returns nil.
	Close(ctx context.Context) error
}

// Interest says which messages a receiver is to deliver.
type Interest struct {
	// Kind is TopicMessage, Request, Response or Undeliverable; an interest in
	// Response covers ErrorResponse and Undeliverable.
	Kind Kind
	// Name is the name or name pattern (see ValidatePattern) of the topic or
	// service. It is not used for Response and Undeliverable.
	Name string
	// Client is, for Response, the client whose answers are wanted: those whose
	// Info.ClientGID it is, and those without one whose InReplyTo leads to it. For
	// Undeliverable it is the entity, of any kind, that sent what came back.
	Client GID
}
