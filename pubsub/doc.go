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
// Delivery is at most once here: a message is done with when it is taken. Whether a
// message can be lost or come twice on the way is for the carrier to say.
//
// [TypedPublisher] and [TypedSubscription] put a codec in front: they publish and
// receive values instead of bytes.
package pubsub
