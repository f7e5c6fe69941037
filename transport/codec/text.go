package codec

import (
	"errors"
	"unicode/utf8"
)

// Text returns the codec of plain text, text/plain in UTF-8. The text is the body byte
// for byte: line ends and blanks stay as they are, and an empty body is the empty
// string. Text that is not valid UTF-8 is an error in both directions.
func Text() Codec[string] { return text{} }

type text struct{}

func (text) ContentType() string { return "text/plain; charset=utf-8" }

func (text) Encode(v string) ([]byte, error) {
	if !utf8.ValidString(v) {
		return nil, errNotUTF8
	}
	return []byte(v), nil
}

func (text) Decode(body []byte) (string, error) {
	if !utf8.Valid(body) {
		return "", errNotUTF8
	}
	return string(body), nil
}

var errNotUTF8 = errors.New("not valid UTF-8")
