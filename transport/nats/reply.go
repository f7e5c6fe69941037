package nats

import (
	"strconv"
	"strings"
	"time"
)

// replyAddress is where the answer to a request goes. Its text is the ReplyTo of the request.
type replyAddress struct {
	subject string
	plain   bool // the request is of another program, which knows nothing of our fields
	// endpoint is the number of the one that received the request, at that time. It is 0 if none did.
	endpoint uint64
	received time.Time
}

const plainMark = " plain" // no subject has a blank

// String returns the text that parseReply reads.
func (r replyAddress) String() string {
	var room [128]byte // mostly enough
	text := append(room[:0], r.subject...)
	if r.plain {
		text = append(text, plainMark...)
	}
	if r.endpoint != 0 {
		text = append(text, ' ')
		text = strconv.AppendUint(text, r.endpoint, 10)
		text = append(text, ' ')
		text = strconv.AppendInt(text, r.received.UnixNano(), 10)
	}
	return string(text)
}

func parseReply(text string) (r replyAddress, ok bool) {
	subject, rest, _ := strings.Cut(text, " ")
	r.subject = subject
	if word, after, _ := strings.Cut(rest, " "); word == plainMark[1:] {
		r.plain, rest = true, after
	}
	if number, received, ok := strings.Cut(rest, " "); ok {
		r.endpoint, r.received = readCount(number), readTime(received)
	}
	return r, canAnswer(r.subject)
}

// maxReply is how long the reply subject of a request may be, in bytes. A server ends the connection of who sends it
// a command of more than 4096.
const maxReply = 512

// canAnswer reports whether a reply subject is one to answer at: there is one that the server takes, and it is not its
// own, as that for the acknowledgement of a delivery by JetStream.
func canAnswer(subject string) bool {
	if subject == "" || len(subject) > maxReply || subject[0] == '$' {
		return false
	}
	token := 0 // bytes of it so far
	for i := range len(subject) {
		switch c := subject[i]; {
		case c <= ' ', c == 0x7f, c == '*', c == '>', c == '.' && token == 0:
			return false
		case c == '.':
			token = 0
		default:
			token++
		}
	}
	return token > 0
}
