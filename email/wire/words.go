package wire

import (
	"bytes"
	"encoding/base64"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postbus/postbus/transport"
)

const (
	wordStart = "=?utf-8?b?"
	wordEnd   = "?="
	// maxWordLine is the longest line with an encoded word (RFC 2047 section 2).
	maxWordLine = 76
)

// appendField writes an application's field, which has been validated. A value that
// could be altered on the way, or be taken for an encoded word, becomes encoded words.
func appendField(dst []byte, f transport.Field) []byte {
	dst = append(dst, f.Name...)
	dst = append(dst, ':')
	switch {
	case f.Value == "":
	case printable(f.Value) && !strings.Contains(f.Value, "=?") && !strings.Contains(f.Value, "  "):
		dst = append(dst, ' ')
		dst = append(dst, f.Value...)
	default:
		dst = appendWords(dst, f.Value, len(f.Name)+1)
	}
	return append(dst, "\r\n"...)
}

// appendWords writes encoded words (RFC 2047), one a line, each of whole characters.
// column is the length of the line so far.
func appendWords(dst []byte, s string, column int) []byte {
	for s != "" {
		room := (maxWordLine - column - 1 - len(wordStart) - len(wordEnd)) / 4 * 3
		n := 0
		for n < len(s) {
			_, size := utf8.DecodeRuneInString(s[n:])
			if n+size > room {
				break
			}
			n += size
		}
		if n == 0 {
			dst = append(dst, "\r\n"...)
			column = 0
			continue
		}
		dst = append(dst, ' ')
		dst = append(dst, wordStart...)
		dst = base64.StdEncoding.AppendEncode(dst, []byte(s[:n]))
		dst = append(dst, wordEnd...)
		s = s[n:]
		column = maxWordLine
	}
	return dst
}

// decodeWords returns a value with its encoded words decoded or, if one can't be, as it
// is.
func decodeWords(value []byte) string {
	if bytes.Contains(value, []byte("=?")) {
		if s, err := new(mime.WordDecoder).DecodeHeader(string(value)); err == nil {
			return s
		}
	}
	return string(value)
}

// application returns the fields that are not reserved. What could not be set by an
// application is dropped. Of too many fields the last count: servers add theirs on top.
func (h *header) application() transport.Header {
	var fields transport.Header
	for i := len(h.others) - 1; i >= 0 && len(fields) < transport.MaxHeaderFields; i-- {
		value := unfold(h.others[i].value)
		if bytes.IndexByte(value, '\t') >= 0 { // some fold by a tab in place of the blank; no value has one
			value = bytes.ReplaceAll(value, []byte("\t"), []byte(" "))
		}
		fields = append(fields, transport.Field{Name: string(h.others[i].name), Value: decodeWords(value)})
		if last := len(fields) - 1; fields[last:].Validate() != nil {
			fields = fields[:last]
		}
	}
	slices.Reverse(fields)
	return fields
}
