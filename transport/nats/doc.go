// Package nats carries messages over NATS: for programs that have outgrown a mailbox, and for those
// whose partners speak NATS already. Publishers, subscriptions, clients and servers stay as they are.
//
//	carrier, err := nats.Open(ctx, nats.Config{Servers: []string{"nats://localhost:4222"}}, nats.Options{})
//	node, err := postbus.New(carrier, nil)
//
// # Names and subjects
//
// A topic or service has a subject ([Subject], [Name]). A name that does not begin with "/" is its own
// subject, so "kiam.console.action.iplocation" is both; "/robot/odom" has the subject "/.robot.odom". Patterns stand
// for the same names as with every other carrier, and the server does the matching. The pattern ">" leaves out
// what is no name: the subjects of NATS itself, which begin with "$", and inboxes.
//
// A topic and a service of one name share a subject; their messages are told apart by what is in their header.
//
// # Messages
//
// Metadata travels in header fields with the same names as in mails: Message-ID, Source-Timestamp, Publisher-GID,
// Publisher-Sequence-Number, Client-GID, Request-Sequence-Number, Deadline, In-Reply-To, Service-Error, Content-Type,
// Content-Disposition; Subject with the name in answers, whose own subject is an inbox; and From if it is not what the
// Message-ID says. The application's fields follow. A byte in the name of one that NATS does not allow there is written as "%" and
// two hexadecimal digits. The payload is the body, or the text of an error. A field that can't be read counts as absent.
//
// # Other programs
//
// What has no Source-Timestamp, Publisher-GID, Client-GID and Service-Error is a message of another program, and if it has a Reply-To,
// Deadline or Body-Object these are not ours. To a subscription it is a message like others, without
// an ID and a publisher. To a server it is a request if it can be answered: then the answer is the plain
// payload, and if it is an error has the fields of micro services too, Nats-Service-Error and
// Nats-Service-Error-Code. Such a request has no deadline. A client gets the answers of other programs as they are; an error of a
// micro service is a [*transport.RemoteError]. Code 500 stands for a code that is no number. What looks like the confirmation of a stream is no
// answer, and a plain message with a field that only streams read, as Nats-Msg-Id, is not answered.
//
// The servers of a node are the endpoints of one micro service, whose name, version and description are those of the
// [Config]: "nats micro list", "info" and "stats" show them, with their requests, errors and times. Servers with Durable or Group on a name
// of a stream are not among them: their requests wait in the stream, and are seen there.
//
// # What a program can rely on
//
// Without a stream a message is delivered at most once, to those who are there: Send returns when it is in the buffer
// of the connection. It is lost if the connection breaks before it is out, or a receiver's is broken
// just then. Each publisher's order is kept, and nothing is held back. A topic message that is sent once more after an unknown outcome is delivered
// once, as far as the receiver remembers. A group is a queue group, with members of other programs, too:
// each message goes to one of them, is not tracked, and does not come again. What a member that
// stops has got in its last moment is lost with it. The server tells queue groups by their names alone, so a group of servers of one name has the group's own, G; one of
// a topic is G:topic; and those of a pattern P are G:topic:P and G:service:P, with P as a subject whose wildcards are written as %2A and
// %3E. Members of other programs use these names. A body is as large as the server allows (max_payload, 1 MB by default,
// header included); beyond that it needs a bucket of objects.
//
// A call that nobody serves fails at once with [transport.ErrNoResponder]. Whoever has subscribed to the subject counts for
// the server: with a tracer on ">", or a subscription of a topic of the same name, such a call ends at its deadline.
//
// Streams (see [Config]) make what is published to their names durable: then Send waits until the message is stored, and
// durable names, groups that remember, and the last messages of a topic are possible.
//
// A server that is killed has what it has confirmed to have stored, but may have forgotten what it had delivered in its last moments, and
// what of that was settled. So carriers write both down in a stream, and nothing that was settled is delivered again, nor to a second member of a
// group what the first one has. That costs a group one round trip more for what it delivers at a time.
//
// # Outages
//
// The carrier connects again for ever, to any server of the cluster, after a tenth of a second at first and 3.2 seconds in the
// end, less up to a half at random; the interests come back by themselves. Meanwhile Send fails at once with the outcome
// Temporary, and nothing is buffered: the node tries again, or an outbox keeps the messages. A server that is silent
// is given up after a minute. What goes wrong in the background is logged, once per change of state.
//
// Messages that come faster than the process takes them wait within 65,536 and 64 MB for each interest, and
// are dropped beyond that, counted ([Carrier.Dropped]) and logged. Queues of subscriptions and servers have bounds of their own.
package nats
