package pubsub

import (
	"time"

	"github.com/postbus/postbus/transport"
)

// PublisherOption is an option of NewPublisher.
type PublisherOption interface{ publisher(*Publisher) }

// SubscriptionOption is an option of NewSubscription.
type SubscriptionOption interface{ subscription(*transport.QoS) }

type qosOption func(*transport.QoS)

func (o qosOption) subscription(qos *transport.QoS) { o(qos) }

// KeepLast keeps the newest n messages that have not been taken; a further one pushes out
// the oldest. The default is transport.DefaultDepth. n below 1 counts as 1.
func KeepLast(n int) SubscriptionOption {
	return qosOption(func(qos *transport.QoS) { qos.Depth, qos.KeepAll = max(n, 1), false })
}

// KeepAll keeps all messages until they are taken, within transport.KeepAllMessages and
// transport.KeepAllBytes. What comes beyond these is dropped, counted and logged.
func KeepAll() SubscriptionOption {
	return qosOption(func(qos *transport.QoS) { qos.KeepAll = true })
}

// LifespanOption is an option of publishers and subscriptions. See Lifespan.
type LifespanOption time.Duration

// Lifespan gives messages an age, counted from their source time, at which they are
// dropped instead of being taken by a reader. A publisher's lifespan travels with its
// messages (Message.Deadline) and holds in every subscription; a subscription's
// holds for all messages it gets. The clocks of both sides should agree.
func Lifespan(d time.Duration) LifespanOption { return LifespanOption(d) }

func (d LifespanOption) publisher(p *Publisher)          { p.lifespan = time.Duration(d) }
func (d LifespanOption) subscription(qos *transport.QoS) { qos.Lifespan = time.Duration(d) }

// UndeliverableOption is an option of publishers. See OnUndeliverable.
type UndeliverableOption func(sequence uint64, err error)

// OnUndeliverable has report called for each message that the next hop has taken but that
// could not be delivered to some recipient after all (a bounce), with its number and an
// error: a [*transport.SendError] that wraps transport.ErrUndeliverable, with the code
// and words of the mail server. Calls come one at a time, from a goroutine of the
// publisher's own, and can come long after Publish. Only carriers with bounces call it.
func OnUndeliverable(report func(sequence uint64, err error)) UndeliverableOption { return report }

func (report UndeliverableOption) publisher(p *Publisher) { p.bounced = report }
