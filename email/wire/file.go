package wire

import (
	"bytes"
	"mime"
	"strings"

	"github.com/postbus/postbus/transport"
)

// appendDisposition writes the field that makes the body a file (RFC 2183).
func appendDisposition(dst []byte, filename string) []byte {
	dst = append(dst, "Content-Disposition: attachment; filename"...)
	if survivesQuoted(filename) {
		dst = append(dst, '=', '"')
		dst = append(dst, filename...)
		return append(dst, "\"\r\n"...)
	}
	dst = append(dst, "*=utf-8''"...) // RFC 2231 section 4
	for i := range len(filename) {
		if c := filename[i]; isAttributeChar(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return append(dst, "\r\n"...)
}

const upperHex = "0123456789ABCDEF"

// survivesQuoted reports whether a valid file name can stand in quotes, which all mail
// programs understand, without anyone escaping, decoding or folding it differently.
func survivesQuoted(filename string) bool {
	return printable(filename) && strings.Trim(filename, " ") == filename &&
		!strings.Contains(filename, `"`) && !strings.Contains(filename, "  ") && !strings.Contains(filename, "=?")
}

// isAttributeChar reports whether c needs no encoding in an extended parameter (RFC 2231
// section 7; the characters are those of RFC 5987 section 3.2.1, which are fewer).
func isAttributeChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0
}

// filename returns the name of the file that the body is, or "".
func (h *header) filename() (string, error) {
	if !h.has(fieldDisposition) {
		return "", nil
	}
	value := bytes.ReplaceAll(unfold(h.values[fieldDisposition]), []byte("\t"), []byte(" ")) // of folding
	_, parameters, err := mime.ParseMediaType(string(value))
	if err != nil {
		return "", malformed("%s is %.40q", fieldNames[fieldDisposition], value)
	}
	name, ok := parameters["filename"]
	if !ok {
		return "", nil
	}
	if transport.ValidateFilename(name) != nil {
		return "", malformed("%s: %.80q is not the name of a file", fieldNames[fieldDisposition], name)
	}
	return name, nil
}
