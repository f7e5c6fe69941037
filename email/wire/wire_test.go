package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

var (
	publisher = transport.GID{0x3f, 0x2a, 0x0c, 0x11, 0x9b, 0x54, 0x4d, 0xe0, 0x8a, 0x61, 0x77, 0x1e, 0x42, 0xd0, 0x0b, 0x95}
	client    = transport.GID{0xa0, 0x1b, 0xd3, 0x46, 0x5c, 0x7e, 0x48, 0x92, 0xb7, 0x0d, 0xe5, 0x33, 0x61, 0xfa, 0x2c, 0x08}
	server    = transport.GID{0x77, 0x00, 0xee, 0x5b, 0x1f, 0x24, 0x4c, 0x3a, 0x99, 0x04, 0xcd, 0x8e, 0x50, 0x16, 0xb8, 0xa7}
	source    = time.Unix(0, 1795261467052926400).UTC()
	robot     = Envelope{From: "robot@example.org", To: []string{"base@example.org"}}
)

// topic returns a topic message with the given body, as sent.
func topic(body string) *transport.Message {
	return &transport.Message{
		Kind: transport.TopicMessage, Name: "/chatter", Body: []byte(body),
		ID:   transport.NewID(publisher, 7, "robot.example.org"),
		Info: transport.Info{SourceTime: source, PublisherGID: publisher, Sequence: 7},
	}
}

func request() *transport.Message {
	return &transport.Message{
		Kind: transport.Request, Name: "/add_two_ints", Body: []byte(`{"a":2,"b":3}`), ContentType: "application/json",
		ID:       transport.NewID(client, 12, "robot.example.org"),
		Deadline: source.Add(5 * time.Second),
		Info: transport.Info{
			SourceTime: source, PublisherGID: client, Sequence: 12, ClientGID: client, RequestSequence: 12,
		},
	}
}

func response() *transport.Message {
	return &transport.Message{
		Kind: transport.Response, Name: "/add_two_ints", Body: []byte("{\"sum\":5}\n"), ContentType: "application/json",
		ID:        transport.NewID(server, 40, "base.example.org"),
		InReplyTo: transport.NewID(client, 12, "robot.example.org"),
		Info: transport.Info{
			SourceTime: source.Add(time.Millisecond), PublisherGID: server, Sequence: 40, ClientGID: client, RequestSequence: 12,
		},
	}
}

func errorResponse() *transport.Message {
	m := response()
	m.Kind, m.Body, m.ContentType = transport.ErrorResponse, nil, ""
	m.Error = &transport.RemoteError{Code: -32602, Text: "b is not a number"}
	return m
}

// received returns what m is to be on the other side.
func received(m *transport.Message, e Envelope) *transport.Message {
	r := *m
	r.From, r.ReplyTo, r.To = e.From, e.From, e.To
	if e.ReplyTo != "" {
		r.ReplyTo = e.ReplyTo
	}
	r.Info.SourceTime = r.Info.SourceTime.UTC()
	if !r.Deadline.IsZero() {
		r.Deadline = r.Deadline.UTC()
	}
	return &r
}

// requireEqual compares messages; nil and empty are the same.
func requireEqual(t testing.TB, got, want *transport.Message) {
	t.Helper()
	if string(got.Body) != string(want.Body) {
		t.Fatalf("body: %d bytes %.200q, want %d bytes %.200q", len(got.Body), got.Body, len(want.Body), want.Body)
	}
	g, w := *got, *want
	g.Body, w.Body = nil, nil
	for _, m := range []*transport.Message{&g, &w} {
		if len(m.Header) == 0 {
			m.Header = nil
		}
		if len(m.To) == 0 {
			m.To = nil
		}
	}
	if !reflect.DeepEqual(g, w) {
		t.Fatalf("got\n%+v %v, want\n%+v %v", g, g.Error, w, w.Error)
	}
}

func mustEncode(t testing.TB, m *transport.Message, e Envelope) []byte {
	t.Helper()
	raw, err := Encode(m, e)
	if err != nil {
		t.Fatal(err)
	}
	requireSafe(t, raw)
	return raw
}

func mustDecode(t testing.TB, raw []byte) *transport.Message {
	t.Helper()
	m, err := Decode(raw)
	if err != nil {
		t.Fatalf("%v\n%.4000s", err, raw)
	}
	return m
}

// requireSafe checks what every mail server asks for: ASCII, CRLF line endings, no
// line over 998 bytes (RFC 5321 section 4.5.3.1.6, RFC 5322 section 2.1.1).
func requireSafe(t testing.TB, mail []byte) {
	t.Helper()
	text := string(mail)
	if !strings.HasSuffix(text, "\r\n") {
		t.Fatalf("the mail does not end in CRLF: %q", text[max(0, len(text)-80):])
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		if len(line) > 998 {
			t.Fatalf("line of %d bytes: %.80q", len(line), line)
		}
		for i := range len(line) {
			if c := line[i]; c == '\r' || c == '\n' || c == 0 || c >= 0x80 {
				t.Fatalf("byte %q in line %.200q", c, line)
			}
		}
	}
}

// requireError checks that an error is of the kind wanted and fit for a log.
func requireError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want one that wraps %q", err, want)
	}
	requireLoggable(t, err)
}

func requireLoggable(t testing.TB, err error) {
	t.Helper()
	text := err.Error()
	if len(text) > 1200 {
		t.Fatalf("the error has %d bytes: %.200q", len(text), text)
	}
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			t.Fatalf("control character %q in error %q", r, text)
		}
	}
}
