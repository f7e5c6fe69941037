package wire

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// bounceSubjects are in the subjects of reports, in lower case.
var bounceSubjects = []string{
	"undeliver", "failure notice", "delivery status notification", "delivery failure", "delivery failed", "delivery report",
	"mail delivery", "returned mail", "mail system error", "non remis", "unzustellbar", "nicht zugestellt", "zustellung",
	"non delivery", "non-delivery", "nondelivery", "message delayed", "could not be delivered", "no se puede entregar",
	"non recapitabile", "mancata consegna", "delivery has failed", "delivery notification", "rejected mail", "could not send message",
	"недоставлен", "не доставлен", "не удалось доставить", "未送達", "退信", "配信",
}

// isBounce reports whether the header section is that of a report in free form: one that
// comes from a mail server, or from nobody and says so in the subject. Out-of-office
// notes come from nobody, too.
func isBounce(fields fieldList) bool {
	if fields.has("X-Failed-Recipients") {
		return true
	}
	subject := strings.ToLower(headerText(fields.get("Subject")))
	says := slices.ContainsFunc(bounceSubjects, func(s string) bool { return strings.Contains(subject, s) }) || strings.HasPrefix(subject, "warning:")
	switch name := senderName(fields); {
	case name == "mailerdaemon", name == "maildaemon":
		return true
	case isServer(fields):
		return says
	}
	return says && strings.ReplaceAll(string(fields.get("Return-Path")), " ", "") == "<>"
}

// reportLines returns the lines of a text in a report.
func (p *part) reportLines() []textLine {
	if p.kind == "text/html" {
		return htmlLines(p.decodedText())
	}
	lines := strings.SplitN(cleanText(p.decodedText()), "\n", maxLines)
	made := make([]textLine, len(lines))
	for i, l := range lines {
		made[i].text = l
	}
	return made
}

// reportText returns the lines of the first text of a report, up to where the original
// mail begins that some servers put into the same text.
func (p *part) reportText() []textLine {
	for q := range p.all() {
		if q.kind != "text/plain" && q.kind != "text/html" {
			continue
		}
		lines := q.reportLines()
		if !hasText(lines) {
			continue
		}
		for i, l := range lines {
			if bringsBack(l.text) {
				return lines[:i]
			}
		}
		return lines
	}
	return nil
}

// bringsBack reports whether a line introduces the original mail: "--- Below this line is
// a copy of the message."
func bringsBack(line string) bool {
	if len(line) > maxPattern || !strings.HasPrefix(line, "--") {
		return false
	}
	return containsAny(strings.ToLower(line), "copy of", "original", "header", "returned message", "kopie")
}

// readText takes over from the text of a report what is missing: the recipient, and what is
// said about it.
func (r *Report) readText(fields fieldList, lines []textLine) {
	if r.Recipient == "" {
		for address := range addresses(fields.get("X-Failed-Recipients")) {
			if r.Recipient == "" {
				r.Recipient = address
			} else {
				r.More++
			}
		}
	}
	at := -1
	for i, l := range lines {
		if len(l.text) > maxPattern {
			continue
		}
		if r.Recipient == "" {
			r.Recipient = lineAddress(l.text)
		}
		if r.Recipient != "" && strings.Contains(l.text, r.Recipient) {
			at = i
			break
		}
	}
	if at < 0 {
		at = 0 // the whole text
	}
	said := paragraph(lines[min(at, len(lines)):])
	if rest, ok := strings.CutPrefix(said, r.Recipient); ok && r.Recipient != "" {
		said = rest
	} else if rest, ok := strings.CutPrefix(said, "<"+r.Recipient+">"); ok {
		said = rest
	}
	said = strings.TrimLeft(said, ": \t\n")
	if code, _, _ := cutReply(said); code == 0 {
		if i := findReply(said); i > 0 && said[i-1] == '(' {
			code, status, _ := cutReply(said[i:])
			r.setCodes(code, status)
		} else if i >= 0 { // after words of the server that had the mail
			said = said[i:]
		} else if all := joinedText(lines); r.Code == 0 && r.Status == "" {
			if i := findReply(all); i >= 0 {
				r.setText(all[i:])
			}
		}
	}
	r.setText(said)
}

