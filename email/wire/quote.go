package wire

import "strings"

// maxLines is the most lines of a text that are read. It bounds the memory that a text of
// line endings alone would take.
const maxLines = 1 << 15

// textLine is a line of a text, or with format=flowed and in HTML a paragraph.
type textLine struct {
	text  string
	quote int // how many writers ago: 0 for the writer's own words
	mark  lineMark
	label label // see labelOf
}

// lineMark says what HTML tells about a line beyond its words.
type lineMark uint8

const (
	markAttribution lineMark = 1 << iota // it says who is quoted
	markRule                             // it comes after a rule across the page
	markCut                              // it was appended when the mail was sent
	markHTML                             // its quotation is an indentation, not a mark before the line
)

func (l *textLine) isBlank() bool { return strings.TrimSpace(l.text) == "" }

// kept returns a quoted line as a writer's own that it turned out to be.
func (l *textLine) kept() textLine {
	if l.quote == 0 || l.mark&markHTML != 0 {
		return textLine{text: l.text}
	}
	return textLine{text: strings.Repeat(">", l.quote) + " " + l.text}
}

// quotedLines returns the lines of a plain text, each without the quotation marks before it.
func quotedLines(text string) []textLine {
	lines := make([]textLine, 0, min(strings.Count(text, "\n")+1, maxLines))
	for more := true; more && len(lines) < maxLines; {
		var l textLine
		l.text, text, more = strings.Cut(text, "\n")
		if !strings.HasPrefix(l.text, ">From ") || len(lines) > 0 && lines[len(lines)-1].quote > 0 {
			l.quote, l.text = cutMarks(l.text)
		} else {
			l.text = l.text[1:] // a mail store wrote the mark (RFC 4155), no person
		}
		lines = append(lines, l)
	}
	return lines
}

// cutMarks counts and cuts off the quotation marks of a line: ">>", "> >".
func cutMarks(line string) (quote int, text string) {
	for strings.HasPrefix(line, ">") {
		quote++
		if line = line[1:]; strings.HasPrefix(line, " >") {
			line = line[1:]
		}
	}
	if quote > 0 {
		line = strings.TrimPrefix(line, " ")
	}
	return quote, line
}

// flowedLines returns the paragraphs of a format=flowed text (RFC 3676 section 4.2): lines
// of one depth of quotation that end in a blank go on in the next. With delSp that
// blank is no part of the text.
func flowedLines(text string, delSp bool) []textLine {
	var lines []textLine
	var paragraph strings.Builder
	quote := 0 // of the paragraph
	flows := false
	for more := true; more && len(lines) < maxLines; {
		var line string
		line, text, more = strings.Cut(text, "\n")
		depth := 0
		for strings.HasPrefix(line, ">") {
			depth, line = depth+1, line[1:]
		}
		line = strings.TrimPrefix(line, " ") // stuffed
		if flows && (depth != quote || line == "-- ") {
			lines = append(lines, textLine{text: paragraph.String(), quote: quote})
			paragraph.Reset()
		}
		quote = depth
		flows = strings.HasSuffix(line, " ") && line != "-- "
		if flows && delSp {
			line = line[:len(line)-1]
		}
		paragraph.WriteString(line)
		if !flows || !more {
			lines = append(lines, textLine{text: paragraph.String(), quote: quote})
			paragraph.Reset()
		}
	}
	return lines
}

// words separates the words of a writer from those of others.
type words struct {
	lines []textLine
	// reply is set if the mail answers another. In one that does not, what looks
	// like a quotation without a program's word for it is the writer's own.
	reply bool
	// lastQuote is the index after the last quoted line.
	lastQuote int
	own       []string // what has been found, blocks separated by an empty line
	block     []textLine
}

// ownWords returns what the writer of a mail has written: without quotations, the lines
// that introduce them, forwarded mails, signatures and footers. Words between quotations
// are kept. What is left of a reply may be nothing. Of another mail with nothing else
// the quotations are kept, for they are what the writer wanted to say.
func ownWords(lines []textLine, reply bool) string {
	w := words{lines: lines, reply: reply}
	for i := range lines {
		if lines[i].quote > 0 {
			w.lastQuote = i + 1
		}
	}
	w.run()
	text := strings.Join(w.own, "\n")
	if text == "" && !reply {
		w = words{}
		for _, l := range lines {
			w.block = append(w.block, l.kept())
		}
		w.endBlock(false)
		text = strings.Join(w.own, "\n")
	}
	if !strings.Contains(text, "\n") {
		text = strings.TrimSpace(text)
	}
	return text
}

