package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"mime"
	"mime/quotedprintable"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postbus/postbus/transport"
)

// The content types that are written when the sender has declared none.
const (
	textType   = "text/plain; charset=utf-8"
	binaryType = "application/octet-stream"
)

// In Body-Content-Type short words stand for them: that a sender declares one of them in
// earnest is common enough to be worth the bytes.
const (
	textWord   = "text"
	binaryWord = "binary"
)

const (
	// encodedLine is how many bytes one line of base64 holds: 76 characters (RFC
	// 2045 section 6.8).
	encodedLine = 57
	// maxFinalEndings is the most line endings at the end of a payload that travels
	// as it is. One digit is plenty for text that people write.
	maxFinalEndings = 9
)

// bodyPlan says how a payload travels.
type bodyPlan struct {
	payload []byte
	file    string     // the name of the file that it is, or ""
	plain   bool       // as it is, with the line endings of mail
	ending  lineEnding // if plain
	mime    string     // the content type to write when none is declared
	size    int        // bytes that the encoded payload will take
}

// planBody decides how the payload of m travels: readable if it can be.
func planBody(m *transport.Message) bodyPlan {
	p := bodyPlan{payload: m.Body, file: m.Filename, mime: textType}
	if m.Error != nil {
		p.payload = []byte(m.Error.Text)
	}
	if p.file == "" { // a file that is saved must have all its bytes, whoever saves it
		p.ending, p.plain = plainLines(p.payload)
	}
	if p.plain {
		p.size = len(p.payload) + bytes.Count(p.payload, []byte("\n")) + 2
		return p
	}
	p.encode()
	return p
}

// encode makes the payload travel in base64.
func (p *bodyPlan) encode() {
	p.plain = false
	if !isText(p.payload) {
		p.mime = binaryType
	}
	p.size = base64.StdEncoding.EncodedLen(len(p.payload)) + 2*(len(p.payload)/encodedLine+1)
}

// appendFields writes the MIME fields (RFC 2045) and those that restore the payload.
func (p *bodyPlan) appendFields(dst []byte, declared string) []byte {
	written := p.mime
	if declared != "" && !isComposite([]byte(declared)) {
		written = declared
	}
	dst = append(dst, "MIME-Version: 1.0\r\n"...)
	dst = appendLine(dst, "Content-Type", written)
	if p.file != "" {
		dst = appendDisposition(dst, p.file)
	}
	if declared != "" && (written != declared || isDefaultType(declared)) {
		dst = appendBodyType(dst, declared)
	}
	if p.plain {
		dst = append(dst, "Content-Transfer-Encoding: 7bit\r\n"...)
		return p.ending.appendField(dst)
	}
	return append(dst, "Content-Transfer-Encoding: base64\r\n"...)
}

// appendBodyType writes the field of the content type as it was declared.
func appendBodyType(dst []byte, declared string) []byte {
	switch declared {
	case textType:
		declared = textWord
	case binaryType:
		declared = binaryWord
	}
	return appendLine(dst, headerBodyType, declared)
}

func (p *bodyPlan) appendBody(dst []byte) []byte {
	if p.plain {
		return appendLines(dst, p.payload)
	}
	return appendBase64(dst, p.payload)
}

// lineEnding is the value of a Body-Line-Ending field: what a receiver needs to restore
// a text payload whose line endings have become those of mail.
type lineEnding struct {
	crlf bool // the payload's lines end in CRLF, not LF
	// final is how many line endings the payload ends with. Those in the mail don't
	// count, because servers add some and cut some off.
	final int
}

// appendField writes the field.
func (e lineEnding) appendField(dst []byte) []byte {
	dst = append(dst, headerLineEnding+": "...)
	if e.crlf {
		dst = append(dst, "cr"...)
	}
	dst = append(dst, "lf; final="...)
	dst = append(dst, '0'+byte(e.final))
	return append(dst, "\r\n"...)
}

