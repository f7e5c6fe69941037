package mailserver

import (
	"bufio"
	"bytes"
	"iter"
	"mime"
	"strings"

	"github.com/emersion/go-message/textproto"
)

// headerEnd returns the length of the header block at the start of mail,
// including the empty line that ends it. A mail without an empty line is all
// header, one that does not start with a field has none.
func headerEnd(mail []byte) int {
	n := 0
	for n < len(mail) {
		line := lineAt(mail, n)
		if n == 0 && len(fieldName(line)) == 0 && !blank(line) {
			return 0
		}
		n += len(line)
		if blank(line) {
			break
		}
	}
	return n
}

// lineAt returns the line that starts at b[n], with its line break.
func lineAt(b []byte, n int) []byte {
	if i := bytes.IndexByte(b[n:], '\n'); i >= 0 {
		return b[n : n+i+1]
	}
	return b[n:]
}

func blank(line []byte) bool { return len(bytes.TrimRight(line, "\r\n")) == 0 }

// fieldName returns the name of the header field that starts with the line, or
// nothing if none does (RFC 5322 section 2.2; a blank before the colon is the
// obsolete syntax of section 4.5).
func fieldName(line []byte) []byte {
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return nil
	}
	name = bytes.TrimRight(name, " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return nil
		}
	}
	return name
}

// fields walks over the fields of a header block: name, and the raw bytes with
// their folding and line break. Lines that belong to no field are left out,
// so a malformed line spoils nothing but itself.
func fields(header []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, raw []byte) bool) {
		for n := 0; n < len(header); {
			line := lineAt(header, n)
			if blank(line) {
				return
			}
			start, name := n, fieldName(line)
			for n += len(line); n < len(header); n += len(line) {
				line = lineAt(header, n)
				if blank(line) || line[0] != ' ' && line[0] != '\t' {
					break
				}
			}
			if len(name) > 0 && !yield(name, header[start:n]) {
				return
			}
		}
	}
}

var unfold = strings.NewReplacer("\r", "", "\n", "")

// fieldText returns the value of a raw field as text: unfolded, and its encoded
// words decoded (RFC 2047) where their charset is known.
func fieldText(raw []byte) string {
	_, value, _ := bytes.Cut(raw, []byte(":"))
	text := unfold.Replace(string(value))
	if decoded, err := new(mime.WordDecoder).DecodeHeader(text); err == nil {
		text = decoded
	}
	return strings.TrimSpace(text)
}

// parseHeader returns the header block for the go-message packages. Those give
// up at the first malformed line, so it hands them the well-formed fields only.
func parseHeader(block []byte) textproto.Header {
	var clean bytes.Buffer
	for _, raw := range fields(block) {
		clean.Write(bytes.TrimRight(raw, "\r\n"))
		clean.WriteString("\r\n")
	}
	clean.WriteString("\r\n")
	header, _ := textproto.ReadHeader(bufio.NewReader(&clean))
	return header
}
