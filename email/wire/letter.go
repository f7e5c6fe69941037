package wire

import (
	"bytes"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/postbus/postbus/transport"
)

// MaxAnswers is the most IDs of Letter.Answers. A mail program names the mail that it
// answers last in References, so those that are dropped are of the beginning of a long thread.
const MaxAnswers = 32

// Letter is a mail that is not in the format of this package: one that a person wrote, or
// some other program for people.
type Letter struct {
	// ID is the Message-ID, or zero if there is none that is usable.
	ID transport.ID
	// Answers are the mails that this one answers: the IDs of In-Reply-To, then those
	// of References from the last to the first, each once and at most MaxAnswers. It
	// is empty if Forward is set. Anybody can name any ID here.
	Answers []transport.ID
	// From is the bare address of the sender, or "" if it has none that is usable;
	// ReplyTo is where answers go: the address of Reply-To, or else From. To are the
	// bare addresses of the To field.
	From, ReplyTo string
	To            []string
	// Subject is the subject as a person reads it, encoded words decoded (RFC 2047),
	// without the prefixes that mail programs put in front ("Re: ", "AW: ", "Fwd: ",
	// a mailing list's "[name]"). It is on one line and at most MaxSubject bytes long.
	Subject string
	// Reply and Forward say that the subject had such a prefix, as the outermost
	// one says. Both are false for a mail about something new.
	Reply, Forward bool
	// Date is the Date field in UTC, or the zero time.
	Date time.Time
	// Text is what the writer wrote: UTF-8 with LF and without empty lines at either
	// end, of at most MaxLetterText bytes. Quotations, signatures and what mail
	// programs and lists add are left out, words between quotations are not. In a
	// mail that answers another it is "" if all of it was quoted; in one that does
	// not, text in quotation marks is the writer's own.
	Text string
	// Automatic says that no person wrote this to be answered: an out-of-office
	// note, a bounce, bulk mail, mail of a list (RFC 3834). It is never an
	// answer to a service request, and must not be answered.
	Automatic bool
}

const (
	// MaxSubject is the longest Letter.Subject, in bytes.
	MaxSubject = 1000
	// MaxLetterText is the longest Letter.Text, in bytes.
	MaxLetterText = maxText
)

// DecodeLetter reads a mail of a person. The letter shares no memory with raw.
//
// The mail may be cut off anywhere behind its header section; the letter then has as much
// of the text as there is. Damage is not an error either: what can't be decoded is left
// out. The text is that of the first part that has one, plain text preferred to HTML
// (RFC 2046 section 5.1.4), in any charset, flowed (RFC 3676) or not; attached texts and
// attached mails are not the writer's words. HTML is read without its markup.
//
// Errors wrap ErrForeign: the header section is longer than MaxHeaderBytes or has more than
// MaxFields fields, or there is no From field, so that this is no mail.
func DecodeLetter(raw []byte) (*Letter, error) {
	fields, body, whole := readFields(raw)
	if !whole {
		return nil, foreign("its header section has more than %d bytes or %d fields", MaxHeaderBytes, MaxFields)
	}
	if len(fields.get("From")) == 0 {
		return nil, foreign("it has no sender")
	}
	l := new(Letter)
	l.Automatic = isAutomatic(fields)
	subject := cutText(headerText(fields.get("Subject")), MaxSubject)
	l.Subject, l.Reply, l.Forward = cutPrefixes(subject)
	l.readIDs(fields)
	for l.From = range addresses(fields.get("From")) {
		break
	}
	l.ReplyTo = l.From
	for l.ReplyTo = range addresses(fields.get("Reply-To")) {
		break
	}
	l.To = slices.Collect(addresses(fields.get("To")))
	if date, err := mail.ParseDate(string(fields.get("Date"))); err == nil {
		l.Date = date.UTC()
	}
	text, _ := readMail(fields, body).text()
	reply := l.Reply || len(fields.get("In-Reply-To")) > 0 || len(fields.get("References")) > 0
	l.Text = cutText(ownWords(text, reply), MaxLetterText)
	return l, nil
}

