package wire

import (
	"errors"
	"fmt"
	"io"
	"net/mail"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

func TestEncodeRefuses(t *testing.T) {
	type M = transport.Message
	for name, c := range map[string]struct {
		make   func() *M
		change func(m *M)
		want   error
	}{
		"bad name":                {request, func(m *M) { m.Name = "a b" }, transport.ErrInvalidName},
		"injection by name":       {request, func(m *M) { m.Name = "a\r\nBcc: x@y" }, transport.ErrInvalidName},
		"bad header":              {request, func(m *M) { m.Header.Add("X", "a\r\nBcc: x@y") }, transport.ErrInvalidHeader},
		"header of ours":          {request, func(m *M) { m.Header.Add("Body-Line-Ending", "lf; final=0") }, transport.ErrInvalidHeader},
		"huge header":             {request, func(m *M) { m.Header = hugeHeader() }, transport.ErrTooLarge},
		"no ID":                   {request, func(m *M) { m.ID = transport.ID{} }, nil},
		"injection by ID":         {request, func(m *M) { m.ID = transport.ParseID("a\r\nBcc:x@y") }, nil},
		"ID with bracket":         {request, func(m *M) { m.ID = transport.ParseID("a>b@c") }, nil},
		"injection by host":       {request, func(m *M) { m.ID = transport.NewID(client, 1, "h\r\nBcc:x@y") }, nil},
		"injection by request ID": {response, func(m *M) { m.InReplyTo = transport.ParseID("a\r\nBcc:x@y") }, nil},
		"no source time":          {request, func(m *M) { m.Info.SourceTime = time.Time{} }, nil},
		"distant source time":     {request, func(m *M) { m.Info.SourceTime = time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC) }, nil},
		"no kind":                 {request, func(m *M) { m.Kind = 0 }, nil},
		"request as topic":        {request, func(m *M) { m.Kind = transport.TopicMessage }, nil},
		"request as response":     {request, func(m *M) { m.Kind = transport.Response }, nil},
		"response as request":     {response, func(m *M) { m.Kind = transport.Request }, nil},
		"response as error":       {response, func(m *M) { m.Kind = transport.ErrorResponse }, nil},
		"error as response":       {errorResponse, func(m *M) { m.Kind = transport.Response }, nil},
		"error with body":         {errorResponse, func(m *M) { m.Body = []byte("x") }, nil},
		"error number of 33 bits": {errorResponse, func(m *M) { m.Error.Code = 1 << 32 }, nil},
		"request of nobody":       {request, func(m *M) { m.Info.ClientGID = transport.GID{} }, nil},
		"number without client":   {response, func(m *M) { m.Info.ClientGID = transport.GID{} }, nil},
		"answer to another call":  {response, func(m *M) { m.Info.RequestSequence++ }, nil},
		"path of a file":          {request, func(m *M) { m.Filename = "../x" }, transport.ErrInvalidFilename},
		"injection by file name":  {request, func(m *M) { m.Filename = "x\"\r\nBcc: x@y" }, transport.ErrInvalidFilename},
		"error as a file":         {errorResponse, func(m *M) { m.Filename = "x" }, nil},
		"content type":            {request, func(m *M) { m.ContentType = "json" }, nil},
		"content type syntax":     {request, func(m *M) { m.ContentType = "a/b; c" }, nil},
		"content type injection":  {request, func(m *M) { m.ContentType = "a/b\r\nBcc: x@y" }, nil},
		"content type too long":   {request, func(m *M) { m.ContentType = "a/b; c=" + strings.Repeat("d", MaxContentType) }, nil},
		"content type with blank": {request, func(m *M) { m.ContentType = " a/b" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := c.make()
			c.change(m)
			raw, err := Encode(m, robot)
			if err == nil {
				t.Fatalf("encoded as\n%s", raw)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v does not wrap %v", err, c.want)
			}
			requireLoggable(t, err)
		})
	}
}

func hugeHeader() (h transport.Header) {
	for i := range transport.MaxHeaderFields {
		h.Add(fmt.Sprint("X-", i), strings.Repeat("ü", transport.MaxHeaderValue/2))
	}
	return h
}

func TestAddresses(t *testing.T) {
	long := strings.Repeat("x", 60) + "@" + strings.Repeat("y", 60) + ".example.org"
	for _, c := range []struct{ address, written, bare string }{
		{"a@example.org", "a@example.org", "a@example.org"},
		{"a.b+c_d-e@x-y.example.org", "a.b+c_d-e@x-y.example.org", "a.b+c_d-e@x-y.example.org"},
		{"a@localhost", "a@localhost", "a@localhost"},
		{"<a@example.org>", "a@example.org", "a@example.org"},
		{"Robot <a@example.org>", `"Robot" <a@example.org>`, "a@example.org"},
		{`"Robot, the <first>" <a@example.org>`, `"Robot, the <first>" <a@example.org>`, "a@example.org"},
		{`"two  blanks" <a@example.org>`, `"two  blanks" <a@example.org>`, "a@example.org"},
		{"Köln <a@example.org>", "=?utf-8?q?K=C3=B6ln?= <a@example.org>", "a@example.org"},
		{`"a b"@example.org`, `"a b"@example.org`, `"a b"@example.org`},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", "a@[192.0.2.1]"},
		{"o'neil@example.org", "o'neil@example.org", "o'neil@example.org"},
		{long, long, long},
	} {
		e := Envelope{From: c.address, ReplyTo: c.address, To: []string{c.address, c.address}, Cc: []string{c.address}}
		raw := mustEncode(t, topic("x"), e)
		m := mustDecode(t, raw)
		if m.From != c.bare || m.ReplyTo != c.bare || !slices.Equal(m.To, []string{c.bare, c.bare}) {
			t.Errorf("%s: read as %q, %q, %q", c.address, m.From, m.ReplyTo, m.To)
		}
		if head := strings.ReplaceAll(string(raw), "\r\n ", " "); !strings.HasPrefix(head, "From: "+c.written+"\r\n") {
			t.Errorf("%s: written as %.100q", c.address, raw)
		}
		if again, err := formatAddress(c.bare); err != nil || again != c.bare {
			t.Errorf("%s: the bare address is not accepted: %q, %v", c.bare, again, err)
		}
	}
}

