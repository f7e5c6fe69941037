// Package service has the ends of a request/response service: clients and servers.
//
//	client, err := service.NewClient(node, "/add_two_ints")
//	answer, err := client.Call(ctx, request)
//
//	server, err := service.NewServer(node, "/add_two_ints")
//	err = server.Handle(func(ctx context.Context, request *transport.Message) ([]byte, error) { … })
//
// Every call has one outcome. A request that reaches a server gets one answer: a
// result, or an error with a code and a text, also when the handler panics or the
// request can't be decoded. The client gets an error answer as a
// [*transport.RemoteError]. A call whose answer does not come by its deadline fails
// with transport.ErrTimeout; where the carrier can know that nobody serves the name,
// it fails at once with transport.ErrNoResponder. An answer that comes too late, or a
// second time, is dropped and counted.
//
// The deadline of a call is that of its context, or [DefaultTimeout] from the call. It
// travels in the request, so that servers can give up in time; the clocks of both
// sides should agree. Any number of calls can be under way at once, and their answers
// may come in any order: each call gets its own, since calls are told apart by the
// client's GID and a number.
//
// Several servers of one name all get each request; the first answer to arrive counts. Members of a
// [Group] share the requests: each goes to one of them.
//
// # Requests that come twice
//
// Mail can come twice, and a client whose connection broke sends its request again. A server handles
// such a request once: while it is being handled a repetition waits for the outcome, which is sent to each sender, and after that it
// gets the same answer once more (the client drops what it does not need). For that a server keeps its
// answers, within [KeptAnswers], [KeptBytes] and [KeptAge]; older requests are handled again. They are
// kept in memory: where a [Durable] server's carrier knows that a former process has answered the
// request, the repetition is dropped. Other servers do not know what a former process, or another
// server of the name, has answered.
//
// # Nothing lost
//
// A request of a [Durable] server or a [Group] is done with when the next hop has taken its answer, and
// that is on record. Until then it comes again: to the next server of the durable name, to another
// member when one closes, dies or is silent for a [Lease]. A process that dies between the handler's
// return and that moment has its last requests handled a second time; no carrier can tell these apart
// from those that were not handled. An error of a handler, or its panic, is an answer.
//
// An answer that can't be sent is tried until the deadline of its request, and for half a minute at
// least. If all was in vain the request comes again later, as if it had not been handled: this server
// then sends the answer that it has kept, and another one finds that the deadline has passed, and does
// not run its handler. Only a request without a deadline, as a person's is, can be handled twice in
// this way. If the answer is refused for good the request becomes a dead letter.
//
// # Results that may be used again
//
// A server with a [Cache] answers the same request with the result that it has, for as long as that may
// be used, and runs its handler once for all that ask at the same time.
//
// # Close
//
// A server that is closed answers what has arrived: see [Server.Close]. If its answers can't be sent
// then, what a handler has done is tried as ever, but all else shares half a minute: requests that
// are turned away, and answers that are to be sent once more. A [Durable] server or a [Group] gives these back
// instead. What Close gives up of other servers ends for its caller at the deadline of the call.
//
// # Cost
//
// A call within a process takes two switches between goroutines and a few allocations; its deadline costs
// a timer only if somebody waits for the context. The handlers of a server share goroutines that stay: one or two
// wait for the next request, and as many more as [Concurrency] allows are there while requests come faster
// than they are answered. To find out that there is a result that may be used again takes a third of a microsecond for a small
// request, and the time of a SHA-256 for a large one.
package service

import "time"

// DefaultTimeout is how long a call waits for its answer when its context has no
// deadline.
const DefaultTimeout = time.Minute

// MaxOutstanding is how many calls of one client can be under way, or answered and
// not yet collected, at once.
const MaxOutstanding = 1 << 14

// The codes of the errors that this package itself answers with. Their numbers are
// those of HTTP that come nearest. Handlers choose their own with a
// [*transport.RemoteError].
const (
	// CodeBadRequest: the request could not be decoded.
	CodeBadRequest = 400
	// CodeError: the handler failed or panicked. The text of an error is that of
	// the handler's.
	CodeError = 500
	// CodeClosing: the server was closed before the request's turn came.
	CodeClosing = 503
	// CodeDeadline: the deadline of the request had passed before there was a result.
	CodeDeadline = 504
)