// run goes through the lines once.
func (w *words) run() {
	for i := 0; i < len(w.lines); {
		l := &w.lines[i]
		if l.quote > 0 {
			i = w.quotation(i)
			continue
		}
		next := w.introduction(i)
		switch {
		case next == i:
			w.block = append(w.block, *l)
			i++
		case next < len(w.lines) && w.lines[next].quote > 0: // of a quotation that is marked
			i = next
		default: // of one that is not: all that follows
			w.endBlock(false)
			return
		}
	}
	w.endBlock(false)
}

// quotation passes over the quoted lines from i on, and returns the index of the next of
// the writer's own.
func (w *words) quotation(i int) int {
	introduced := w.reply || w.attribution() > 0
	end := i
	for j := i; j < w.lastQuote; j++ {
		if w.lines[j].quote > 0 {
			end = j + 1
		} else if !w.lines[j].isBlank() {
			break
		}
	}
	if introduced {
		w.endBlock(true)
		return end
	}
	for _, l := range w.lines[i:end] {
		w.block = append(w.block, l.kept())
	}
	return end
}

// introduction returns the index of the first line after the lines from i on by which a
// mail program introduces another mail, or i if there are none.
func (w *words) introduction(i int) int {
	l := &w.lines[i]
	switch {
	case l.mark&markCut != 0, isFooter(w.lines[i:]):
		return len(w.lines)
	case l.isBlank():
		return i
	case isSeparator(l.text):
		return w.skipBlank(i + 1)
	}
	if n, sure := headerBlock(w.lines[i:]); n > 0 {
		rule, ruled := w.rule()
		ruled = ruled || l.mark&markRule != 0
		if w.reply && (sure || ruled) || ruled && sure {
			w.block = w.block[:rule]
			return w.skipBlank(i + n)
		}
	}
	if w.reply && i >= w.lastQuote {
		for n := 1; n <= maxAttribution && i+n <= len(w.lines) && !w.lines[i+n-1].isBlank(); n++ {
			if rateLines(w.lines[i:i+n]) == certain {
				return len(w.lines)
			}
		}
	}
	return i
}

func (w *words) skipBlank(i int) int {
	for i < len(w.lines) && w.lines[i].quote == 0 && w.lines[i].isBlank() {
		i++
	}
	return i
}

// rule returns the length of the block without the rule of underscores at its end, and
// whether there is one.
func (w *words) rule() (length int, ruled bool) {
	n := len(w.block)
	for n > 0 && w.block[n-1].isBlank() {
		n--
	}
	if n == 0 || !isRule(w.block[n-1].text) {
		return len(w.block), false
	}
	return n - 1, true
}

// attribution returns how many lines at the end of the block say who is quoted next,
// with the empty lines after them.
func (w *words) attribution() int {
	n := len(w.block)
	for n > 0 && w.block[n-1].isBlank() {
		n--
	}
	marked := 0
	for marked < n && w.block[n-1-marked].mark&markAttribution != 0 {
		marked++
	}
	if marked > 0 {
		return len(w.block) - n + marked
	}
	if len(w.block)-n > 2 { // too far from the quotation to belong to it
		return 0
	}
	found := 0
	for k := 1; k <= maxAttribution && k <= n && !w.block[n-k].isBlank(); k++ {
		rating := rateLines(w.block[n-k : n])
		if rating == certain || found == 0 && rating != unlikely {
			found = len(w.block) - n + k
		}
		if rating >= dated { // the lines above are not needed to make it complete
			break
		}
	}
	return found
}

// endBlock ends a block of the writer's own lines, before a quotation or at the end.
func (w *words) endBlock(beforeQuote bool) {
	if beforeQuote {
		w.block = w.block[:len(w.block)-w.attribution()]
	}
	block := cutSignature(w.block)
	for len(block) > 0 && block[0].isBlank() {
		block = block[1:]
	}
	for len(block) > 0 && block[len(block)-1].isBlank() {
		block = block[:len(block)-1]
	}
	if len(block) > 0 && len(w.own) > 0 {
		w.own = append(w.own, "")
	}
	for _, l := range block {
		w.own = append(w.own, strings.TrimRight(l.text, " \t"))
	}
	w.block = w.block[:0]
}

// rateLines rates lines as an attribution that a mail program has broken.
func rateLines(lines []textLine) rating {
	if !endsInColon(lines[len(lines)-1].text) {
		return unlikely
	}
	var b strings.Builder
	for _, l := range lines {
		if b.Len()+len(l.text) > maxPattern {
			return unlikely
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(l.text)
	}
	rated := rateAttribution(b.String())
	if len(lines) > 1 && rated == certain && digits(lines[0].text) < 4 {
		return unlikely // the date comes first in those that begin like this
	}
	return rated
}
