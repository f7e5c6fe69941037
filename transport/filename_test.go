package transport_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

func TestValidateFilename(t *testing.T) {
	for _, good := range []string{
		"a", "report.pdf", ".profile", "...", "two  words.txt", " blanks ", "Grüße.txt", "日本語", `a"b'c;d=e%41*`,
		"=?utf-8?q?x?=", "C:", strings.Repeat("x", transport.MaxFilename), "\u202e",
	} {
		if err := transport.ValidateFilename(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "a/b", "/", "../x", `a\b`, "a\x00b", "a\r\nBcc: x@y", "tab\t", "\x7f", "\u0085", "\xff", "a\xc3",
		strings.Repeat("x", transport.MaxFilename+1),
	} {
		if err := transport.ValidateFilename(bad); !errors.Is(err, transport.ErrInvalidFilename) {
			t.Errorf("%q: %v, want an error that wraps ErrInvalidFilename", bad, err)
		}
	}
}
