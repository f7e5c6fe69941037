// Package outbox keeps messages on disk until the next hop has taken them, so that a program
// can hand them over and forget them: they survive its crash, a loss of power, and
// a mail server that is away for an hour.
//
// An [Outbox] is a carrier in front of another one, and works with every carrier:
//
//	carrier, err := email.Open(ctx, config, email.Options{})
//	box, err := outbox.Open(carrier, outbox.Options{File: "outbox.db"})
//	node, err := postbus.New(box, nil)
//
// The section outbox of a configuration file does the same in postbus.Open.
//
// # What a program can rely on
//
// When Send (so Publish, Call and Respond) returns nil, the message is on disk, written
// with fsync; those who send at the same time share one. From then on it is sent
// until the next hop has taken it, in this process or the next one that opens the file. Only then is it
// removed. A crash between the two sends it twice, with the same ID: receivers drop the second.
//
// Messages of one publisher go out in the order in which they came, and so do the requests of a client and the
// answers to it. A message that the next hop puts off (for mail, a reply of 4xx) holds up
// those behind it, and no other publisher's. When the next hop can't be reached, all wait and it is tried after 0.1 s,
// 0.2 s and so on up to 30 s; a new message makes that sooner, a second after the last attempt.
//
// A message that is refused for good (5xx), or not taken within Options.MaxAge, becomes a dead letter: it is
// kept with the reason, can be looked at, and be sent once more when the cause is gone. One whose
// deadline has passed when its turn comes (a call that nobody waits for any more, a topic
// message past its lifespan) is dropped and counted.
//
// # What Send does not say any more
//
// That the next hop has taken the message, or refused it: Send fails only when the message
// can't be kept. A refusal is in the log and in [Outbox.Dead], and comes back to who sent the message as a
// bounce does, as long as the process lives: a call fails with
// [transport.ErrUndeliverable], and a publisher with pubsub.OnUndeliverable is told.
//
// Recipients that are not in the message but in the configuration (those of a mail carrier for
// messages without a route) are those of the process that sends it.
//
// Messages are given to the carrier several at a time (Options.Batch), which a carrier that sends several as
// one makes use of. Each has its own outcome all the same.
//
// # Limits
//
// What waits is limited in number and bytes; when it is too much, new messages are refused with
// [transport.ErrFull], or with [DropOldest] the oldest make room. The file takes the room on the disk that it once
// needed and does not shrink: at most about twice MaxBytes, with as many dead letters.
// [Outbox.Stats] says how things are; [OpenFile], and the command postbus outbox, look at the file when
// no process has it.
package outbox
