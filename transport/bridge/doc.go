// Package bridge joins two means of transport: what is said on the one is heard on the other.
//
//	b, err := bridge.New(
//		bridge.Side{Name: "mail", Node: mail},
//		bridge.Side{Name: "nats", Node: nats},
//		bridge.Rule{Kind: transport.TopicMessage, Direction: bridge.Both, Pattern: "/robot/>"},
//		bridge.Rule{Kind: transport.Request, Direction: bridge.Forth, Pattern: "/plan", Durable: "plan"})
//	defer b.Close(ctx) // before the nodes
//
// A bridge is a participant on both sides, and has a node of its own on each. Its rules say what
// crosses it: topic messages or calls of services, of the names that a pattern stands for, in one
// direction or both. The first rule that fits a message counts.
//
// # What a receiver sees
//
// The message as it was published: its ID, publisher and number, source time, content type, header fields, file name
// and body. Only Message.From is the bridge's, Message.Person is not kept, and the field [HeaderWay] is added: a message that has
// [transport.MaxHeaderFields] without it can't cross. So a
// receiver drops what it has got already, and sees each publisher's messages in order; a message without an ID, as of a plain
// program on NATS, gets one. The deadline of a topic
// message stays as it is; one that has passed is not forwarded.
//
// # Calls
//
// A rule for services makes the bridge a server on the side where calls are made and a client on the side where
// the servers are. The request crosses with the client and the number that it was sent with, so that the
// server knows a repetition and answers it with what it has kept; the answer goes back as one to the
// original request, to where that wanted it. It may be a person's reply to the mail that the request has become.
//
// The request has to be answered a little earlier on the far side, so that the answer has time for the way
// back: by a tenth of the time that is left, at most [MaxMargin]. A request without a deadline is given [DefaultTimeout].
// Every call has one answer: if the far side does not give one, the bridge does, with [CodeDeadline]
// when the time is over, and at once with [CodeNoResponder] when nobody serves the name there, or
// [CodeUndeliverable] when the request is refused or comes back. A request that comes again while its answer is
// awaited gets that one, and later what the server has kept; when nobody can wait for it any more it does not cross again.
//
// A client that has no identity of its own (a person's mail, a plain request of NATS, rmw_email) gets one for the far
// side, which is made of the ID of its request, and so is the same whenever the request comes.
//
// A rule for one name puts the bridge in the place of its server: that nobody serves it, those who call hear at once. A pattern may also
// stand for names that are served next to their callers. So by a rule with a pattern the bridge does not answer a call that nobody
// serves on the far side, and if nobody else does it ends at its deadline. Where a
// subscription hides that there is no server (see package nats), a rule for topics whose pattern stands for the names of services
// does so, too.
//
// By a rule in both directions a name may be served on either side, also next to its caller. So the bridge says nothing at once of a
// request that only it has taken on the far side: a call that nobody serves ends at its deadline. Where callers
// are to hear it at once, each name has a rule of its own, in one direction.
//
// # Nothing lost
//
// A rule with a durable name, or a group, is done with a message when the other side has taken it, and with a
// request when its answer has been taken, however long that takes. Until then it comes again: after a crash, or to another bridge of the same group.
// A group that its carrier does not keep messages for, as one on NATS without a stream, only shares them, and that is logged.
// With an outbox, a mail server, or a stream of JetStream as the next hop this is at-least-once all the way, and
// receivers drop what comes twice, if it came with an ID. Only answers may travel by less (an inbox of NATS): the caller of one that is lost is told so, at
// the deadline. While the other side can't take anything, messages stay where
// they are. A message that it refuses for good becomes a dead letter of the durable name. One that it has taken is forwarded: if a mail server sends a
// topic message back later, its publisher does not hear of that, and the report stays in the bridge's mailbox. A rule with
// neither forwards what arrives while the bridge is there, and keeps it in memory until it is
// taken, within [transport.KeepAllMessages] and [transport.KeepAllBytes].
//
// Two bridges that stand in for each other share the messages by a group; then the order of a publisher's
// messages is not kept between the two.
//
// # No loops
//
// Each bridge notes in [HeaderWay] the side from which a message comes. What has been on a side already does
// not cross to it once more: neither what this bridge has sent itself, nor what comes back through others. For
// that, bridges to the same network must call it by the same [Side.Name], and networks that bridges join must have different
// names: between two of one name nothing crosses. The first message that is held up so by the word of another bridge is logged. A way of [MaxHops] is the
// longest. What arrives by two ways crosses once, within the bounds of what is remembered.
//
// # Who waits for whom
//
// Each rule has its own queue, and a publisher's messages wait only for those before
// them. Only when [transport.DefaultInFlight] messages of a rule with a durable name or a group wait behind one that the other side puts off, the
// others wait, too: what has not been taken stays where it is. While one side is away, what crosses in the other direction goes on.
package bridge
