package wire

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/postbus/postbus/transport"
)

// Action is what a mail server says that became of a mail (RFC 3464 section 2.3.3).
type Action uint8

const (
	// Failed means that the mail could not be delivered and will not be.
	Failed Action = iota + 1
	// Delayed means that the mail could not be delivered yet and will be tried again.
	Delayed
	// Delivered means that the mail is in the recipient's mailbox.
	Delivered
	// Relayed means that the mail has gone to a server that sends no reports of success.
	Relayed
	// Expanded means that the mail has gone to the members of a list.
	Expanded
)

var actionNames = [...]string{Failed: "failed", Delayed: "delayed", Delivered: "delivered", Relayed: "relayed", Expanded: "expanded"}

// String returns the word of RFC 3464: "failed", "delayed", "delivered", "relayed" or
// "expanded".
func (a Action) String() string {
	if Failed <= a && a <= Expanded {
		return actionNames[a]
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Limits on reports.
const (
	// MaxReportText is the longest Report.Text, in bytes.
	MaxReportText = 1000
	// maxReportGroups is the most recipients that are read from a report. Servers
	// take a hundred for one mail (RFC 5321 section 4.5.3.1.8).
	maxReportGroups = 100
)

// Report is what a mail server writes about a mail that it could not deliver (yet), or
// that it has delivered: a delivery status notification, or "bounce".
type Report struct {
	// Original is the ID of the mail that is reported about, or zero if the report
	// does not say. Anybody can send a report about any mail: it is of use only
	// for mails whose recipients are known, and as good as the server that took it in.
	Original transport.ID
	// Messages are the IDs of the messages in that mail, if it is a batch and the report brings it
	// back: as far as it does.
	Messages []transport.ID
	// Recipient is the bare address that the mail was for, or "". If the report is
	// about several, it is the first that failed, or else the first that is delayed,
	// and More is how many others had the same fate.
	Recipient string
	More      int
	// Action is what became of the mail. It is always one of the constants.
	Action Action
	// Status is the status code of RFC 3463, such as "5.1.1" for an address that does
	// not exist, or "".
	Status string
	// Code is the reply code that the recipient's server gave in SMTP, such as 550, or
	// zero.
	Code int
	// Text is what the server says, without the codes, on one line of at most
	// MaxReportText bytes; in the server's language, and "" if it says nothing.
	Text string
}

// DecodeReport reads a report of a mail server about a mail: a delivery status notification
// (RFC 3464, RFC 6533), or one in free form as qmail, Exim and some providers write
// them. Free form is recognised by the sender (mailer-daemon, or none) and the subject,
// and gives as much as can be recognised in it.
//
// The mail may be cut off anywhere; the report then has what there is.
//
// Errors wrap ErrForeign: the mail is no such report. Read receipts (RFC 8098) and complaints
// (RFC 5965) are none.
func DecodeReport(raw []byte) (*Report, error) {
	fields, body, whole := readFields(raw)
	if !whole {
		return nil, foreign("its header section has more than %d bytes or %d fields", MaxHeaderBytes, MaxFields)
	}
	isReport := fields.mediaType() == "multipart/report"
	if !isReport && !isBounce(fields) {
		return nil, foreign("it is no delivery status notification")
	}
	if kind := param(fields.get("Content-Type"), "report-type"); isReport && len(kind) > 0 && !bytes.EqualFold(kind, []byte("delivery-status")) {
		return nil, foreign("it is a report of type %.40q", kind)
	}
	root := readMail(fields, body)
	status := root.find("message/delivery-status", "message/global-delivery-status")
	r := new(Report)
	if status != nil {
		r = readStatus(status.decoded())
	} else if root.find("message/disposition-notification", "message/feedback-report") != nil {
		return nil, foreign("it is a report of another type")
	}
	if r.Text == "" || r.Recipient == "" || r.Status == "" && r.Code == 0 {
		r.readText(fields, root.reportText())
	}
	if r.Action == 0 {
		r.Action = guessAction(r, fields)
	}
	if r.Original = pickOriginal(root, status); r.Original.IsZero() && r.Recipient == "" {
		return nil, foreign("it names neither a mail nor a recipient")
	}
	if mail := root.find("message/rfc822", "message/global"); mail != nil {
		r.Messages = batchIDs(bytes.TrimLeft(mail.decoded(), "\r\n"))
	}
	return r, nil
}

// batchIDs returns the IDs of the messages in a mail, if it is a batch.
func batchIDs(mail []byte) (ids []transport.ID) {
	messages, err := DecodeBatch(mail)
	if err != nil {
		return nil
	}
	for m, err := range messages {
		if err == nil {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// find returns the first part of one of the kinds, or nil.
func (p *part) find(kinds ...string) *part {
	for q := range p.all() {
		for _, kind := range kinds {
			if q.kind == kind {
				return q
			}
		}
	}
	return nil
}

// readStatus reads the fields of a delivery status notification: a group about the mail,
// then one for each recipient (RFC 3464 section 2.1).
func readStatus(status []byte) *Report {
	r := new(Report)
	for range maxReportGroups {
		status = bytes.TrimLeft(status, "\r\n")
		if len(status) == 0 {
			break
		}
		fields, rest, whole := readFields(status)
		if one := readRecipient(fields); one != nil {
			switch {
			case r.Action == 0 || rank(one.Action) < rank(r.Action):
				r = one
			case one.Action == r.Action:
				r.More++
			}
		}
		if !whole {
			break
		}
		status = rest
	}
	return r
}

// rank orders actions by how much they matter to the sender.
func rank(a Action) Action {
	if a == 0 {
		return Expanded + 1
	}
	return a
}

// readRecipient reads the fields about one recipient, or returns nil for those about the
// whole mail.
func readRecipient(fields fieldList) *Report {
	if !fields.has("Final-Recipient") && !fields.has("Original-Recipient") && !fields.has("Action") {
		return nil
	}
	r := &Report{Recipient: typedAddress(fields.get("Final-Recipient"))}
	if original := typedAddress(fields.get("Original-Recipient")); original != "" && r.Recipient == "" {
		r.Recipient = original
	}
	if len(fields.get("Status")) > 0 {
		r.Status = statusCode(firstWord(string(fields.get("Status"))))
	}
	r.readDiagnostic(fields)
	action := strings.ToLower(firstWord(string(fields.get("Action"))))
	for a, name := range actionNames {
		if name == action && name != "" {
			r.Action = Action(a)
		}
	}
	if r.Action == 0 {
		r.Action = guessAction(r, nil)
	}
	return r
}

// typedAddress returns the address of a field like "rfc822; alice@example.org".
func typedAddress(value []byte) string {
	_, address, ok := bytes.Cut(value, []byte(";"))
	if !ok {
		address = value
	}
	return bareAddress(cutBytes(address, MaxAddress))
}

func cutBytes(b []byte, n int) []byte { return b[:min(len(b), n)] }

func firstWord(s string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(s), " ")
	return word
}

// readDiagnostic reads what the recipient's server said: "smtp; 550 5.1.1 Unknown user".
func (r *Report) readDiagnostic(fields fieldList) {
	var text string
	for _, f := range fields {
		if isNamed(f.name, "Diagnostic-Code") {
			text = toUTF8(cutBytes(f.value, 4*MaxReportText), "")
			break
		}
	}
	if kind, rest, ok := strings.Cut(text, ";"); ok && !strings.ContainsAny(strings.TrimSpace(kind), " \t\r\n") {
		text = rest
	}
	r.setText(text)
}

// setText takes over what a server said, and the codes in it.
func (r *Report) setText(text string) {
	code, status, rest := cutReply(text)
	r.setCodes(code, status)
	if r.Text == "" {
		r.Text = cutText(rest, MaxReportText)
	}
}

func (r *Report) setCodes(code int, status string) {
	if r.Code == 0 {
		r.Code = code
	}
	if r.Status == "" {
		r.Status = status
	}
}

// guessAction returns what must have become of the mail when the report does not say it
// in as many words.
func guessAction(r *Report, fields fieldList) Action {
	subject := strings.ToLower(headerText(fields.get("Subject")))
	switch {
	case strings.HasPrefix(r.Status, "2"), r.Code/100 == 2:
		return Delivered
	case r.Code/100 == 5, strings.HasPrefix(r.Status, "5"):
		return Failed
	case containsAny(subject, "delay", "warning", "verzöger", "not yet"):
		return Delayed
	case containsAny(subject, "successful", "erfolgreich"):
		return Delivered
	case strings.HasPrefix(r.Status, "4") && fields == nil:
		return Delayed
	}
	return Failed
}

func containsAny(s string, words ...string) bool {
	for _, word := range words {
		if strings.Contains(s, word) {
			return true
		}
	}
	return false
}

// pickOriginal finds the ID of the mail that a report is about: in the mail or its header
// section that the report brings back, in the report's fields, in what it answers, or in
// its text. An ID in our form is preferred, wherever it is.
func pickOriginal(root, status *part) (picked transport.ID) {
	consider := func(ids ...transport.ID) bool {
		for _, id := range ids {
			if _, _, ours := id.Origin(); ours {
				picked = id
				return true
			}
			if picked.IsZero() {
				picked = id
			}
		}
		return false
	}
	for p := range root.all() {
		switch p.kind {
		case "message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers", "message/rfc822-headers":
			if consider(originalIDs(p.decoded())...) {
				return picked
			}
		}
	}
	if status != nil && consider(originalIDs(status.decoded())...) {
		return picked
	}
	if consider(readIDList(root.fields.get("In-Reply-To"))...) || consider(readIDList(root.fields.get("References"))...) {
		return picked
	}
	for p := range root.all() {
		if p.kind == "text/plain" || p.kind == "text/html" {
			for _, l := range p.reportLines() {
				if consider(lineID(l.text)...) {
					return picked
				}
			}
		}
	}
	return picked
}

// originalIDs returns the IDs that header fields give to the original mail.
func originalIDs(raw []byte) (ids []transport.ID) {
	fields, _, _ := readFields(bytes.TrimLeft(raw, "\r\n"))
	for _, name := range [...]string{"Message-ID", "X-Original-Message-ID", "Original-Message-ID", "X-Microsoft-Original-Message-ID"} {
		ids = append(ids, readIDList(fields.get(name))...)
	}
	return ids
}

// lineID returns the ID in a line of text that is a Message-ID field.
func lineID(line string) []transport.ID {
	line = strings.TrimLeft(cutText(line, MaxID+maxLabel), "> \t|")
	name, value, ok := strings.Cut(line, ":")
	if !ok || !strings.EqualFold(strings.TrimSpace(strings.TrimPrefix(strings.ToLower(name), "x-original-")), "message-id") {
		return nil
	}
	return readIDList([]byte(strings.TrimSpace(value)))
}
