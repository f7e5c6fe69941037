package email

import (
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-smtp"
)

// tally is what an LMTP server says to a mail: something for each recipient, who may get it although another
// does not (RFC 2033 section 4.2).
type tally struct {
	taken                         []string // by these
	permanent, temporary, unclear error    // the first reply of each kind that is no yes
}

// note adds what the server says for a recipient; nil, or a reply that says yes, means that it has
// taken the mail.
func (t *tally) note(to string, err error) {
	class := 2
	if err != nil {
		class = 0
		if reply := replyIn(err); reply != nil {
			class = reply.Code / 100
		}
	}
	first := &t.unclear
	switch class {
	case 2:
		t.taken = append(t.taken, to)
		return
	case 4:
		first = &t.temporary
	case 5:
		first = &t.permanent
	}
	if *first == nil {
		*first = explainReply("recipient "+to, err, true)
	}
}

// conclude judges the mail by what was said for all recipients. If only some have it the outcome is the others',
// and it says so; as long as it may still reach them that is unknown, for to those that have it the
// mail is taken.
func (t *tally) conclude(c *submission, taken *bool) error {
	var err error
	switch {
	case t.unclear != nil:
		c.broken, *taken = true, true
		return t.unclear
	case t.permanent != nil:
		err = t.permanent
	case t.temporary != nil:
		err, *taken = t.temporary, len(t.taken) > 0
		c.broken = leaves(err)
	default:
		*taken = true
		return nil
	}
	if len(t.taken) > 0 {
		err = takenBySome{fmt.Errorf("%w (the mail has been taken for %s)", err, strings.Join(t.taken, ", "))}
	}
	return err
}

// takenBySome is the error of a mail that some of its recipients have. If there are several messages in it they share its fate: sent again
// they would reach those a second time.
type takenBySome struct{ error }

func (e takenBySome) Unwrap() error { return e.error }

// hearEach hears what an LMTP server says to the whole mail.
func (c *submission) hearEach(recipients []string, taken *bool) error {
	var t tally
	for _, to := range recipients {
		reply, err := c.talk.reply(submissionTimeout)
		if err == nil {
			err = reply
		}
		if t.note(to, err); t.unclear != nil {
			break
		}
	}
	return t.conclude(c, taken)
}

// closeEach ends a mail that go-smtp's client has sent to an LMTP server.
func (c *submission) closeEach(data *smtp.DataCommand, recipients []string, taken *bool) error {
	replies, err := data.CloseWithLMTPResponse()
	refused, _ := errors.AsType[smtp.LMTPDataError](err)
	var t tally
	for _, to := range recipients {
		if reply := refused[to]; reply != nil {
			t.note(to, reply)
		} else if replies[to] != nil {
			t.note(to, nil)
		} else {
			t.note(to, fmt.Errorf("no reply: %v", err)) // not %w: err may hold the replies for others
		}
	}
	return t.conclude(c, taken)
}
