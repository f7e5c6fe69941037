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

// mailWith returns a topic message's mail with fields added, in front and so before ours.
func mailWith(fields string) string {
	return fields + "Publisher-GID: 5\r\nSource-Timestamp: 1795261467376193763\r\nSubject: /t\r\nFrom: a@example.org\r\n" +
		"Message-ID: <1@example.org>\r\n\r\nbody\r\n"
}

func TestForeign(t *testing.T) {
	noise := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{2})
	rng.Read(noise)
	nested := func(depth int) string {
		var b strings.Builder
		for i := range depth {
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		}
		return b.String()
	}
	for name, raw := range map[string]string{
		"nothing":             "",
		"an empty line":       "\r\n",
		"only a body":         "\r\nPublisher-GID: 5\r\nSubject: /t\r\n",
		"no metadata":         "Subject: /t\r\nFrom: a@example.org\r\n\r\nx",
		"only a deadline":     "Subject: /t\r\nDeadline: 5\r\n\r\nx",
		"binary":              string(noise),
		"a line of 10 MB":     strings.Repeat("x", 10<<20),
		"a field of 10 MB":    "Subject: " + strings.Repeat("x", 10<<20),
		"a header of 1 MiB":   strings.Repeat("X-Header: some value\r\n", 1<<20/22) + mailWith(""),
		"100,000 fields":      strings.Repeat("a:\n", 100000) + mailWith(""),
		"501 fields":          strings.Repeat("a: b\r\n", 501) + mailWith(""),
		"a fold of 100 KB":    "X: " + strings.Repeat("\r\n ", 100000/3) + mailWith(""),
		"no subject":          strings.Replace(mailWith(""), "Subject: /t\r\n", "", 1),
		"a person's subject":  strings.Replace(mailWith(""), "/t", "Re: /t", 1),
		"an encoded subject":  strings.Replace(mailWith(""), "/t", "=?utf-8?q?/t?=", 1),
		"an alias of a name":  strings.Replace(mailWith(""), "/t", "/t\x00", 1),
		"a carriage return":   strings.Replace(mailWith(""), "/t", "/t\rBcc: x", 1),
		"a long subject":      strings.Replace(mailWith(""), "/t", strings.Repeat("t", 64<<10-300), 1),
		"multipart":           mailWith("Content-Type: Multipart/Mixed; boundary=x\r\n"),
		"nested multipart":    mailWith("Content-Type: multipart/mixed; boundary=b\r\n") + nested(10000),
		"a delivery report":   mailWith("Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n"),
		"a forwarded message": mailWith("Content-Type: message/rfc822\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Decode([]byte(raw))
			requireError(t, err, ErrForeign)
			_, err = DecodeHeader([]byte(raw))
			requireError(t, err, ErrForeign)
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	for name, raw := range map[string]string{
		"timestamp of words":       strings.Replace(mailWith(""), "1795261467376193763", "yesterday", 1),
		"timestamp with plus":      strings.Replace(mailWith(""), "1795261467376193763", "+5", 1),
		"timestamp with fraction":  strings.Replace(mailWith(""), "1795261467376193763", "5.5", 1),
		"timestamp too large":      strings.Replace(mailWith(""), "1795261467376193763", "9223372036854775808", 1),
		"timestamp of 60,000":      strings.Replace(mailWith(""), "1795261467376193763", strings.Repeat("9", 60000), 1),
		"timestamp empty":          strings.Replace(mailWith(""), "1795261467376193763", "", 1),
		"timestamp with controls":  strings.Replace(mailWith(""), "1795261467376193763", "\x1b[31m\x00", 1),
		"GID of words":             strings.Replace(mailWith(""), "GID: 5", "GID: five", 1),
		"GID zero":                 strings.Replace(mailWith(""), "GID: 5", "GID: 0", 1),
		"GID empty":                strings.Replace(mailWith(""), "GID: 5", "GID:", 1),
		"GID too long":             strings.Replace(mailWith(""), "GID: 5", "GID: "+strings.Repeat("a", 33), 1),
		"deadline":                 mailWith("Deadline: soon\r\n"),
		"sequence negative":        mailWith("Publisher-Sequence-Number: -1\r\n"),
		"request number of words":  mailWith("Client-GID: 6\r\nRequest-Sequence-Number: one\r\n"),
		"client without number":    mailWith("Client-GID: 6\r\n"),
		"number without client":    mailWith("Request-Sequence-Number: 1\r\n"),
		"error without request":    mailWith("Service-Error: 1\r\n"),
		"error without number":     mailWith("Service-Error: bad\r\nIn-Reply-To: <x@y>\r\n"),
		"error number of 33 bits":  mailWith("Service-Error: 4294967296\r\nIn-Reply-To: <x@y>\r\n"),
		"answer to nothing usable": mailWith("In-Reply-To: your mail\r\nClient-GID: 6\r\nRequest-Sequence-Number: 1\r\n"),
		"answer to another call": mailWith("In-Reply-To: <1.a01bd3465c7e4892b70de53361fa2c08@h>\r\n" +
			"Client-GID: a01bd3465c7e4892b70de53361fa2c08\r\nRequest-Sequence-Number: 2\r\n"),
		"two GIDs":                mailWith("publisher-gid: 5\r\n"),
		"two timestamps":          mailWith("Source-Timestamp : 5\r\n"),
		"two subjects":            mailWith("Subject: /t\r\n"),
		"two senders":             mailWith("From: b@example.org\r\n"),
		"two line endings":        mailWith("Body-Line-Ending: lf; final=0\r\nBody-Line-Ending: lf; final=1\r\n"),
		"line ending unknown":     mailWith("Body-Line-Ending: cr; final=0\r\n"),
		"line ending incomplete":  mailWith("Body-Line-Ending: lf\r\n"),
		"line ending of many":     mailWith("Body-Line-Ending: lf; final=1000000000\r\n"),
		"encoding unknown":        mailWith("Content-Transfer-Encoding: uuencode\r\n"),
		"content type":            mailWith("Content-Type: no type\r\n"),
		"content type too long":   mailWith("Content-Type: a/b; c=" + strings.Repeat("d", 1000) + "\r\n"),
		"body content type":       mailWith("Body-Content-Type: /\r\n"),
		"message ID with blank":   strings.Replace(mailWith(""), "<1@example.org>", "<1 @example.org>", 1),
		"message ID too long":     strings.Replace(mailWith(""), "<1@", "<"+strings.Repeat("1", 1000)+"@", 1),
		"disposition":             mailWith("Content-Disposition: attachment; filename\r\n"),
		"path of a file":          mailWith("Content-Disposition: attachment; filename=\"../x\"\r\n"),
		"file name with controls": mailWith("Content-Disposition: attachment; filename*=utf-8''a%0D%0ABcc%3A\r\n"),
		"file name too long":      mailWith("Content-Disposition: attachment; filename=" + strings.Repeat("x", 256) + "\r\n"),
		"two dispositions":        mailWith("Content-Disposition: inline\r\ncontent-disposition: inline\r\n"),
		"base64 with junk":        strings.Replace(mailWith("Content-Transfer-Encoding: base64\r\n"), "body", "b*dy", 1),
		"base64 cut short":        strings.Replace(mailWith("Content-Transfer-Encoding: base64\r\n"), "body", "bod", 1),
		"base64 with a footer":    strings.Replace(mailWith("Content-Transfer-Encoding: base64\r\n"), "body", "aGVsbG8=\r\n--\r\nlist", 1),
		"base64 with loose bits":  strings.Replace(mailWith("Content-Transfer-Encoding: base64\r\n"), "body", "aGVsbG9=", 1),
		"quoted-printable broken": strings.Replace(mailWith("Content-Transfer-Encoding: quoted-printable\r\n"), "body", "\x01", 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(raw))
			requireError(t, err, ErrMalformed)
		})
	}
}