func parseLineEnding(value []byte) (e lineEnding, err error) {
	const name = "final="
	kind, final, _ := bytes.Cut(value, []byte(";"))
	if final = trim(final); len(final) != len(name)+1 || !bytes.EqualFold(final[:len(name)], []byte(name)) ||
		final[len(name)] < '0' || final[len(name)] > '0'+maxFinalEndings {
		return e, malformed("%s is %.40q", headerLineEnding, value)
	}
	e.final = int(final[len(name)] - '0')
	switch kind = trim(kind); {
	case bytes.EqualFold(kind, []byte("lf")):
	case bytes.EqualFold(kind, []byte("crlf")):
		e.crlf = true
	default:
		return e, malformed("%s is %.40q", headerLineEnding, value)
	}
	return e, nil
}

// plainLines reports whether a payload survives as the text of a mail: ASCII without
// control characters but TAB, lines of the same ending, not too long, without trailing
// blanks (servers cut them off) and not beginning with "From " (mailbox files quote it).
func plainLines(b []byte) (e lineEnding, ok bool) {
	ending := []byte("\n")
	if i := bytes.IndexByte(b, '\n'); i > 0 && b[i-1] == '\r' {
		e.crlf, ending = true, []byte("\r\n")
	}
	for ; bytes.HasSuffix(b, ending); e.final++ {
		if e.final == maxFinalEndings {
			return e, false
		}
		b = b[:len(b)-len(ending)]
	}
	if len(b) == 0 {
		return e, false
	}
	for more := true; more; {
		var line []byte
		line, b, more = bytes.Cut(b, []byte("\n"))
		if e.crlf && more {
			var ok bool
			if line, ok = bytes.CutSuffix(line, []byte("\r")); !ok {
				return e, false
			}
		}
		if len(line) > MaxTextLine || len(line) > 0 && isBlank(line[len(line)-1]) ||
			bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
			return e, false
		}
		if !plainBytes(line) {
			return e, false
		}
	}
	return e, true
}

// plainBytes reports whether a line is ASCII without control characters but TAB. It looks
// at eight bytes at a time, and closer only where the highest bit of one comes up: because
// it is set, by adding 1 to DEL, or by taking a blank from less than a blank. Carries can
// bring up more of them, but hide none.
func plainBytes(line []byte) bool {
	const each = 0x0101010101010101
	for len(line) >= 8 {
		if w := binary.LittleEndian.Uint64(line); (w|(w+each)|(w-' '*each))&(0x80*each) != 0 && !plainEach(line[:8]) {
			return false
		}
		line = line[8:]
	}
	return plainEach(line)
}

func plainEach(line []byte) bool {
	for _, c := range line {
		if c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	return true
}

// isText reports whether a mail program can show b as UTF-8 text.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(b)
}

