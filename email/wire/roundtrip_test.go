package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// payloads are bodies that mail is known to change when they are not protected. The
// value says whether they are to travel readable as they are.
func payloads() map[string]bool {
	random := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(random)
	return map[string]bool{
		"":                    false,
		"hello":               true,
		"hello\n":             true,
		"hello\n\n":           true,
		"a\nb":                true,
		"a\r\nb":              true,
		"a\r\nb\r\n":          true,
		"a\r\n\r\n\r\nb\r\n":  true,
		"\n\nafter two lines": true,
		"\r\nafter one line":  true,
		"tab\tinside":         true,
		".":                   true,
		"..\n.\n...":          true,
		"Subject: /other\nPublisher-GID: 5\n\nbody": true,
		"--boundary\n":                        true,
		strings.Repeat("x", MaxTextLine):      true,
		strings.Repeat("line\n", 10000):       true,
		"end" + strings.Repeat("\n", 9):       true,
		"end" + strings.Repeat("\n", 10):      false,
		"\n":                                  false,
		"\r\n":                                false,
		"\r":                                  false,
		"a\rb":                                false,
		"a\r\nb\nc":                           false,
		"a\nb\r\nc":                           false,
		"a\nb\r\n":                            false,
		"a\r\nb\n":                            false,
		"a\r\n\n":                             false,
		"a\n\r\n":                             false,
		"a\r\r\nb":                            false,
		"blank at end ":                       false,
		"tab at end\t\nx":                     false,
		"blank at end \r\nx":                  false,
		"From me":                             false,
		"a\nFrom me":                          false,
		"a\n>From me":                         false,
		"a\r\n>>From me":                      false,
		"Fromage":                             true,
		"nul\x00inside":                       false,
		"escape \x1b[31m":                     false,
		"del\x7f":                             false,
		"Grüße\n":                             false,
		"\xff\xfe invalid UTF-8":              false,
		strings.Repeat("x", MaxTextLine+1):    false,
		strings.Repeat("x", 5000):             false,
		strings.Repeat("x", 64<<10):           false,
		strings.Repeat("ü", 32<<10):           false,
		"\x80\x81\xfe\xff":                    false,
		everyByte():                           false,
		"\rSubject: /other\r\rbody":           false,
		"From robot Sat Nov 21\n\nbody\n":     false,
		" folded first line\n":                true,
		"=?utf-8?q?word?=\n=3D=\n":            true,
		"\ufeffbyte order mark":               false,
		strings.Repeat("y", 64<<10) + "\nz\n": false,
		string(random):                        false,
		strings.Repeat("\x00", 57*3):          false,
	}
}

func TestPlainBytes(t *testing.T) {
	for c := range 256 {
		want := c == '\t' || c >= ' ' && c < 0x7f
		for _, around := range []string{"a", "\t", "~", " "} {
			for size := 1; size <= 20; size++ {
				for at := range size {
					line := []byte(strings.Repeat(around, size))
					line[at] = byte(c)
					if got := plainBytes(line); got != want {
						t.Fatalf("%q: %v, want %v", line, got, want)
					}
				}
			}
		}
	}
}

func everyByte() string {
	var b strings.Builder
	for i := range 256 {
		b.WriteByte(byte(i))
	}
	return b.String()
}