func TestReadOtherWriters(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want func(m *transport.Message) bool
	}{
		"no server between":  {strings.TrimSuffix(mailWith(""), "\r\n"), func(m *transport.Message) bool { return string(m.Body) == "body" }},
		"final line endings": {mailWith("") + "\r\n", func(m *transport.Message) bool { return string(m.Body) == "body\r\n" }},
		"no body": {"Publisher-GID: 5\r\nSubject: /t\r\n", func(m *transport.Message) bool {
			return len(m.Body) == 0 && m.Info.SourceTime.IsZero() && m.ID.IsZero() && m.From == "" && m.ReplyTo == ""
		}},
		"time from the date": {"Publisher-GID: 5\r\nSubject: /t\r\nDate: Sat, 21 Nov 2026 12:44:27 +0100 (CET)\r\n\r\n", func(m *transport.Message) bool {
			return m.Info.SourceTime.Equal(time.Unix(1795261467, 0)) && m.Info.SourceTime.Location() == time.UTC
		}},
		"date out of range": {"Publisher-GID: 5\r\nSubject: /t\r\nDate: Sat, 21 Nov 9026 12:44:27 +0100\r\n\r\n", func(m *transport.Message) bool {
			return m.Info.SourceTime.IsZero()
		}},
		"quoted-printable": {strings.Replace(mailWith("Content-Transfer-Encoding: Quoted-Printable\r\n"), "body", "Gr=C3=BC=\r\n=C3=9Fe", 1), func(m *transport.Message) bool {
			return string(m.Body) == "Grüße"
		}},
		"8bit": {strings.Replace(mailWith("Content-Transfer-Encoding: 8bit\r\n"), "body", "Grüße", 1), func(m *transport.Message) bool {
			return string(m.Body) == "Grüße"
		}},
		"base64 of the restored text": {strings.Replace(mailWith("Content-Transfer-Encoding: base64\r\nBody-Line-Ending: lf; final=1\r\n"), "body", "YQ0KYg0K", 1), func(m *transport.Message) bool {
			return string(m.Body) == "a\nb\n"
		}},
		"folded content type": {mailWith("Content-Type: application/json;\r\n\tcharset=utf-8\r\n"), func(m *transport.Message) bool {
			return m.ContentType == "application/json; charset=utf-8"
		}},
		"answer by references": {mailWith("References: <a@b> <7.a01bd3465c7e4892b70de53361fa2c08@h>\r\n <c@d>\r\nClient-GID: a01bd3465c7e4892b70de53361fa2c08\r\nRequest-Sequence-Number: 7\r\n"), func(m *transport.Message) bool {
			return m.Kind == transport.Response && m.InReplyTo == transport.NewID(client, 7, "h")
		}},
		"topic message in a thread": {mailWith("References: <7.a01bd3465c7e4892b70de53361fa2c08@h>\r\n"), func(m *transport.Message) bool {
			return m.Kind == transport.TopicMessage && m.InReplyTo.IsZero()
		}},
		"answer to several": {mailWith("In-Reply-To: <a@b> <7.a01bd3465c7e4892b70de53361fa2c08@h> <c@d>\r\n"), func(m *transport.Message) bool {
			return m.InReplyTo == transport.NewID(client, 7, "h")
		}},
		"ID without brackets": {strings.Replace(mailWith("In-Reply-To: a@b\r\n"), "<1@example.org>", "1@example.org", 1), func(m *transport.Message) bool {
			return m.ID == transport.ParseID("1@example.org") && m.InReplyTo == transport.ParseID("a@b")
		}},
		"lines that are no fields": {"From robot Sat Nov 21\r\n folded\r\n" + mailWith(": x\r\nno field\r\nwith blank: x\r\n"), func(m *transport.Message) bool {
			return len(m.Header) == 0
		}},
		"file in pieces": {mailWith("Content-Disposition: inline;\r\n filename*1*=%C3%BCr;\r\n\tfilename*0*=utf-8''f;\r\n\tfilename*2=\"das Amt\"\r\n"), func(m *transport.Message) bool {
			return m.Filename == "fürdas Amt"
		}},
		"disposition without file": {mailWith("Content-Disposition: inline\r\n"), func(m *transport.Message) bool { return m.Filename == "" }},
		"error as a file": {mailWith("Content-Disposition: attachment; filename=../x\r\nService-Error: 1\r\nIn-Reply-To: <x@y>\r\n"), func(m *transport.Message) bool {
			return m.Filename == "" && m.Error.Text == "body"
		}},
		"fields dropped": {mailWith("X-A: ok\r\nX-Control: a\x07b\r\nX-Long: " + strings.Repeat("x", 1000) + "\r\nList-Id: x\r\nX-Latin: =?iso-8859-1?q?=FC?=\r\nX-Raw: \xfc\r\nX-Unknown: =?x-klingon?q?a?=\r\n"), func(m *transport.Message) bool {
			return fmt.Sprint(m.Header) == "[{X-A ok} {X-Latin ü} {X-Unknown =?x-klingon?q?a?=}]"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if m := mustDecode(t, []byte(c.raw)); !c.want(m) {
				t.Errorf("got %+v %q", m, m.Body)
			}
		})
	}
}

func TestDecodeHeaderNeedsTheWholeHeader(t *testing.T) {
	raw := mustEncode(t, topic("x"), robot)
	end := bytes.Index(raw, []byte("\r\n\r\n")) + 4
	for n := range end {
		_, err := DecodeHeader(raw[:n])
		requireError(t, err, ErrForeign)
	}
}

func TestDecodeSharesNoMemory(t *testing.T) {
	for _, body := range []string{"text\n", "a\r\nb", "\x00binary"} {
		m := withHeader(topic(body))
		raw := mustEncode(t, m, robot)
		got := mustDecode(t, raw)
		clear(raw)
		requireEqual(t, got, received(m, robot))
	}
	raw := []byte(mailWith("X-A: b\r\n"))
	got := mustDecode(t, raw)
	clear(raw)
	if string(got.Body) != "body" || got.Name != "/t" || got.From != "a@example.org" || got.Header.Get("X-A") != "b" {
		t.Errorf("got %+v %q", got, got.Body)
	}
}
