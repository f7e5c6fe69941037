package wire

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
)

// maxCharset is the longest name of a charset. The longest registered one has 45 bytes.
const maxCharset = 64

// toUTF8 returns text of a declared charset as valid UTF-8. It never fails: text of no
// charset, or of one that is not known, is UTF-8 if it can be and windows-1252 else, and
// what is broken becomes U+FFFD.
func toUTF8(text []byte, charset string) string {
	charset = strings.ToLower(strings.TrimSpace(charset))
	if charset == "utf-8" || charset == "utf8" {
		return strings.ToValidUTF8(string(wholeRunes(text)), "\uFFFD")
	}
	if e := lookup(charset); e != nil {
		if decoded, err := e.NewDecoder().Bytes(text); err == nil {
			return strings.ToValidUTF8(string(decoded), "\uFFFD")
		}
	}
	if whole := wholeRunes(text); utf8.Valid(whole) {
		return string(whole)
	}
	decoded, _ := charmap.Windows1252.NewDecoder().Bytes(text) // any byte is a character
	return string(decoded)
}

// lookup finds a charset by the names that mail and the web use, or nil. ASCII is not
// looked up: what is labelled so, by default too, is often UTF-8.
func lookup(charset string) encoding.Encoding {
	if charset == "" || charset == "us-ascii" || charset == "ascii" || len(charset) > maxCharset {
		return nil
	}
	e, err := htmlindex.Get(charset)
	if err != nil || e == encoding.Replacement {
		return nil
	}
	return e
}

// wholeRunes cuts off the beginning of a character at the end of text that was cut off.
func wholeRunes(text []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if c := text[len(text)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(text[len(text)-i:]) {
				return text[:len(text)-i]
			}
			break
		}
	}
	return text
}

// headerText returns an unfolded header value as text on one line: encoded words (RFC
// 2047) of any charset decoded, control characters as blanks. Neighbouring words of one
// charset are decoded together, because some mail programs cut inside of a character.
func headerText(value []byte) string {
	var out strings.Builder
	var pending []byte // of neighbouring words
	var charset string // of pending
	flush := func() {
		out.WriteString(toUTF8(pending, charset))
		pending = pending[:0]
	}
	afterWord := false
	for {
		i := bytes.Index(value, []byte("=?"))
		if i < 0 {
			break
		}
		before := value[:i]
		name, decoded, size := encodedWord(value[i:])
		if size == 0 {
			before, size = value[:i+2], 2
		}
		if blank := afterWord && len(trim(before)) == 0; !blank { // between words it is no text
			flush()
			out.WriteString(toUTF8(before, ""))
		} else if !strings.EqualFold(name, charset) {
			flush()
		}
		afterWord, charset, pending = decoded != nil, name, append(pending, decoded...)
		value = value[i+size:]
	}
	flush()
	out.WriteString(toUTF8(value, ""))
	return oneLine(out.String())
}

// encodedWord decodes the encoded word that text, which begins with "=?", begins with.
// size is 0 and decoded nil if there is none.
func encodedWord(text []byte) (charset string, decoded []byte, size int) {
	rest := text[2:]
	i := bytes.IndexByte(rest[:min(len(rest), maxCharset)], '?')
	if i <= 0 || len(rest) < i+3 || rest[i+2] != '?' {
		return "", nil, 0
	}
	name, _, _ := bytes.Cut(rest[:i], []byte("*")) // RFC 2231 section 5 adds a language
	encoding, coded := rest[i+1]|0x20, rest[i+3:]
	j := bytes.IndexByte(coded, '?')
	if j < 0 || j+1 == len(coded) || coded[j+1] != '=' {
		return "", nil, 0
	}
	coded = coded[:j]
	switch encoding {
	case 'b':
		decoded = mendBase64(coded)
	case 'q':
		decoded = appendUnescaped([]byte{}, bytes.ReplaceAll(coded, []byte("_"), []byte(" ")))
	default:
		return "", nil, 0
	}
	return string(name), decoded, 2 + i + 3 + j + 2
}

// oneLine makes one blank of any blanks and control characters in a row, and none of
// those at either end.
func oneLine(s string) string {
	apart := func(r rune) bool { return isDirty(r) || unicode.IsSpace(r) }
	return strings.Join(strings.FieldsFunc(s, apart), " ")
}

func isDirty(r rune) bool { return unicode.IsControl(r) || r == '\uFEFF' }

// cleanText returns text with LF for any line ending, without control characters except
// TAB, and without byte order marks.
func cleanText(s string) string {
	if strings.Contains(s, "\r") {
		s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	}
	return dropControls(s)
}

// dropControls drops control characters but LF and TAB, and byte order marks.
func dropControls(s string) string {
	return strings.Map(func(r rune) rune {
		if isDirty(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// cutText cuts s to at most n bytes of whole characters.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