// appendLines writes a payload that plainLines has approved with the line endings of
// mail, and one at the end.
func appendLines(dst, body []byte) []byte {
	body = bytes.TrimRight(body, "\r\n")
	for more := true; more; {
		var line []byte
		line, body, more = bytes.Cut(body, []byte("\n"))
		dst = append(dst, bytes.TrimSuffix(line, []byte("\r"))...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// restoreLines undoes appendLines, whatever line endings were added or cut off at the end.
func restoreLines(text []byte, e lineEnding) []byte {
	ending := "\n"
	if e.crlf {
		ending = "\r\n"
	}
	for len(text) > 0 && text[len(text)-1] == '\n' {
		text = bytes.TrimSuffix(text[:len(text)-1], []byte("\r"))
	}
	size := len(text) + e.final*len(ending)
	if e.crlf {
		size += bytes.Count(text, []byte("\n")) // in case they are bare
	}
	body := make([]byte, 0, size)
	for more := true; more; {
		var line []byte
		line, text, more = bytes.Cut(text, []byte("\n"))
		if more {
			line = bytes.TrimSuffix(line, []byte("\r"))
		}
		body = append(body, line...)
		if more {
			body = append(body, ending...)
		}
	}
	for range e.final {
		body = append(body, ending...)
	}
	return body
}

// appendBase64 writes b in lines of 76 characters.
func appendBase64(dst, b []byte) []byte {
	for len(b) > 0 {
		n := min(len(b), encodedLine)
		dst = base64.StdEncoding.AppendEncode(dst, b[:n])
		dst = append(dst, "\r\n"...)
		b = b[n:]
	}
	return dst
}

var strictBase64 = base64.StdEncoding.Strict()

// decodeBase64 is strict: nothing but the alphabet, line endings and correct padding,
// so that damage is noticed.
func decodeBase64(b []byte) ([]byte, error) {
	body := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := strictBase64.Decode(body, b)
	if err != nil {
		return nil, malformed("the body is broken base64")
	}
	return slices.Clip(body[:n]), nil
}

// body returns the payload from what follows the header section.
func (h *header) body(rest []byte) (text []byte, err error) {
	restore := h.has(fieldLineEnding)
	if !restore {
		// rmw_email and other simple writers: the payload has no final line ending
		// of its own, and a server has added one.
		rest = cutLineEnding(rest)
	}
	encoding := unfold(h.values[fieldEncoding])
	switch is := func(name string) bool { return bytes.EqualFold(encoding, []byte(name)) }; {
	case is("base64"):
		text, err = decodeBase64(rest)
	case is("quoted-printable"): // never written here, but servers turn 8bit into it
		text, err = decodeQuotedPrintable(rest)
	case is("7bit"), is("8bit"), is("binary"), len(encoding) == 0:
		if text = rest; !restore {
			text = bytes.Clone(rest)
		}
	default:
		err = malformed("%s is %.40q, which is not known", fieldNames[fieldEncoding], encoding)
	}
	if err != nil || !restore {
		return text, err
	}
	ending, err := parseLineEnding(unfold(h.values[fieldLineEnding]))
	if err != nil {
		return nil, err
	}
	return restoreLines(text, ending), nil
}

func decodeQuotedPrintable(b []byte) ([]byte, error) {
	body, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, malformed("the body is broken quoted-printable")
	}
	return body, nil
}

// cutLineEnding cuts one line ending off the end.
func cutLineEnding(b []byte) []byte {
	if b, ok := bytes.CutSuffix(b, []byte("\n")); ok {
		return bytes.TrimSuffix(b, []byte("\r"))
	}
	return b
}

// contentType returns the content type that the sender declared, or "".
func (h *header) contentType() (string, error) {
	written := unfold(h.values[fieldContentType])
	if isComposite(written) {
		return "", foreign("its content type is %.40q", written)
	}
	if h.has(fieldBodyType) {
		declared := strings.ReplaceAll(string(unfold(h.values[fieldBodyType])), "\t", " ") // of folding
		switch strings.ToLower(declared) {
		case textWord:
			return textType, nil
		case binaryWord:
			return binaryType, nil
		}
		if err := transport.ValidateContentType(declared); err != nil {
			return "", malformed("%s: %v", headerBodyType, err)
		}
		return declared, nil
	}
	if len(written) == 0 || string(written) == textType || string(written) == binaryType {
		return "", nil
	}
	declared := strings.ReplaceAll(string(written), "\t", " ")
	if err := transport.ValidateContentType(declared); err != nil {
		return "", malformed("%s: %v", fieldNames[fieldContentType], err)
	}
	if isDefaultType(declared) {
		return "", nil
	}
	return declared, nil
}

// isComposite reports whether a content type says that the body has a structure of its
// own (RFC 2046 section 5).
func isComposite(contentType []byte) bool {
	kind, _, _ := bytes.Cut(contentType, []byte("/"))
	kind = trim(kind)
	return bytes.EqualFold(kind, []byte("multipart")) || bytes.EqualFold(kind, []byte("message"))
}

// isDefaultType reports whether a valid content type says no more than a sender that
// declares none: written in any way, plain text in UTF-8, ASCII or what servers call
// unknown (RFC 1428 section 3), or unspecified bytes.
func isDefaultType(contentType string) bool {
	if !strings.ContainsRune(contentType, ';') {
		return strings.EqualFold(contentType, "text/plain") || strings.EqualFold(contentType, binaryType)
	}
	kind, parameters, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(parameters["charset"])
	switch {
	case err != nil:
		return false
	case kind == "text/plain" && len(parameters) == 1:
		return charset == "utf-8" || charset == "us-ascii" || charset == "unknown-8bit"
	}
	return (kind == "text/plain" || kind == binaryType) && len(parameters) == 0
}

// printable reports whether s is ASCII without control characters.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
