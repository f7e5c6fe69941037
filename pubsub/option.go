package pubsub

import (
	"time"

	"github.com/postbus/postbus/transport"
)

// PublisherOption is an option of NewPublisher.
type PublisherOption interface{ publisher(*Publisher) }

// SubscriptionOption is an option of NewSubscription.
type SubscriptionOption interface{ subscription(*subscribing) }

// subscribing is what the options of a subscription say.
type subscribing struct {
	interest transport.Interest
	qos      transport.QoS
	silence  time.Duration
	silent   func(time.Duration)
}

type subscriptionOption func(*subscribing)

func (o subscriptionOption) subscription(s *subscribing) { o(s) }

// KeepLast keeps the newest n messages that have not been taken; a further one pushes out
// the oldest. The default is transport.DefaultDepth. n below 1 counts as 1.
//
// With Durable or Group nothing is pushed out: the subscription gets n messages in advance of
// those it has handled, and the others stay with the carrier. The default is then
// transport.DefaultInFlight, and the most transport.MaxInFlight.
func KeepLast(n int) SubscriptionOption { return keep(n, false) }

// KeepFirst keeps the oldest n messages that have not been taken; further ones are dropped and
// counted. n below 1 counts as 1. With Durable or Group it is the same as KeepLast.
func KeepFirst(n int) SubscriptionOption { return keep(n, true) }

func keep(n int, first bool) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) {
		s.qos.Depth, s.qos.KeepFirst, s.qos.KeepAll = max(n, 1), first, false
	})
}

// KeepAll keeps all messages until they are taken, within transport.KeepAllMessages and
// transport.KeepAllBytes. What comes beyond these is dropped, counted and logged. With Durable or
// Group, where nothing is dropped, it says nothing.
func KeepAll() SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.qos.Depth, s.qos.KeepFirst, s.qos.KeepAll = 0, false, true })
}

// Durable makes the subscription durable: under this name the carrier remembers what has been handled.
// A subscription of the same name, in this process or a later one, goes on with what has arrived since
// and with what was not settled. The name begins to count when it is first used; only one subscription
// at a time can have it (transport.ErrInUse). It is 1 to 64 of A-Z a-z 0-9 _ -. How long and where the
// carrier remembers is for it to say.
func Durable(name string) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.Durable = name })
}

// Group makes the subscription a member of a group: of all its members, in any number of nodes, with
// the same topic or pattern, exactly one handles each message. What a member has not settled when it
// leaves, or when it has been silent for a lease, goes to another. A group remembers by itself what
// arrives when it has no member, and does not go together with Durable; it does not keep the order of
// messages. Slow handlers share the work better with KeepLast(1): no member has messages waiting then
// while another is idle. For the name see Durable.
func Group(name string) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.Group = name })
}

// Lease is how long a member of a group may be silent, because its process or network has died,
// before others get what it had not settled. The default is transport.DefaultLease, the least
// transport.MinLease, the longest transport.MaxLease. It is an error without Group.
func Lease(d time.Duration) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.Lease = d })
}

// MaxDeliver is how often a message of a durable subscription or group is delivered while it can't be
// handled; after that it is kept as a dead letter. The default is transport.DefaultMaxDeliver.
// It is an error without Durable or Group.
func MaxDeliver(n int) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.MaxDeliver = n })
}

// Last has the newest messages of the topic from before the subscription delivered first, at most n: up
// to transport.MaxLast. With Durable or Group that is done when the name is first used. What is still
// there is for the carrier to say. The queue has room for them unless KeepLast or KeepFirst says
// otherwise.
func Last(n int) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.Last = n })
}

// GapWait is how long the later messages of a publisher are held back while an earlier one is missing,
// so that each publisher's come in order: by default transport.DefaultGapWait. A negative time holds
// nothing back.
func GapWait(d time.Duration) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.GapWait = d })
}

// OnGap has report called when messages of a publisher were waited for in vain (see GapWait). They are
// lost, or late: one that comes after all is still delivered. Calls come one at a time, from a
// goroutine of the subscription's own, until it is closed.
func OnGap(report func(transport.Gap)) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.interest.Gap = report })
}

// Deadline has report called when no message has come for a time of d, with the time since the last (or
// since the beginning), and again after each further d of silence. Calls come one at a time, from a
// goroutine of the subscription's own, until it is closed.
func Deadline(d time.Duration, report func(silence time.Duration)) SubscriptionOption {
	return subscriptionOption(func(s *subscribing) { s.silence, s.silent = d, report })
}

// LifespanOption is an option of publishers and subscriptions. See Lifespan.
type LifespanOption time.Duration

// Lifespan gives messages an age, counted from their source time, at which they are
// dropped instead of being taken by a reader. A publisher's lifespan travels with its
// messages (Message.Deadline) and holds in every subscription; a subscription's
// holds for all messages it gets. The clocks of both sides should agree.
func Lifespan(d time.Duration) LifespanOption { return LifespanOption(d) }

func (d LifespanOption) publisher(p *Publisher)      { p.lifespan = time.Duration(d) }
func (d LifespanOption) subscription(s *subscribing) { s.qos.Lifespan = time.Duration(d) }

// UndeliverableOption is an option of publishers. See OnUndeliverable.
type UndeliverableOption func(sequence uint64, err error)

// OnUndeliverable has report called for each message that the next hop has taken but that
// could not be delivered to some recipient after all (a bounce), with its number and an
// error: a [*transport.SendError] that wraps transport.ErrUndeliverable, with the code
// and words of the mail server. Calls come one at a time, from a goroutine of the
// publisher's own, and can come long after Publish. Only carriers with bounces call it.
func OnUndeliverable(report func(sequence uint64, err error)) UndeliverableOption { return report }

func (report UndeliverableOption) publisher(p *Publisher) { p.bounced = report }