func TestLargePayloadsComeBack(t *testing.T) {
	if testing.Short() {
		t.Skip("encodes and decodes 20 MB five times")
	}
	const size = 20_000_000
	random := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{4})
	rng.Read(random)
	for name, body := range map[string]string{
		"text": strings.Repeat("0123456789abcdefghi\n", size/20), "UTF-8": strings.Repeat("Grüße an alle hier\n", size/21),
		"one line": strings.Repeat("x", size), "line endings": strings.Repeat("\r\n", size/2), "random": string(random),
	} {
		m := topic(body)
		got, err := Decode(mustEncode(t, m, robot))
		if err != nil || !bytes.Equal(got.Body, m.Body) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPayloadsComeBackByteForByte(t *testing.T) {
	for body, plain := range payloads() {
		t.Run(fmt.Sprintf("%.24q %d", body, len(body)), func(t *testing.T) {
			m := topic(body)
			raw := mustEncode(t, m, robot)
			requireEqual(t, mustDecode(t, raw), received(m, robot))
			if got := bytes.Contains(raw, []byte("Encoding: 7bit\r\n")); got != plain {
				t.Errorf("travels as it is: %v, want %v", got, plain)
			}
		})
	}
}

func TestFilesComeBackByteForByte(t *testing.T) {
	for body := range payloads() {
		m := file("a.txt", body)
		raw := mustEncode(t, m, robot)
		requireEqual(t, mustDecode(t, raw), received(m, robot))
		if bytes.Contains(raw, []byte("Encoding: 7bit\r\n")) {
			t.Errorf("the file %.24q travels as text", body)
		}
	}
}

func TestFilenamesComeBack(t *testing.T) {
	for _, c := range []struct{ name, written string }{
		{"report.pdf", `attachment; filename="report.pdf"`},
		{"a report; final.pdf", `attachment; filename="a report; final.pdf"`},
		{"100%.txt", `attachment; filename="100%.txt"`},
		{"Grüße.txt", `attachment; filename*=utf-8''Gr%C3%BC%C3%9Fe.txt`},
		{`a"b".txt`, `attachment; filename*=utf-8''a%22b%22.txt`},
		{" two  blanks ", `attachment; filename*=utf-8''%20two%20%20blanks%20`},
		{"=?utf-8?q?x?=", `attachment; filename*=utf-8''%3D%3Futf-8%3Fq%3Fx%3F%3D`},
		{"it's*%41", `attachment; filename="it's*%41"`},
		{"ü'*%41", `attachment; filename*=utf-8''%C3%BC%27%2A%2541`},
		{strings.Repeat("x", transport.MaxFilename), ""},
		{strings.Repeat("日", transport.MaxFilename/3), ""},
		{"\u202e\u2028\u00a0", ""},
	} {
		m := file(c.name, "x")
		raw := mustEncode(t, m, robot)
		requireEqual(t, mustDecode(t, raw), received(m, robot))
		if c.written != "" && !bytes.Contains(raw, []byte("\r\nContent-Disposition: "+c.written+"\r\n")) {
			t.Errorf("%q was written as\n%s", c.name, raw)
		}
	}
}

// All messages of a topic belong together, whoever sends them; those of others don't.
func TestTopicMessagesShareAThread(t *testing.T) {
	reference := func(m *transport.Message) string {
		_, after, _ := strings.Cut(string(mustEncode(t, m, robot)), "\r\nReferences: ")
		value, _, _ := strings.Cut(after, "\r\n")
		return value
	}
	other := topic("b")
	other.Info.PublisherGID, other.ID, other.Info.Sequence = server, transport.NewID(server, 8, "h"), 8
	if a, b := reference(topic("a")), reference(other); a != b || a != "<topic.c62c58c10f441a60@postbus.invalid>" {
		t.Errorf("the messages refer to %s and %s", a, b)
	}
	other.Name = "/chatter2"
	if a, b := reference(topic("a")), reference(other); a == b {
		t.Errorf("two topics have the thread %s", a)
	}
	if r := reference(request()); r != "" {
		t.Errorf("a request refers to %s", r)
	}
}

func TestErrorTextsComeBackByteForByte(t *testing.T) {
	for body := range payloads() {
		m := errorResponse()
		m.Error.Text = body
		requireEqual(t, mustDecode(t, mustEncode(t, m, robot)), received(m, robot))
	}
}

// What servers are known to do to a mail must not change the message.
func TestServersMayMeddle(t *testing.T) {
	trace := "Return-Path: <robot@example.org>\r\nReceived: from a\r\n\tby b; Sat, 21 Nov 2026 11:44:27 +0000\r\n" +
		"DKIM-Signature: v=1; a=rsa-sha256;\r\n b=abc\r\n"
	meddling := map[string]func(string) string{
		"trace fields":         func(s string) string { return trace + s },
		"line endings added":   func(s string) string { return s + "\r\n\r\n" },
		"final ending cut off": func(s string) string { return strings.TrimSuffix(s, "\r\n") },
		"bare LF":              func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") },
		"field names in lower case": func(s string) string {
			head, body, _ := strings.Cut(s, "\r\n\r\n")
			lines := strings.Split(head, "\r\n")
			for i, line := range lines {
				if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(name, "X-") && line[0] != ' ' {
					lines[i] = strings.ToLower(name) + ":" + value
				}
			}
			return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
		},
		"values folded": func(s string) string {
			head, body, _ := strings.Cut(s, "\r\n\r\n")
			return strings.ReplaceAll(head, ": ", ":\r\n\t") + "\r\n\r\n" + body
		},
		"order of fields": func(s string) string {
			head, body, _ := strings.Cut(s, "\r\n\r\n")
			lines := strings.Split(head, "\r\n")
			for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
				lines[i], lines[j] = lines[j], lines[i]
			}
			return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
		},
	}
	for name, meddle := range meddling {
		t.Run(name, func(t *testing.T) {
			for body := range payloads() {
				m := topic(body)
				m.Header = transport.Header{{Name: "X-Trace", Value: "abc def"}}
				raw := meddle(string(mustEncode(t, m, robot)))
				requireEqual(t, mustDecode(t, []byte(raw)), received(m, robot))
			}
		})
	}
}