// lineAddress returns the address in a line that begins with one: "<alice@example.org>:".
func lineAddress(line string) string {
	word := firstWord(strings.ReplaceAll(strings.TrimLeft(line, " \t*•-"), "\t", " "))
	word = strings.TrimRight(word, ":,;")
	if !strings.Contains(word, "@") {
		return ""
	}
	return bareAddress([]byte(word))
}

// joinedText returns the lines that are not empty, cut to what is looked at.
func joinedText(lines []textLine) string {
	var b strings.Builder
	for _, l := range lines {
		if b.Len() > maxReportWords {
			break
		}
		if !l.isBlank() {
			b.WriteString(strings.TrimSpace(cutText(l.text, maxReportWords)))
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// maxReportWords is how much of the text of a report is searched for an SMTP reply, in bytes.
const maxReportWords = 16 << 10

// paragraph returns lines up to the first empty one after the words began, cut to what a
// report holds.
func paragraph(lines []textLine) string {
	var b strings.Builder
	for _, l := range lines {
		if l.isBlank() && b.Len() > 0 || b.Len() > 2*MaxReportText {
			break
		}
		if !l.isBlank() {
			b.WriteString(cutText(strings.TrimSpace(l.text), 2*MaxReportText))
			b.WriteByte('\n')
		}
	}
	return b.String()
}

var (
	// replyLine is a line of an SMTP reply (RFC 5321 section 4.2), with the status code of
	// RFC 2034 if there is one.
	replyLine = regexp.MustCompile(`^[ \t]*([245][0-5][0-9])(?:[ -]+|$)#?([245]\.[0-9]{1,3}\.[0-9]{1,3})?[ \t]*`)
	// replyWithStatus and replyAlone are where one begins in a text, with a status code or
	// without. Numbers are many, so one without must come after a colon or on a new line.
	replyWithStatus = regexp.MustCompile(`(?:^|[\s:;("])([45][0-5][0-9])[ -]#?[45]\.[0-9]{1,3}\.[0-9]{1,3}\b`)
	replyAlone      = regexp.MustCompile(`(?:^|[:;\n])[ \t]*([45][0-5][0-9])[ -][A-Za-z<]`)
	statusInText    = regexp.MustCompile(`^([245]\.[0-9]{1,3}\.[0-9]{1,3})\b[ \t]*`)
)

// cutReply cuts the codes off what a server said, and off each of its lines that repeats
// them, and makes one line of it.
func cutReply(said string) (code int, status, text string) {
	var words []string
	for line := range strings.SplitSeq(strings.ReplaceAll(said, "\r", ""), "\n") {
		if m := replyLine.FindStringSubmatch(line); m != nil && (code == 0 && len(words) == 0 || m[1] == strconv.Itoa(code)) {
			if code == 0 {
				code, _ = strconv.Atoi(m[1])
			}
			if status == "" {
				status = m[2]
			}
			line = line[len(m[0]):]
		} else if m := statusInText.FindStringSubmatch(strings.TrimSpace(line)); m != nil && len(words) == 0 && status == "" {
			status, line = m[1], strings.TrimSpace(line)[len(m[0]):]
		}
		if line = oneLine(line); line != "" {
			words = append(words, line)
		}
	}
	return code, statusCode(status), strings.Join(words, " ")
}

// findReply returns where an SMTP reply begins in a text, or -1.
func findReply(text string) int {
	m := replyWithStatus.FindStringSubmatchIndex(text)
	if m == nil {
		m = replyAlone.FindStringSubmatchIndex(text)
	}
	if m == nil {
		return -1
	}
	return m[2]
}

// statusCode returns a status code if it has the form of RFC 3463 section 2, and else "".
func statusCode(s string) string {
	if m := statusInText.FindString(s); m == s {
		return s
	}
	return ""
}