func TestBadAddressesAreRefused(t *testing.T) {
	for _, bad := range []string{
		"", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\r\nBcc: x@y", "a@b, c@d", "x <a@b> y", "ä@example.org",
		"a@münchen.de", "a@b\x00", strings.Repeat("x", MaxAddress) + "@example.org",
	} {
		for _, e := range []Envelope{{From: bad}, {From: "a@b", To: []string{bad}}, {From: "a@b", Cc: []string{"a@b", bad}}, {From: "a@b", ReplyTo: bad}} {
			if e.From == "a@b" && len(e.To)+len(e.Cc) == 0 && bad == "" {
				continue // no Reply-To is fine
			}
			raw, err := Encode(topic("x"), e)
			if err == nil {
				t.Fatalf("%+v was encoded as\n%s", e, raw)
			}
			requireLoggable(t, err)
		}
	}
}

func TestReadAddressesOfOthers(t *testing.T) {
	for list, want := range map[string][]string{
		"":                         nil,
		",,,":                      nil,
		"undisclosed-recipients:;": nil,
		"Team: a@b, C <c@d>;, e@f": {"a@b", "c@d", "e@f"},
		`"a@x, b" <c@d>`:           {"c@d"},
		"a@b (comment, c@d), e@f":  {"a@b", "e@f"},
		"=?x-klingon?q?a?= <a@b>":  {"a@b"},
		"\xfc\xff <a@b>":           {"a@b"},
		"junk, a@b, <>, <c@d":      {"a@b"},
		`"unterminated <a@b>, c@d`: nil,
		"A\r\n <a@b>,\r\n\tc@d":    {"a@b", "c@d"},
		strings.Repeat("(", 5000):  nil,
		"a@b," + strings.Repeat("<", 5000) + ", c@d": {"a@b"},
		strings.Repeat("x", 5000) + "@b, a@b":        {"a@b"},
		strings.Repeat("a@b,", MaxAddresses+5):       slices.Repeat([]string{"a@b"}, MaxAddresses),
		"<\"a\rb\"@c>, <a\x00@b>, d@e":               {"d@e"},
	} {
		if got := slices.Collect(addresses([]byte(list))); !slices.Equal(got, want) {
			t.Errorf("%.60q: got %q, want %q", list, got, want)
		}
	}
}

func TestAddressListsAreFolded(t *testing.T) {
	var e Envelope
	e.From = `"` + strings.Repeat("a long name ", 12) + `" <a@example.org>`
	for i := range 200 {
		e.To = append(e.To, fmt.Sprintf("Recipient %d <recipient-%d@example.org>", i, i))
	}
	raw := mustEncode(t, topic("x"), e)
	for line := range strings.SplitSeq(string(raw), "\r\n") {
		if len(line) > foldAt {
			t.Errorf("line of %d bytes: %s", len(line), line)
		}
	}
	if m := mustDecode(t, raw); len(m.To) != 200 || m.To[199] != "recipient-199@example.org" {
		t.Errorf("read as %q", m.To)
	}
	e.To = slices.Repeat(e.To, 50)
	if _, err := Encode(topic("x"), e); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("10,000 recipients: %v", err)
	}
}

// Another reader must see the same: here net/mail.
func TestStandardLibraryReadsIt(t *testing.T) {
	m := withHeader(response())
	e := Envelope{From: "Köln <a@example.org>", To: []string{"B <b@example.org>"}, Cc: []string{"c@example.org"}}
	read, err := mail.ReadMessage(strings.NewReader(string(mustEncode(t, m, e))))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Subject":                   "/add_two_ints",
		"Message-Id":                "<" + m.ID.String() + ">",
		"In-Reply-To":               "<" + m.InReplyTo.String() + ">",
		"References":                "<" + m.InReplyTo.String() + ">",
		"Auto-Submitted":            "auto-replied",
		"Mime-Version":              "1.0",
		"Content-Type":              "application/json",
		"Content-Transfer-Encoding": "7bit",
		"Body-Line-Ending":          "lf; final=1",
	} {
		if got := read.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if date, err := read.Header.Date(); err != nil || !date.Equal(source.Truncate(time.Second)) {
		t.Errorf("Date: %v, %v", date, err)
	}
	from, err := read.Header.AddressList("From")
	if err != nil || !reflect.DeepEqual(from, []*mail.Address{{Name: "Köln", Address: "a@example.org"}}) {
		t.Errorf("From: %v, %v", from, err)
	}
	if body, err := io.ReadAll(read.Body); err != nil || string(body) != "{\"sum\":5}\r\n" {
		t.Errorf("body: %q, %v", body, err)
	}
}
