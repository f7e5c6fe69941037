package transport

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Sender takes messages to the next hop. Implementations must allow concurrent calls.
type Sender interface {
	// Send returns nil when the next hop has durably taken every message, in the
	// order given. The node has validated the messages and filled in their ID,
	// source time and, where a route matched, recipients.
	//
	// The Message values pass to the sender: it may deliver them as they are, and
	// the caller does not change them afterwards. Body is only borrowed, and so is the
	// slice msgs: a sender that needs them after Send has returned copies them.
	//
	// An error is a *SendError with the outcome of the first message that failed;
	// those before it have been taken (SendError.Taken says how many), those after it
	// have not been tried, went with it in one mail (SendError.With), or may have been taken, if the sender has
	// several on their way at once: when they are sent again they are known by their IDs. Send makes each attempt that certainly cannot duplicate a
	// message (for example once more on a fresh connection when an idle one turns out
	// dead before the message was handed over); retrying beyond that is the caller's
	// business: the node's, or an outbox's. They send the same Message again, so a
	// sender that fails lets go of it. When ctx ends, Send returns soon, with an error
	// that wraps ctx.Err().
	Send(ctx context.Context, msgs ...*Message) error

	// Address returns where answers to messages of this sender go, in the
	// carrier's own terms: a mailbox, an inbox subject. It does not change.
	Address() string
}

// Receiver delivers the messages that match stated interests. Implementations must allow concurrent calls.
type Receiver interface {
	// Receive states an interest: from now on, until stop is called or the
	// receiver is closed, deliver is called with each matching message that
	// arrives. It does not wait for the network, save for one round trip, and not for long, if a server must
	// know of the interest for it to begin. An interest that the carrier
	// cannot serve gets an error that wraps ErrNotSupported.
	//
	// Calls of deliver for one interest come one at a time, in the order of
	// arrival, or for topic messages in each publisher's (see Interest.GapWait). deliver
	// does not block; it may settle the delivery with Nack or Term, and calls Ack, Send,
	// Receive and stop from other goroutines only. It may still be called once by a
	// delivery that was under way when stop was called. stop does not wait, and may
	// be called more than once, also after Close. Deliveries can be settled after stop,
	// and up to Close; those of a durable interest or group that are not are delivered again
	// to whoever states it next.
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

// Interest says which messages a receiver is to deliver, and how. The first three fields
// say which; with all others zero each message is delivered once, as it arrives. Node.Receive has
// checked that the fields go together (see Interest.Validate).
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

	// GapWait is how long, in an interest in topic messages, the later messages of a
	// publisher are held back while an earlier one is missing, so that each publisher's
	// come in order. Zero means DefaultGapWait; negative means that nothing is held
	// back. Carriers that keep the order by nature hold nothing back.
	GapWait time.Duration
	// Gap, if set, is called when messages were waited for in vain. One that comes after
	// all is delivered then. What is below the first message that has come of a publisher may be from
	// before the interest: it is reported, all of it, only when some of it comes after all. So nothing comes out of
	// order that has not been reported. Gap is called as deliver is, and does not block.
	Gap func(Gap)

	// Last asks for the newest messages of the name from before the interest, at most so
	// many, to be delivered first.
	Last int

	// Durable is the name under which the carrier remembers, across processes, what has
	// been handled: every message that arrives after the name was first used is delivered until
	// it is settled, also when nobody had the interest as it arrived. One interest at a time can
	// have a durable name (ErrInUse).
	Durable string
	// Group is the name of a group of interests, with the same Kind and Name, in any
	// number of nodes: each message is delivered to one of them, until one has settled it.
	Group string
	// Lease is how long a member of the group may be silent, because its process or
	// network has died, before others get what it had not settled. Zero means DefaultLease. It needs a Group.
	Lease time.Duration
	// InFlight is how many deliveries, with Durable or Group, may be unsettled at once;
	// further messages stay where they are. Zero means DefaultInFlight. It needs one of these.
	InFlight int
	// MaxDeliver is how often a message is delivered, with Durable or Group, while Nack
	// is the answer; after that it is a dead letter. Zero means DefaultMaxDeliver. It needs one of these.
	MaxDeliver int
}

// The defaults of an Interest.
const (
	DefaultGapWait    = 2 * time.Second
	DefaultLease      = 30 * time.Second
	DefaultInFlight   = 64
	DefaultMaxDeliver = 5
)

// The limits of an Interest.
const (
	// MinLease is the shortest lease: mail servers tell time in seconds.
	MinLease = 2 * time.Second
	// MaxLease is the longest lease.
	MaxLease = 24 * time.Hour
	// MaxInFlight is the largest InFlight.
	MaxInFlight = 1 << 12
	// MaxLast is the largest Last.
	MaxLast = 1 << 12
)

// Gap says which messages of a publisher have not come in time.
type Gap struct {
	// Publisher is the GID of the publisher.
	Publisher GID
	// First and Last are the sequence numbers of the first and last message missing.
	First, Last uint64
}

// Tracked reports whether deliveries of the interest wait for being settled.
func (i Interest) Tracked() bool { return i.Durable != "" || i.Group != "" }

// Validate checks an interest. Errors wrap ErrInvalidName, or ErrInvalidKind for what
// does not go with the kind, or say which number is out of range.
func (i Interest) Validate() error {
	answers := i.Kind == Response || i.Kind == Undeliverable
	if !answers {
		if err := ValidatePattern(i.Name); err != nil {
			return err
		}
	}
	switch {
	case i.Kind != TopicMessage && (i.GapWait != 0 || i.Gap != nil || i.Last != 0):
		return fmt.Errorf("%w: an interest in %v with GapWait, Gap or Last", ErrInvalidKind, i.Kind)
	case answers && i.Tracked():
		return fmt.Errorf("%w: an interest in %v with Durable or Group", ErrInvalidKind, i.Kind)
	case i.Durable != "" && !validLabel(i.Durable):
		return fmt.Errorf("%w: durable name %.80q: %s", ErrInvalidName, i.Durable, labelRule)
	case i.Group != "" && !validLabel(i.Group):
		return fmt.Errorf("%w: group %.80q: %s", ErrInvalidName, i.Group, labelRule)
	case i.Last < 0 || i.Last > MaxLast:
		return fmt.Errorf("the last %d messages are asked for; 0 to %d are possible", i.Last, MaxLast)
	case i.InFlight < 0 || i.InFlight > MaxInFlight:
		return fmt.Errorf("%d deliveries in flight; 1 to %d are possible", i.InFlight, MaxInFlight)
	case i.MaxDeliver < 0:
		return fmt.Errorf("MaxDeliver is %d, it can't be negative", i.MaxDeliver)
	case !i.Tracked() && (i.InFlight != 0 || i.MaxDeliver != 0):
		return fmt.Errorf("%s: InFlight and MaxDeliver are for interests with Durable or Group, whose deliveries are settled", i.Name)
	case i.Group == "" && i.Lease != 0:
		return fmt.Errorf("%s: a lease is for interests with Group, where others take over", i.Name)
	case i.Lease != 0 && (i.Lease < MinLease || i.Lease > MaxLease):
		return fmt.Errorf("a lease of %v; %v to %v are possible", i.Lease, MinLease, MaxLease)
	}
	return nil
}

const labelRule = "1 to 64 of A-Z a-z 0-9 _ - are allowed"

// validLabel checks a durable or group name. Carriers make names of files, folders and
// consumers of it.
func validLabel(s string) bool {
	return len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
	})
}
