package wire

import (
	"bytes"
	"math/bits"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// maxElements is how deep elements may nest in an HTML text. Deeper ones are read without
// regard to what they are inside of. Quotations of quotations reach a few dozens.
const maxElements = 256

// element is what an open element means for the text in it.
type element struct {
	tag  atom.Atom
	does effect
}

// effect is a set of meanings.
type effect uint8

const (
	quotes      effect = 1 << iota // the text is a quotation
	hides                          // the text is not shown, or is a signature
	attributes                     // the text says who is quoted
	keepsBlanks                    // line endings and blanks are the writer's
)

// htmlText is an HTML text on its way to lines. It works on tokens and a stack that is
// bounded, not on a tree: mail nests as it likes.
type htmlText struct {
	lines []textLine
	line  strings.Builder
	open  []element
	lost  int      // open elements that are not on the stack, because it is full
	count [4]int   // open elements of each effect
	blank bool     // a blank is due before the next word
	tight bool     // no empty line is due after the paragraph
	gap   bool     // an empty line is due before the next one
	mark  lineMark // of the next line
}

// htmlLines returns the text of an HTML document as lines, as a browser would show it
// without style sheets.
func htmlLines(document string) []textLine {
	var h htmlText
	z := html.NewTokenizer(strings.NewReader(document))
	for len(h.lines) < maxLines {
		switch z.Next() {
		case html.ErrorToken: // the end
			h.endLine()
			return h.lines
		case html.TextToken:
			h.text(z.Text())
		case html.StartTagToken, html.SelfClosingTagToken:
			h.start(z)
		case html.EndTagToken:
			name, _ := z.TagName()
			h.end(atom.Lookup(name))
		}
	}
	return h.lines
}

// start begins an element.
func (h *htmlText) start(z *html.Tokenizer) {
	name, more := z.TagName()
	tag := atom.Lookup(name)
	switch tag {
	case atom.Br:
		h.breakLine()
		return
	case atom.Hr:
		h.endLine()
		h.mark |= markRule
		return
	case atom.Td, atom.Th:
		h.blank = h.line.Len() > 0
	}
	does, block := tagEffect(tag), isBlock(tag)
	if block {
		h.endLine()
		h.tight = false
	}
	for more && (block || tag == atom.Span) {
		var key, value []byte
		key, value, more = z.TagAttr()
		does = h.attribute(tag, does, string(key), value)
	}
	h.gap = h.gap || tag == atom.P && !h.tight
	if does != 0 || tag != atom.P && isTracked(tag) {
		h.push(element{tag, does})
	}
	if tag == atom.Li {
		h.word("-")
		h.blank = true
	}
}

// end ends an element, and those inside of it that are still open.
func (h *htmlText) end(tag atom.Atom) {
	block := isBlock(tag)
	if block {
		h.endLine()
		h.gap = h.gap || tag == atom.P && !h.tight
	}
	if !isTracked(tag) {
		return
	}
	if h.lost > 0 {
		if tag != atom.P {
			h.lost--
		}
		return
	}
	inline := !block && tag != atom.Td && tag != atom.Th
	for i := len(h.open) - 1; i >= 0; i-- {
		open := h.open[i].tag
		if open == tag {
			h.pop(i)
			return
		}
		// As browsers do: a cell contains its mistakes, and a block those of the
		// words in it.
		if cell := open == atom.Td || open == atom.Th; inline && isBlock(open) ||
			cell && tag != atom.Tr && tag != atom.Table {
			return
		}
	}
}

// push opens an element.
func (h *htmlText) push(e element) {
	if len(h.open) == maxElements {
		h.lost++
		return
	}
	h.open = append(h.open, e)
	h.tally(e.does, 1)
}

// pop closes the open elements down to index i.
func (h *htmlText) pop(i int) {
	for _, e := range h.open[i:] {
		h.tally(e.does, -1)
	}
	h.open = h.open[:i]
}

// tally counts the effects of an element that opens or closes.
func (h *htmlText) tally(does effect, n int) {
	for i := range h.count {
		if does>>i&1 != 0 {
			h.count[i] += n
		}
	}
}

// inside returns how many open elements have an effect.
func (h *htmlText) inside(e effect) int { return h.count[bits.TrailingZeros8(uint8(e))] }

// text adds text. Outside of <pre>, any number of blanks and line endings is one blank.
func (h *htmlText) text(text []byte) {
	if h.inside(keepsBlanks) > 0 {
		for {
			line, rest, more := bytes.Cut(text, []byte("\n"))
			h.word(string(line))
			if !more {
				return
			}
			h.breakLine()
			text = rest
		}
	}
	for len(text) > 0 {
		i := bytes.IndexAny(text, " \t\r\n\f")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			h.word(string(text[:i]))
			text = text[i:]
			continue
		}
		h.blank = h.line.Len() > 0
		text = text[1:]
	}
}

// word adds text to the line.
func (h *htmlText) word(s string) {
	if s == "" || h.inside(hides) > 0 {
		return
	}
	if h.line.Len() == 0 && h.gap {
		h.gap = false
		if len(h.lines) > 0 {
			h.add("")
		}
	}
	if h.blank {
		h.line.WriteByte(' ')
	}
	h.blank = false
	h.line.WriteString(strings.ReplaceAll(s, "\u00A0", " "))
}

// breakLine ends the line, also an empty one.
func (h *htmlText) breakLine() {
	if h.inside(hides) > 0 {
		return
	}
	h.gap = false
	h.add(h.line.String())
	h.line.Reset()
	h.blank = false
}

// endLine ends the line unless it is empty.
func (h *htmlText) endLine() {
	if h.line.Len() > 0 {
		h.breakLine()
	}
	h.blank = false
}

// add adds a line, unless there are too many.
func (h *htmlText) add(s string) {
	if len(h.lines) >= maxLines {
		return
	}
	mark := h.mark | markHTML
	if h.inside(attributes) > 0 {
		mark |= markAttribution
	}
	if s != "" {
		h.mark &^= markRule
	}
	h.lines = append(h.lines, textLine{text: dropControls(s), quote: h.inside(quotes), mark: mark})
}

// isBlock reports whether an element begins on a line of its own.
func isBlock(tag atom.Atom) bool {
	switch tag {
	case atom.Div, atom.P, atom.Blockquote, atom.Pre, atom.Table, atom.Tr, atom.Ul, atom.Ol, atom.Li, atom.Dl, atom.Dt,
		atom.Dd, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Section, atom.Article, atom.Header,
		atom.Footer, atom.Center, atom.Address, atom.Form, atom.Fieldset, atom.Figure, atom.Body:
		return true
	}
	return false
}

// isTracked reports whether the stack holds all elements of a kind: those whose end
// can be the end of an effect.
func isTracked(tag atom.Atom) bool {
	return isBlock(tag) || tag == atom.Td || tag == atom.Th || tag == atom.Span || tagEffect(tag) != 0
}

// tagEffect returns what an element means whatever its attributes.
func tagEffect(tag atom.Atom) effect {
	switch tag {
	case atom.Blockquote:
		return quotes
	case atom.Pre:
		return keepsBlanks
	case atom.Title, atom.Style, atom.Script, atom.Template, atom.Select, atom.Textarea, atom.Noscript, atom.Iframe:
		return hides
	}
	return 0
}
