package service

import (
	"bytes"
	"testing"
	"time"
)

// FuzzSharedResult reads what may be in the place of a shared result. What can be read is written in the same way.
func FuzzSharedResult(f *testing.F) {
	for _, r := range []result{
		{made: time.Unix(0, 0)},
		{body: []byte("a"), contentType: "text/plain", made: time.Unix(1, 2)},
		{body: bytes.Repeat([]byte{0}, 300), contentType: string(bytes.Repeat([]byte("x"), 300)), made: time.Unix(-1, 0)},
	} {
		f.Add(r.encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, ok := decodeResult(data)
		if !ok {
			return
		}
		again, ok := decodeResult(r.encode())
		if !ok || again.contentType != r.contentType || !bytes.Equal(again.body, r.body) || !again.made.Equal(r.made) {
			t.Errorf("%q: %+v was read as %+v", data, r, again)
		}
	})
}
