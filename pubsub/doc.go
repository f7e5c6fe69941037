// Package pubsub has the ends of a topic: publishers and subscriptions.
//
//	pub, err := pubsub.NewPublisher(node, "/chatter")
//	err = pub.Publish(ctx, []byte("hello"))
//
//	sub, err := pubsub.NewSubscription(node, "/chatter", pubsub.KeepLast(10))
//	msg, err := sub.Next(ctx)
//
// Any number of publishers and subscriptions can share a topic, in one node and
// across nodes; every subscription gets every message, also those its own node
// publishes. A topic needs no set-up and may have no subscription at all.
//
// A subscription gets what is published after it was made. Messages wait in its
// bounded queue until they are taken: by [Subscription.Next] and its sisters
// [Subscription.TryNext] and [Subscription.All], or by a callback that
// [Subscription.Handle] sets; use one of these forms at a time. A wait set can wait for
// many subscriptions at once. A slow subscription loses the oldest of its own
// messages, as its options say, and never delays another.
//
// # Delivery guarantees
//
// Without options a subscription gets each message at most once: it is done with when it is taken, and
// what arrives while nobody subscribes, or is dropped from the queue, is gone. Whether a message can be
// lost on the way is for the carrier to say.
//
// A [Durable] subscription gets each message until it has been handled, across crashes: the carrier
// keeps on record what has been, by [Subscription.Handle] when the callback has returned nil or by the
// program itself with [Subscription.Take]. A message that is on record is never handled again. One that
// was being handled when the process died is, because nobody can know how far that had come. What can't
// be handled comes again later and ends as a dead letter ([MaxDeliver]), and nothing is dropped from
// the queue: further messages stay with the carrier.
//
// The members of a [Group], in any number of nodes, share the messages: each is handled by one of them,
// with the same guarantee. A member that dies loses what it had not settled to another after a [Lease].
//
// Each publisher's messages come in the order in which they were published, also where mail servers
// shuffle them: a later one waits a while for an earlier one ([GapWait], [OnGap]). A group does not
// keep the order, and what comes again has lost its place.
//
// A subscription that comes late can ask for the [Last] messages from before. [Deadline] reports that
// nothing comes any more, and [Lifespan] drops what is too old.
//
// What a carrier can't do it refuses with transport.ErrNotSupported when the subscription is made.
//
// [TypedPublisher] and [TypedSubscription] put a codec in front: they publish and
// receive values instead of bytes.
package pubsub
