// Package history records what a system of postbus programs does, and checks that it has
// kept the promises: nothing lost, nothing handled twice, nothing out of order.
//
// Every process appends an event to a file before and after each thing it does. The file
// is shared: one write(2) with O_APPEND adds a whole line, so that kill -9 loses nothing that
// has happened, and the order of the lines is an order in which it can have happened. A
// [Checker] reads the lines, while the system runs or afterwards.
//
// A message is named by its publisher's GID and the publisher's count of its own calls, which is in
// the body; a call in the same way by its client's.
package history

// Kind says what an event reports.
type Kind string

// The events of the harness itself.
const (
	// Start: a process (Process) has been started.
	Start Kind = "start"
	// Exit: it exists no more. Text says how it ended: Killed, or anything else.
	Exit Kind = "exit"
	// Fault: something (Text) was broken, by the harness.
	Fault Kind = "fault"
	// Out: a server was taken away, which is a fault (Text) too.
	Out Kind = "out"
	// Back: what an outage (Text) had taken away is there again.
	Back Kind = "back"
	// Expunged: the message was removed from the mailbox before everybody had fetched it.
	Expunged Kind = "expunged"
	// Quiet: everything has had the time to arrive; what has not is lost.
	Quiet Kind = "quiet"
	// Interrupted: the run was ended before everything had the time to arrive; what has not may still do so.
	Interrupted Kind = "interrupted"
)

// Killed is the Text of Exit for a process that was killed.
const Killed = "killed"

// The events of publishers.
const (
	// Publish begins; Hash is that of the body.
	Publish Kind = "pub"
	// Acked: Publish has returned nil.
	Acked Kind = "acked"
	// Failed: Publish has returned an error that says that the message was not sent.
	Failed Kind = "failed"
	// Unknown: it has returned an error that says that the message may have been sent.
	Unknown Kind = "unknown"
)

// The events of subscriptions and members of groups, which stand in Receiver.
const (
	// Open: messages of Topic published from now on are received. Mode says how.
	Open Kind = "open"
	// Take: the handling of a message begins; Hash is that of the body that has come.
	Take Kind = "take"
	// Ack: the message has been handled, and Ack is about to be called.
	Ack Kind = "ack"
	// Done: Ack has returned nil. This is what "handled" means.
	Done Kind = "done"
	// Unacked: Ack has returned an error, which says that the message, which has been handled, may come again.
	Unacked Kind = "unacked"
	// Nack: the message has been given back.
	Nack Kind = "nack"
	// Gap: messages with Sequence Number to Last of the publisher have been reported missing.
	Gap Kind = "gap"
	// Dropped: the queue had no room for so many messages (Number).
	Dropped Kind = "dropped"
)

// The events of services. The end of a server is Open, too.
const (
	// Call begins; Hash is that of the request.
	Call Kind = "call"
	// Outcome of a call; Text is one of the outcomes below.
	Outcome Kind = "outcome"
	// Run: a handler begins to work on a request.
	Run Kind = "run"
	// Answer: it has an answer, which is about to be sent and put on record.
	Answer Kind = "answer"
	// Ran: the answer has been sent and the request settled.
	Ran Kind = "ran"
	// Unran: the answer could not be sent.
	Unran Kind = "unran"
)

// The outcomes of a call.
const (
	// Answered: with the right answer.
	Answered = "answered"
	// Wrong: with the answer to something else.
	Wrong = "wrong"
	// Refused: with an error of the server's.
	Refused = "error"
	// Timeout: no answer came in time.
	Timeout = "timeout"
	// Unsent: the request was not sent.
	Unsent = "unsent"
)

// The modes of a receiving end.
const (
	// Plain remembers nothing: it owes what is published while its process lives.
	Plain = "plain"
	// Live remembers nothing, and nobody keeps for it what comes while its connection is lost: it owes nothing.
	Live = "live"
	// Durable remembers across processes, from its first Open on.
	Durable = "durable"
	// Group is shared by several processes, and gives up the order.
	Group = "group"
)

// Event is one line of a history. Which fields are set depends on Kind.
type Event struct {
	Time      int64  `json:"t"` // nanoseconds since 1970
	Kind      Kind   `json:"k"`
	Process   string `json:"p,omitempty"` // who: "durable-0#3" is the third of that name
	Receiver  string `json:"s,omitempty"` // subscription, group or server
	Publisher string `json:"g,omitempty"` // GID of the publisher or client
	Number    uint64 `json:"n,omitempty"`
	Last      uint64 `json:"l,omitempty"`
	Sequence  uint64 `json:"q,omitempty"` // Info.Sequence, which can differ: a message that was not sent gives its back
	Hash      string `json:"h,omitempty"`
	Attempt   int    `json:"a,omitempty"`
	Topic     string `json:"topic,omitempty"` // of Publish, Open and Call
	Mode      string `json:"mode,omitempty"`
	Lease     int64  `json:"lease,omitempty"` // nanoseconds
	Text      string `json:"x,omitempty"`
}
