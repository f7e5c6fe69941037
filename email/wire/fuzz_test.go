package wire

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// FuzzDecode checks that any bytes give either an error of the two kinds, or a message
// that can be sent on and read again unchanged.
func FuzzDecode(f *testing.F) {
	for _, pattern := range []string{"testdata/*.eml", "../../../shared/vectors/*/*.eml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
	f.Add([]byte(mailWith("To: Team: a@b, \"C\" <c@d>;, (x) e@f\r\nX: =?utf-8?q?=C3=BC?=\r\nBody-Content-Type: text/plain\r\n")))
	f.Add([]byte(mailWith("References: <7.a01bd3465c7e4892b70de53361fa2c08@h>\r\nClient-GID: 6\r\nRequest-Sequence-Number: 7\r\n")))
	f.Add([]byte(mailWith("Content-Transfer-Encoding: quoted-printable\r\nBody-Line-Ending: crlf; final=2\r\n")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Decode(raw)
		head, headErr := DecodeHeader(raw)
		if err != nil {
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrMalformed) && err != ErrBatch {
				t.Fatalf("error of no kind: %v", err)
			}
			requireLoggable(t, err)
			if errors.Is(err, ErrForeign) && !errors.Is(headErr, ErrForeign) {
				t.Fatalf("whole: %v, header: %v", err, headErr)
			}
			return
		}
		if len(m.Body) > len(raw)*2+maxFinalEndings*2 {
			t.Fatalf("a body of %d bytes from a mail of %d", len(m.Body), len(raw))
		}
		if headErr == nil {
			want := *m
			want.Body = nil
			if m.Error != nil {
				want.Error = &transport.RemoteError{Code: m.Error.Code}
			}
			requireEqual(t, head, &want)
		}
		if m.ID.IsZero() || m.Info.SourceTime.IsZero() {
			return // such a mail is read, but not written
		}
		e := Envelope{From: m.From, ReplyTo: m.ReplyTo, To: m.To}
		if m.From == "" {
			e.From = "a@example.org"
		}
		again, err := Encode(m, e)
		if errors.Is(err, transport.ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatalf("what was read can't be written: %v\n%+v", err, m)
		}
		requireSafe(t, again)
		requireEqual(t, mustDecode(t, again), received(m, e))
	})
}

// FuzzRoundTrip checks that whatever an application may send comes back unchanged.
func FuzzRoundTrip(f *testing.F) {
	for body := range payloads() {
		if len(body) < 4096 {
			f.Add(uint8(len(body)), []byte(body), "text/plain", "", "X-A", "väl  ue", uint64(len(body)), int64(len(body)))
		}
	}
	f.Add(uint8(1), []byte("{}"), "application/json; charset=\"x y\"", "Grüße \"2\".json", "X", "=?utf-8?q?x?=", uint64(1), int64(-1))
	f.Fuzz(func(t *testing.T, kind uint8, body []byte, contentType, filename, name, value string, sequence uint64, ns int64) {
		makers := []func() *transport.Message{func() *transport.Message { return topic("") }, request, response, errorResponse}
		m := makers[int(kind)%len(makers)]()
		if m.Kind == transport.ErrorResponse {
			m.Error.Text, m.Error.Code = string(body), int(int32(sequence))
		} else {
			m.Body = body
			if transport.ValidateFilename(filename) == nil {
				m.Filename = filename
			}
		}
		if m.ContentType = contentType; contentType != "" && transport.ValidateContentType(contentType) != nil {
			m.ContentType = ""
		}
		if m.Header = (transport.Header{{Name: name, Value: value}, {Name: "Y", Value: "z"}}); m.Header.Validate() != nil {
			m.Header = nil
		}
		m.Info.Sequence = sequence
		m.ID = transport.NewID(m.Info.PublisherGID, sequence, "host")
		m.Info.SourceTime, m.Deadline = time.Unix(0, ns), time.Unix(0, -ns)
		requireEqual(t, mustDecode(t, mustEncode(t, m, robot)), received(m, robot))
	})
}

// FuzzAddress checks that an address is either refused or written so that it is read
// back, and that reading any list gives addresses that can be written.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		"a@example.org", "Robot <a@example.org>", `"Robot, the <first>" <a@example.org>`, "Köln <a@example.org>", `"a b"@example.org`,
		"a@[192.0.2.1]", "Team: a@b, C <c@d>;, e@f", "a@b (comment, c@d), e@f", "=?utf-8?q?K=C3=B6ln?= <a@b>", "A\r\n <a@b>,\r\n\tc@d", "a@b\r\nBcc: x@y",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for a := range addresses([]byte(s)) {
			if again, err := formatAddress(a); err != nil || again != a {
				t.Fatalf("%q was read and can't be written: %q, %v", a, again, err)
			}
		}
		raw, err := Encode(topic("x"), Envelope{From: s, ReplyTo: s, To: []string{s, s}, Cc: []string{s}})
		if err != nil {
			requireLoggable(t, err)
			return
		}
		requireSafe(t, raw)
		m := mustDecode(t, raw)
		if s != "" && (m.From == "" || m.ReplyTo != m.From || len(m.To) != 2 || m.To[0] != m.From || m.To[1] != m.From) {
			t.Fatalf("%q was read as %q, %q, %q", s, m.From, m.ReplyTo, m.To)
		}
	})
}

// FuzzDate checks that any date gives a time that can be written, or none.
func FuzzDate(f *testing.F) {
	for _, s := range []string{
		"Sat, 21 Nov 2026 11:44:27 +0000", "21 Nov 26 11:44 GMT (comment)", "Sat, 21 Nov 9026 12:44:27 +0100", "Mon, 1 Jan 0001 00:00:00 -0000", "x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		raw := []byte("Publisher-GID: 5\r\nSubject: /t\r\nDate: " + strings.NewReplacer("\r", "", "\n", "\r\n ").Replace(s) + "\r\n\r\n")
		m, err := Decode(raw)
		if err != nil {
			requireLoggable(t, err)
			return
		}
		if at := m.Info.SourceTime; !at.IsZero() && (!countable(at) || at.Location() != time.UTC) {
			t.Fatalf("%q was read as %v", s, at)
		}
	})
}