func TestMetadataComesBack(t *testing.T) {
	change := func(m *transport.Message, f func(*transport.Message)) *transport.Message {
		f(m)
		return m
	}
	for name, m := range map[string]*transport.Message{
		"topic":          topic("hello"),
		"request":        request(),
		"response":       response(),
		"error response": errorResponse(),
		"only a source time": change(topic("x"), func(m *transport.Message) {
			m.Info = transport.Info{SourceTime: source}
			m.ID = transport.ParseID("foreign@example.org")
		}),
		"GID of rmw_email": change(topic("x"), func(m *transport.Message) { m.Info.PublisherGID, _ = transport.ParseGID("4294967295") }),
		"request number 0": change(request(), func(m *transport.Message) { m.Info.RequestSequence = 0 }),
		"largest numbers": change(request(), func(m *transport.Message) {
			m.Info.Sequence, m.Info.RequestSequence = 1<<64-1, 1<<64-1
			m.Info.SourceTime = time.Unix(0, 1<<63-1).UTC()
			m.Deadline = m.Info.SourceTime
		}),
		"before 1970": change(topic("x"), func(m *transport.Message) { m.Info.SourceTime = time.Unix(0, -1).UTC() }),
		"the epoch":   change(topic("x"), func(m *transport.Message) { m.Info.SourceTime = time.Unix(0, 0).UTC() }),
		"answer to a person": change(response(), func(m *transport.Message) {
			m.Info.ClientGID, m.Info.RequestSequence = transport.GID{}, 0
			m.InReplyTo = transport.ParseID("CAF+x=Yz@mail.example.org")
		}),
		"answer to an ID that Postfix made": change(response(), func(m *transport.Message) {
			m.InReplyTo = transport.ParseID("20261121114427.2690198000@mail.example.org")
		}),
		"empty error": change(errorResponse(), func(m *transport.Message) { *m.Error = transport.RemoteError{} }),
		"long name":   change(topic("x"), func(m *transport.Message) { m.Name = strings.Repeat("n", transport.MaxName) }),
		"long ID": change(topic("x"), func(m *transport.Message) {
			m.ID = transport.ParseID(strings.Repeat("i", MaxID))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			e := Envelope{From: "a@example.org", ReplyTo: "b@example.org", To: []string{"c@example.org", "d@example.org"}, Cc: []string{"e@example.org"}}
			raw := mustEncode(t, m, e)
			requireEqual(t, mustDecode(t, raw), received(m, e))
			again := mustEncode(t, m, e)
			if !bytes.Equal(raw, again) {
				t.Error("encoding is not deterministic")
			}
			want := *received(m, e)
			want.Body = nil
			if want.Error != nil {
				want.Error = &transport.RemoteError{Code: want.Error.Code}
			}
			got, err := DecodeHeader(raw[:bytes.Index(raw, []byte("\r\n\r\n"))+4])
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, got, &want)
		})
	}
}