// readIDs reads Message-ID and what the letter answers.
func (l *Letter) readIDs(fields fieldList) {
	if id := trimBrackets(fields.get("Message-ID")); validID(id) == nil {
		l.ID = transport.ParseID(string(id))
	}
	if l.Forward {
		return
	}
	references := readIDList(fields.get("References"))
	slices.Reverse(references)
	for _, id := range append(readIDList(fields.get("In-Reply-To")), references...) {
		if len(l.Answers) == MaxAnswers {
			break
		}
		if !slices.Contains(l.Answers, id) {
			l.Answers = append(l.Answers, id)
		}
	}
}

// readIDList returns the IDs of a field that holds several, or one without brackets.
func readIDList(value []byte) (ids []transport.ID) {
	if bytes.IndexByte(value, '<') < 0 && validID(value) == nil {
		return []transport.ID{transport.ParseID(string(value))}
	}
	for {
		_, after, ok := bytes.Cut(value, []byte("<"))
		if !ok {
			return ids
		}
		var text []byte
		if text, value, ok = bytes.Cut(after, []byte(">")); !ok {
			return ids
		}
		if validID(text) == nil {
			ids = append(ids, transport.ParseID(string(text)))
		}
	}
}

// text returns the lines of the text that a person would take for that of the mail. html
// says that they come from HTML.
func (p *part) text() (lines []textLine, html bool) {
	disposition := p.fields.get("Content-Disposition")
	kind, _, _ := bytes.Cut(disposition, []byte(";"))
	if bytes.EqualFold(trim(kind), []byte("attachment")) || len(param(disposition, "filename")) > 0 {
		return nil, false
	}
	switch {
	case p.kind == "multipart/alternative":
		return p.alternative()
	case p.is("multipart/"):
		for _, child := range p.parts {
			if lines, html = child.text(); hasText(lines) {
				return lines, html
			}
		}
	case p.kind == "text/html":
		return htmlLines(p.decodedText()), true
	case p.is("text/") && p.kind != "text/calendar" && p.kind != "text/rfc822-headers":
		contentType := p.fields.get("Content-Type")
		text := cleanText(p.decodedText())
		if bytes.EqualFold(param(contentType, "format"), []byte("flowed")) {
			return flowedLines(text, bytes.EqualFold(param(contentType, "delsp"), []byte("yes"))), false
		}
		return quotedLines(text), false
	}
	return nil, false
}

// alternative chooses from texts that should say the same: plain text, unless it only says
// that there is HTML.
func (p *part) alternative() (lines []textLine, html bool) {
	var placeholder []textLine
	for _, child := range p.parts {
		switch text, isHTML := child.text(); {
		case !hasText(text):
		case !isHTML && len(p.parts) > 1 && isPlaceholder(text):
			placeholder = text
		case !isHTML:
			return text, false
		case lines == nil:
			lines = text
		}
	}
	if lines == nil {
		return placeholder, false
	}
	return lines, true
}

func hasText(lines []textLine) bool {
	return slices.ContainsFunc(lines, func(l textLine) bool { return !l.isBlank() })
}

// isPlaceholder reports whether a plain text stands for one that there is in HTML only.
func isPlaceholder(lines []textLine) bool {
	if len(lines) > maxPlaceholder {
		return false
	}
	for _, l := range lines {
		if len(l.text) <= maxPattern && strings.Contains(strings.ToLower(l.text), "html") {
			s := strings.ToLower(l.text)
			for _, word := range [...]string{"view", "support", "client", "anzeigen", "unterstütz", "programm", "afficher", "visualiz"} {
				if strings.Contains(s, word) {
					return true
				}
			}
		}
	}
	return false
}

// maxPlaceholder is the most lines of a text that only says that there is HTML.
const maxPlaceholder = 6

// decodedText returns the body of a text as UTF-8.
func (p *part) decodedText() string {
	charset := param(p.fields.get("Content-Type"), "charset")
	return cutText(toUTF8(p.decoded(), string(charset)), maxText)
}
