package email

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// personContentType is that of what a person wrote.
const personContentType = "text/plain; charset=utf-8"

var errAutomatic = errors.New("it was sent by a program on its own: an out-of-office note, a list, bulk mail")

// foreign deals with a mail that is not in our format: a report of a mail server, or what
// a person has written. Of a large mail the body is only the beginning, which is enough.
func (r *reader) foreign(f fetched, cause error) verdict {
	if report, err := wire.DecodeReport(f.body); err == nil {
		return r.report(f, report)
	}
	letter, err := wire.DecodeLetter(f.body)
	switch {
	case err != nil:
		r.audience.skip(f.uid, ForeignMail, cause)
	case letter.Automatic:
		r.audience.skip(f.uid, AutomaticMail, errAutomatic)
	default:
		if m := r.personal(letter); m != nil {
			return r.deliver(f, m)
		}
		r.audience.skip(f.uid, ForeignMail, cause)
	}
	return settled
}

// report delivers the news that a message could not be delivered to whoever sent it. Nodes
// that share a mailbox all see it, so it is nothing unusual if nobody here did.
func (r *reader) report(f fetched, report *wire.Report) verdict {
	if r.quiet {
		return settled // those who read for themselves have sent nothing
	}
	level := slog.LevelDebug
	if report.Action == wire.Failed {
		if _, _, ours := report.Original.Origin(); ours && r.undeliverable(f, report) > 0 {
			return settled
		}
		level = slog.LevelInfo
	}
	r.logger.Log(context.Background(), level, "email: a mail server reports on a mail that nobody here waits to hear of", "mailbox", r.address,
		"uid", f.uid, "action", report.Action.String(), "message_id", report.Original.String(), "code", report.Code, "text", reportText(report))
	return settled
}

// undeliverable delivers the report of a failure, for each message that was in the mail, and returns
// how many were somebody's here.
func (r *reader) undeliverable(f fetched, report *wire.Report) (n int) {
	message := transport.Message{
		Kind:  transport.Undeliverable,
		Error: &transport.RemoteError{Code: report.Code, Text: reportText(report)},
	}
	message.Info.ReceivedTime = time.Now()
	// Reports in free form may lack the rest.
	if letter, err := wire.DecodeLetter(f.body); err == nil {
		message.ID, message.From, message.To, message.Info.SourceTime = letter.ID, letter.From, letter.To, letter.Date
	}
	originals := r.sent.messages(report.Original)
	if len(originals) == 0 {
		originals = report.Messages // as far as the report has them
	}
	if len(originals) == 0 {
		originals = []transport.ID{report.Original}
	}
	for _, id := range originals {
		m := message
		m.InReplyTo = id
		wanted, _ := r.audience.take(f, &m)
		n += min(wanted, 1)
	}
	return n
}

// reportText says for people what a report says: the recipient, the codes and the words
// of the server. It is shorter than transport.MaxErrorText.
func reportText(report *wire.Report) string {
	var words []string
	if report.Recipient != "" {
		words = append(words, report.Recipient+":")
	}
	if report.Code != 0 {
		words = append(words, fmt.Sprint(report.Code))
	}
	if report.Status != "" {
		words = append(words, report.Status)
	}
	if report.Text != "" {
		words = append(words, report.Text)
	} else if report.Status == "" && report.Code == 0 {
		words = append(words, report.Action.String(), "without a reason given")
	}
	if report.More > 0 {
		words = append(words, fmt.Sprintf("(and %d more recipients)", report.More))
	}
	return strings.Join(words, " ")
}

// personal returns what a person's letter is as a message that somebody wants, or nil.
func (r *reader) personal(letter *wire.Letter) *transport.Message {
	m := &transport.Message{
		Kind:        transport.Response,
		Body:        []byte(letter.Text),
		ContentType: personContentType,
		ID:          letter.ID,
		From:        letter.From,
		ReplyTo:     letter.ReplyTo,
		To:          letter.To,
		Person:      true,
	}
	if m.Info.SourceTime = letter.Date; letter.Date.IsZero() {
		m.Info.SourceTime = time.Now()
	}
	if transport.ValidateName(letter.Subject) == nil {
		m.Name = letter.Subject
	}
	for _, m.InReplyTo = range letter.Answers {
		if r.audience.wants(m) {
			return m
		}
	}
	if m.InReplyTo = (transport.ID{}); m.Name == "" || letter.Forward || !r.people.include(letter.From) {
		return nil
	}
	// An answer needs the ID of what it answers.
	if m.Kind = transport.Request; !letter.ID.IsZero() && !continues(letter) && r.audience.wants(m) {
		return m
	}
	if m.Kind = transport.TopicMessage; r.audience.wants(m) {
		return m
	}
	return nil
}

// continues reports whether a letter belongs to a thread that a message of ours began.
// Then it is no request: where nodes share a mailbox, it may be the answer to a call of
// another's.
func continues(letter *wire.Letter) bool {
	if len(letter.Answers) == 0 {
		return false
	}
	_, _, ours := letter.Answers[len(letter.Answers)-1].Origin()
	return ours
}

// people are the senders who may publish and call by mail: addresses, and whole domains
// with the "@" in front, all in lower case.
type people map[string]bool

// include reports whether address is one of theirs.
func (p people) include(address string) bool {
	address = strings.ToLower(address)
	at := strings.LastIndexByte(address, '@')
	return p[address] || at >= 0 && p[address[at:]]
}

// newPeople reads the list of the configuration.
func newPeople(list []string) (people, error) {
	p := make(people)
	for _, entry := range list {
		var person []string
		if err := addPerson(&person)(entry); err != nil {
			return nil, err
		}
		p[strings.ToLower(person[0])] = true
	}
	return p, nil
}

// addPerson adds an address, or a domain with the "@" in front.
func addPerson(to *[]string) func(string) error {
	return func(s string) error {
		if !strings.HasPrefix(s, "@") {
			return addAddress(to)(s)
		}
		if address, err := parseAddress("anybody" + s); err != nil || address != "anybody"+s {
			return fmt.Errorf("%q is neither a mail address nor a domain with an @ in front", s)
		}
		*to = append(*to, s)
		return nil
	}
}
