// Package transport is the waist of postbus: the message and its metadata, the
// interface a carrier implements, and the node that applications open.
//
// An application rarely uses this package beyond passing a [Node] around: topics
// are in package pubsub, services in package service, wait sets in package
// waitset. They know transport and nothing below it. A carrier (email,
// intraprocess) knows transport and nothing above it.
//
// # How a message travels
//
// A publisher, client or server fills in a [Message] and hands it to [Node.Send].
// The node checks it, gives it its [ID] and its recipients, and passes it to the
// carrier's [Sender]. On the other side the carrier's [Receiver] matches it
// against the interests that nodes have stated, and calls the deliver function of
// each match with a [Delivery], which ends in the bounded queue of a subscription,
// server or client. E-mail and in-process carriers match with a [Dispatcher].
//
// # Promises
//
// Send returns nil when the next hop has durably taken the message, or a
// [*SendError] whose [Outcome] says whether trying again can help and whether the
// message may already be on its way. Bodies arrive byte for byte. Carriers may
// deliver a message twice and out of order unless they say otherwise; publishers
// number their messages so that receivers can tell.
//
// # Errors
//
// Conditions that a program may want to react to are values for errors.Is
// ([ErrClosed], [ErrTimeout], [ErrNoResponder], [ErrUndeliverable], [ErrRefused],
// [ErrTooLarge], [ErrNotSupported], [ErrInvalidName]) and types for errors.As
// ([*SendError], [*RemoteError]).
package transport
