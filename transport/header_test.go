package transport_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

func TestHeaderLookup(t *testing.T) {
	var h transport.Header
	if h.Get("a") != "" || h.Values("a") != nil {
		t.Errorf("the nil header has %q, %q", h.Get("a"), h.Values("a"))
	}
	h.Add("Trace", "1")
	h.Add("Other", "x")
	h.Add("TRACE", "2")
	if got := h.Get("trace"); got != "1" {
		t.Errorf("Get = %q, want the first value", got)
	}
	if got, want := h.Values("tRaCe"), []string{"1", "2"}; !slices.Equal(got, want) {
		t.Errorf("Values = %q, want %q", got, want)
	}
	if got := h.Values("Trac"); got != nil {
		t.Errorf("Values of a name that is not there = %q", got)
	}
}

func TestHeaderValidate(t *testing.T) {
	for _, test := range []struct {
		what        string
		name, value string
		want        string // in the error; "" if the field is valid
	}{
		{"plain", "Trace", "abc", ""},
		{"empty value", "Trace", "", ""},
		{"non-ASCII value", "Trace", "Grüße, 世界 👋", ""},
		{"blank inside", "Trace", "a b", ""},
		{"punctuation", "Trace!#$%&'*+-.^_`|~", `"<>:;,=?()[]\`, ""},
		{"longest name", strings.Repeat("n", transport.MaxHeaderName), "", ""},
		{"longest value", "Trace", strings.Repeat("v", transport.MaxHeaderValue), ""},
		{"prefix of a reserved name", "Content", "x", ""},

		{"no name", "", "x", "the name has 0 bytes"},
		{"long name", strings.Repeat("n", transport.MaxHeaderName+1), "x", "the name has 65 bytes, 1 to 64"},
		{"colon in name", "A:b", "x", `byte`},
		{"blank in name", "A b", "x", "index 1 of the name"},
		{"newline in name", "A\r\nB", "x", "index 1 of the name"},
		{"non-ASCII name", "Ä", "x", "index 0 of the name"},
		{"DEL in name", "A\x7f", "x", "index 1 of the name"},
		{"reserved", "Subject", "x", "reserved"},
		{"reserved in another case", "sUBJECT", "x", "reserved"},
		{"reserved prefix", "content-anything", "x", "reserved"},
		{"long value", "A", strings.Repeat("v", transport.MaxHeaderValue+1), "769 bytes, at most 768"},
		{"CRLF in value", "A", "x\r\nBcc: y", `control character '\r' at index 1`},
		{"LF in value", "A", "x\n", `control character '\n' at index 1`},
		{"NUL in value", "A", "\x00", `control character '\x00' at index 0`},
		{"tab in value", "A", "x\ty", `control character '\t' at index 1`},
		{"DEL in value", "A", "\x7f", "control character"},
		{"C1 control in value", "A", "x\u0085y", "control character '\\u0085' at index 1"},
		{"invalid UTF-8", "A", "\xff", "not valid UTF-8"},
		{"leading blank", "A", " x", "blank"},
		{"trailing blank", "A", "x ", "blank"},
	} {
		err := transport.Header{{"Fine", "x"}, {test.name, test.value}}.Validate()
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.what, err)
		case test.want == "":
		case !errors.Is(err, transport.ErrInvalidHeader) || !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: error %v, want ErrInvalidHeader with %q in it", test.what, err, test.want)
		case strings.ContainsAny(err.Error(), "\r\n\x00"):
			t.Errorf("%s: the error %q has control characters", test.what, err)
		}
	}
	if err := transport.Header(nil).Validate(); err != nil {
		t.Errorf("the nil header: %v", err)
	}
}

func TestHeaderValidateCount(t *testing.T) {
	var h transport.Header
	for i := range transport.MaxHeaderFields {
		h.Add(fmt.Sprint("Field-", i), "x")
	}
	if err := h.Validate(); err != nil {
		t.Errorf("%d fields: %v", len(h), err)
	}
	h.Add("One-More", "x")
	if err := h.Validate(); !errors.Is(err, transport.ErrInvalidHeader) {
		t.Errorf("%d fields: %v, want ErrInvalidHeader", len(h), err)
	}
}

func TestReservedHeader(t *testing.T) {
	for _, name := range []string{
		transport.HeaderSourceTimestamp, transport.HeaderPublisherGID, transport.HeaderPublisherSequence,
		transport.HeaderClientGID, transport.HeaderRequestSequence, transport.HeaderDeadline, transport.HeaderServiceError,
		"From", "To", "Cc", "Bcc", "Reply-To", "Sender", "Date", "Subject", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-", "Received", "Return-Path", "Auto-Submitted",
		"List-Unsubscribe", "Resent-From", "ARC-Seal", "DKIM-Signature", "Nats-Msg-Id",
	} {
		for _, spelling := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if !transport.ReservedHeader(spelling) {
				t.Errorf("%s is not reserved", spelling)
			}
		}
	}
	for _, name := range []string{"", "Trace", "Content", "X-Priority", "Lists", "Fromage", "My-Subject"} {
		if transport.ReservedHeader(name) {
			t.Errorf("%s is reserved", name)
		}
	}
}

func FuzzHeaderValidate(f *testing.F) {
	f.Add("Trace", "abc")
	f.Add("Subject", "x\r\ny")
	f.Fuzz(func(t *testing.T, name, value string) {
		if (transport.Header{{name, value}}).Validate() != nil {
			return
		}
		// A line made of a valid field is one line and has no other field.
		if line := name + ": " + value; strings.ContainsAny(line, "\r\n\x00") || strings.ContainsAny(name, ": ") || transport.ReservedHeader(name) {
			t.Errorf("the field %q with value %q is valid", name, value)
		}
	})
}

func TestRoutes(t *testing.T) {
	routes := transport.Routes{
		{Pattern: "/robot/*", To: []string{"robot@example.com"}},
		{Pattern: "/robot/>", To: []string{"logs@example.com", "audit@example.com"}},
		{Pattern: "alarm", To: []string{"duty@example.com"}},
		{Pattern: "/robot/arm", To: []string{"never@example.com"}},
	}
	if err := routes.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
	for name, want := range map[string][]string{
		"/robot/arm":      {"robot@example.com"}, // the first that matches counts
		"/robot/arm/left": {"logs@example.com", "audit@example.com"},
		"alarm":           {"duty@example.com"},
		"/robot":          nil,
		"other":           nil,
	} {
		if got := routes.Recipients(name); !slices.Equal(got, want) {
			t.Errorf("Recipients(%q) = %q, want %q", name, got, want)
		}
	}
	if got := transport.Routes(nil).Recipients("t"); got != nil {
		t.Errorf("no routes give %q", got)
	}
	if err := transport.Routes(nil).Validate(); err != nil {
		t.Errorf("no routes: %v", err)
	}
	if err := (transport.Routes{{Pattern: "a b", To: []string{"x"}}}).Validate(); !errors.Is(err, transport.ErrInvalidName) {
		t.Errorf("a route with an invalid pattern: %v", err)
	}
	if err := (transport.Routes{{Pattern: "/t"}}).Validate(); err == nil || !strings.Contains(err.Error(), "/t") {
		t.Errorf("a route without recipients: %v, want an error with its pattern", err)
	}
}