func TestDistantDeadlineIsSaturated(t *testing.T) {
	m := topic("x")
	for year, want := range map[int]int64{9999: 1<<63 - 1, 1000: -1 << 63} {
		m.Deadline = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		got := mustDecode(t, mustEncode(t, m, robot)).Deadline
		if !got.Equal(time.Unix(0, want)) {
			t.Errorf("deadline in %d became %v", year, got)
		}
	}
}

func TestContentTypesComeBack(t *testing.T) {
	bodies := []string{"plain text", "", "Grüße", "\x00\x01"}
	for _, declared := range []string{
		"", "application/json", "application/json; charset=utf-8", "text/plain", "TEXT/Plain; Charset=\"UTF-8\"",
		textType, binaryType, "text/plain; charset=us-ascii", "text/plain; charset=iso-8859-1", "text/plain; charset=unknown-8bit", "text/plain; format=flowed",
		"application/x-protobuf; messageType=\"a.B\"", "multipart/mixed; boundary=x", "message/rfc822", "image/png",
		"application/x; a=\"two  blanks; and ;\"", "application/x; p=" + strings.Repeat("v", MaxContentType-17),
	} {
		for _, body := range bodies {
			m := topic(body)
			m.ContentType = declared
			requireEqual(t, mustDecode(t, mustEncode(t, m, robot)), received(m, robot))
		}
	}
}

func TestHeadersComeBack(t *testing.T) {
	for _, value := range []string{
		"", "v", "two words", "two  blanks", "colon: semicolon; \"quoted\" (comment) <angle>", "Grüße aus Köln", "日本語のヘッダー",
		"=?utf-8?q?/other=5Ftopic?=", "=?", "a =?utf-8?b?eA==?= b", "=?utf-8?b?broken", "?=", strings.Repeat("x", transport.MaxHeaderValue),
		strings.Repeat("x ", transport.MaxHeaderValue/2-1) + "y", strings.Repeat("ü", transport.MaxHeaderValue/2),
		strings.Repeat("🤖", transport.MaxHeaderValue/4), "\u00a0", "a\u2028b", "\ufeff",
	} {
		for _, name := range []string{"X", "X-Mixed-Case", "x_y.z", "A!#$%&'*+^`|~0", strings.Repeat("N", 60), strings.Repeat("N", transport.MaxHeaderName)} {
			m := topic("x")
			m.Header = transport.Header{{Name: name, Value: value}, {Name: name, Value: "again"}}
			raw := mustEncode(t, m, robot)
			requireEqual(t, mustDecode(t, raw), received(m, robot))
			for line := range strings.SplitSeq(string(raw), "\r\n") {
				if strings.Contains(line, wordStart) && len(line) > maxWordLine {
					t.Errorf("line of %d bytes with an encoded word: %s", len(line), line)
				}
			}
		}
	}
}

func TestManyHeadersComeBack(t *testing.T) {
	m := topic("x")
	for i := range transport.MaxHeaderFields {
		m.Header.Add(fmt.Sprintf("X-%d", i), strings.Repeat("v", transport.MaxHeaderValue))
	}
	requireEqual(t, mustDecode(t, mustEncode(t, m, robot)), received(m, robot))

	// Fields that servers put on top push out none of the sender's.
	raw := append([]byte("X-Scanned: yes\r\nX-Spam-Score: 0\r\n"), mustEncode(t, m, robot)...)
	requireEqual(t, mustDecode(t, raw), received(m, robot))
}
