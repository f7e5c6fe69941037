package codec

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// JSON returns the codec of T in JSON (RFC 8259), by the rules of encoding/json.
//
// A body is exactly one JSON value, nested at most 10,000 deep, in UTF-8; blanks
// around it are allowed, anything else after it is an error, and so is an empty body.
// Object members that T has no field for are ignored, so that a sender may add a
// member without breaking the readers it already has; absent members leave their
// field zero. Bodies are written on one line, and without the escapes that only HTML
// needs, because people read them in mail clients. Bytes of a string in T that are not
// valid UTF-8 are written as U+FFFD.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) ContentType() string { return "application/json" }

func (jsonCodec[T]) Encode(v T) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (jsonCodec[T]) Decode(body []byte) (T, error) {
	var v, zero T
	// encoding/json would put U+FFFD in the place of what it cannot read.
	if !utf8.Valid(body) {
		return zero, errNotUTF8
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return zero, err
	}
	return v, nil
}
