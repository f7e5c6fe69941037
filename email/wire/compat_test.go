package wire

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// rmwMail is what the reader of rmw_email 0.8 makes of a mail.
type rmwMail struct {
	fields map[string]string
	body   string
}

var rmwHeader = regexp.MustCompile(`([a-zA-Z\-]+): (.*)\r`)

// readRMW does what that reader does: it looks for header fields in every line of the mail,
// takes the first of a name, wants those it cannot do without, and takes for the body what
// follows the first empty line.
func readRMW(t testing.TB, mail string) rmwMail {
	t.Helper()
	m := rmwMail{fields: make(map[string]string)}
	for line := range strings.SplitSeq(mail, "\n") {
		if match := rmwHeader.FindStringSubmatch(line); match != nil {
			if _, again := m.fields[match[1]]; !again {
				m.fields[match[1]] = match[2]
			}
		}
	}
	for _, name := range []string{"From", "In-Reply-To", "References", "Message-ID", "Subject", "To", "Cc", "Bcc"} {
		if _, ok := m.fields[name]; !ok {
			t.Fatalf("rmw_email finds no %s in\n%s", name, mail)
		}
	}
	var ok bool
	if _, m.body, ok = strings.Cut(mail, "\r\n\r\n"); !ok {
		t.Fatalf("rmw_email finds no body in\n%s", mail)
	}
	return m
}

// uint32 reads a GID as rmw_email does.
func (m rmwMail) uint32(t testing.TB, name string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(m.fields[name], 10, 32)
	if err != nil || n == 0 {
		t.Fatalf("%s is %q: %v", name, m.fields[name], err)
	}
	return uint32(n)
}

// int64 reads a sequence number or a time as rmw_email does.
func (m rmwMail) int64(t testing.TB, name string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(m.fields[name], 10, 64)
	if err != nil {
		t.Fatalf("%s is %q: %v", name, m.fields[name], err)
	}
	return n
}

// stored is a mail as a server delivers it.
func stored(mail []byte) string {
	return "Return-Path: <base@example.org>\r\nDelivered-To: robot@example.org\r\n" +
		"Received: from mail.example.org\r\n\tby vm with LMTP\r\n\tid CDRGChuEAWuZMAAAg+zDdQ\r\n" +
		"\t(envelope-from <base@example.org>)\r\n\tfor <robot@example.org>; Sat, 21 Nov 2026 11:44:27 +0000\r\n" +
		"Authentication-Results: mail.example.org; spf=pass smtp.mailfrom=base@example.org\r\n" + string(mail)
}

func mustEncodeRMW(t testing.TB, m *transport.Message, e Envelope) []byte {
	t.Helper()
	mail, err := EncodeRMW(m, e)
	if err != nil {
		t.Fatal(err)
	}
	requireSubmittable(t, mail)
	return mail
}

// requireSubmittable checks what a server with 8BITMIME asks for (RFC 6152).
func requireSubmittable(t testing.TB, mail []byte) {
	t.Helper()
	text := string(mail)
	if !strings.HasSuffix(text, "\r\n") {
		t.Fatalf("the mail does not end in CRLF: %q", text[max(0, len(text)-80):])
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\x00\r\n") {
			t.Fatalf("line of %d bytes: %.200q", len(line), line)
		}
	}
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	if Is8Bit([]byte(head)) {
		t.Fatalf("the header section is not ASCII: %q", head)
	}
	for _, name := range []string{"MIME-Version:", "Content-"} {
		if strings.Contains("\r\n"+head, "\r\n"+name) {
			t.Fatalf("the mail has a field %s of MIME:\n%s", name, head)
		}
	}
}

// shortened is what m is after a way through a mail for rmw_email.
func shortened(m *transport.Message, e Envelope) *transport.Message {
	r := received(m, e)
	info := &r.Info
	if info.PublisherGID = info.PublisherGID.Short(); !r.InReplyTo.IsZero() {
		info.PublisherGID, info.Sequence = transport.GID{}, 0
	}
	if info.ClientGID != info.ClientGID.Short() {
		info.ClientGID, info.RequestSequence = info.ClientGID.Short(), info.RequestSequence-1
	}
	return r
}

func TestRMWSubscriptionReadsTopicMessage(t *testing.T) {
	m := topic("position: {x: 1.5}\nname: Köln\n")
	mail := mustEncodeRMW(t, m, Envelope{From: "Robot <robot@example.org>", To: []string{"Köln <a@example.org>", "b@example.org"}, Cc: []string{"c@example.org"}})
	for _, mail := range []string{string(mail), stored(mail)} {
		got := readRMW(t, mail)
		for name, want := range map[string]string{
			"Publisher-GID": "1120930709", "Source-Timestamp": "1795261467052926400", "Subject": "/chatter",
			"In-Reply-To": "", "References": "", "To": "a@example.org, b@example.org", "Cc": "c@example.org", "Bcc": "",
			"From": "robot@example.org", "Message-ID": "<" + m.ID.String() + ">",
		} {
			if got.fields[name] != want {
				t.Errorf("%s is %q, want %q", name, got.fields[name], want)
			}
		}
		for _, name := range []string{"Client-GID", "Request-Sequence-Number"} {
			if v, ok := got.fields[name]; ok {
				t.Errorf("a topic message has %s: %q", name, v)
			}
		}
		if want := "position: {x: 1.5}\r\nname: Köln\r\n"; got.body != want {
			t.Errorf("the body is %q, want %q", got.body, want)
		}
	}
	if !Is8Bit(mail) || Is8Bit(mustEncodeRMW(t, topic("Koeln"), robot)) {
		t.Error("Is8Bit is wrong")
	}
}

// rmwRespond answers a request as a server of rmw_email does, and as mail servers store it.
func rmwRespond(request rmwMail, body string) []byte {
	f := request.fields
	return []byte(stored([]byte("Client-GID: " + f["Client-GID"] + "\r\nRequest-Sequence-Number: " + f["Request-Sequence-Number"] +
		"\r\nSource-Timestamp: 1795261467199873880\r\nIn-Reply-To: " + f["Message-ID"] + "\r\nReferences: " + f["Message-ID"] +
		"\r\nTo: " + f["From"] + "\r\nCc: \r\nSubject: " + f["Subject"] +
		"\r\nMessage-Id: <20261121114427.4E50898E00C@mail.example.org>\r\nDate: Sat, 21 Nov 2026 11:44:27 +0000 (UTC)\r\n" +
		"From: peer@example.org\r\n\r\n" + body + "\r\n")))
}

func TestRMWServerAnswersOurClient(t *testing.T) {
	for n := uint64(1); n <= 3; n++ {
		m := request()
		m.Info.RequestSequence, m.Info.Sequence, m.ID = n, n, transport.NewID(client, n, "robot.example.org")
		asked := readRMW(t, stored(mustEncodeRMW(t, m, robot)))
		if asked.uint32(t, "Client-GID") != 1643785224 || asked.uint32(t, "Publisher-GID") != 1643785224 ||
			asked.int64(t, "Request-Sequence-Number") != int64(n-1) || asked.fields["In-Reply-To"] != "" {
			t.Fatalf("rmw_email reads %+v", asked)
		}
		got := mustDecode(t, rmwRespond(asked, "sum: 5"))
		gid, number, ok := got.Caller()
		if got.Kind != transport.Response || gid != client || number != n || !ok || got.InReplyTo != m.ID || string(got.Body) != "sum: 5" {
			t.Errorf("the answer to request %d is %+v for %v, %d, %v", n, got, gid, number, ok)
		}
	}
	// It keeps requests by their number alone, and so may mix up two clients.
	mixed := readRMW(t, string(mustEncodeRMW(t, request(), robot)))
	mixed.fields["Client-GID"] = "17"
	_, err := Decode(rmwRespond(mixed, "sum: 5"))
	requireError(t, err, ErrMalformed)
}

// answerTo answers a request as package service does.
func answerTo(request *transport.Message, body string) *transport.Message {
	return &transport.Message{
		Kind: transport.Response, Name: request.Name, Body: []byte(body), ID: transport.NewID(server, 3, "base.example.org"),
		InReplyTo: request.ID, To: []string{request.ReplyTo},
		Info: transport.Info{
			SourceTime: source, PublisherGID: server, Sequence: 3,
			ClientGID: request.Info.ClientGID, RequestSequence: request.Info.RequestSequence,
		},
	}
}

func TestRMWClientIsAnswered(t *testing.T) {
	for number := range 3 {
		request := stored([]byte("Client-GID: 3865011697\r\nPublisher-GID: 3865011698\r\nRequest-Sequence-Number: " + strconv.Itoa(number) +
			"\r\nSource-Timestamp: 1795261467052926400\r\nIn-Reply-To: \r\nReferences: \r\nTo: peer@example.org\r\nCc: \r\nBcc: \r\n" +
			"Subject: /my_service\r\nMessage-ID: <20261121114427.2690198E00F@mail.example.org>\r\nFrom: robot@example.org\r\n\r\na: 2\r\n"))
		m := mustDecode(t, []byte(request))
		failure := answerTo(m, "")
		failure.Kind, failure.Body, failure.Error = transport.ErrorResponse, nil, &transport.RemoteError{Code: 7, Text: "no such\rthing"}
		for want, answer := range map[string]*transport.Message{"sum: 5\r\n": answerTo(m, "sum: 5"), "no such\r\nthing\r\n": failure} {
			got := readRMW(t, stored(mustEncodeRMW(t, answer, Envelope{From: "peer@example.org", To: []string{m.ReplyTo}})))
			if got.uint32(t, "Client-GID") != 3865011697 || got.int64(t, "Request-Sequence-Number") != int64(number) ||
				got.fields["In-Reply-To"] != "<20261121114427.2690198E00F@mail.example.org>" || got.fields["References"] != got.fields["In-Reply-To"] ||
				got.fields["Subject"] != "/my_service" || got.fields["To"] != "robot@example.org" || got.body != want {
				t.Errorf("rmw_email reads %+v", got)
			}
			if v, ok := got.fields["Publisher-GID"]; ok {
				t.Errorf("an answer has Publisher-GID: %q", v)
			}
		}
	}
}

// Two nodes that both write for rmw_email lose nothing but bits of identifiers.
func TestMailForRMWComesBack(t *testing.T) {
	long := errorResponse()
	long.Error.Text = strings.Repeat("a long text ", 80)
	for name, m := range map[string]*transport.Message{
		"topic": withHeader(topic("a\r\n\r\nb")), "request": withHeader(request()), "response": response(), "error": errorResponse(), "long error": long,
		"anonymous": {Kind: transport.TopicMessage, Name: "/t", ID: transport.NewID(publisher, 0, "h"), Info: transport.Info{SourceTime: source}},
		"answer without client": {
			Kind: transport.Response, Name: "/t", ID: transport.NewID(server, 1, "h"), InReplyTo: transport.NewID(client, 5, "h"),
			Info: transport.Info{SourceTime: source},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := Envelope{From: "a@example.org", ReplyTo: "b@example.org", To: robot.To}
			want := shortened(m, e)
			switch name {
			case "anonymous":
				want.Info.PublisherGID = publisher.Short()
			case "answer without client":
				want.Info.ClientGID, want.Info.RequestSequence = client.Short(), 4
			}
			got := mustDecode(t, []byte(stored(mustEncodeRMW(t, m, e))))
			requireEqual(t, got, want)
			if m.InReplyTo.IsZero() {
				return
			}
			if gid, number, ok := got.Caller(); gid != client || number != m.Info.RequestSequence && number != 5 || !ok {
				t.Errorf("the caller is %v, %d, %v", gid, number, ok)
			}
		})
	}
}

// A server that has to hand an 8-bit mail to one without 8BITMIME adds fields of MIME.
func TestMailForRMWMayBeReencoded(t *testing.T) {
	for _, contentType := range []string{"", "text/plain", "application/yaml"} {
		m := topic("name: Köln\n\nname: \xff = x\n\n")
		m.ContentType = contentType
		for seed := range uint64(40) {
			mangled := newMangler(mustEncodeRMW(t, m, robot), seed)
			mangled.fields = append(mangled.fields, "MIME-Version: 1.0", "Content-Type: text/plain; charset=unknown-8bit", "Content-Transfer-Encoding: 8bit")
			requireEqual(t, mustDecode(t, mangled.mangle()), shortened(m, robot))
		}
	}
}

func TestEncodeRMWRefuses(t *testing.T) {
	type M = transport.Message
	body := func(s string) func(m *M) { return func(m *M) { m.Body = []byte(s) } }
	for name, c := range map[string]struct {
		make   func() *M
		change func(m *M)
		want   error
	}{
		"NUL":                   {request, body("a\x00b"), transport.ErrNotSupported},
		"bare CR":               {request, body("a\rb"), transport.ErrNotSupported},
		"CR at the end":         {request, body("a\r"), transport.ErrNotSupported},
		"LF and CRLF":           {request, body("a\nb\r\n"), transport.ErrNotSupported},
		"ten line endings":      {request, body("a" + strings.Repeat("\n", 10)), transport.ErrNotSupported},
		"a long line":           {request, body(strings.Repeat("x", 999)), transport.ErrNotSupported},
		"a large body":          {request, body(strings.Repeat("line\n", 5000)), transport.ErrTooLarge},
		"a file":                {request, func(m *M) { m.Filename = "a" }, transport.ErrNotSupported},
		"request number 0":      {request, func(m *M) { m.Info.RequestSequence = 0 }, transport.ErrNotSupported},
		"request number 2^63+1": {request, func(m *M) { m.Info.RequestSequence = 1<<63 + 1 }, transport.ErrNotSupported},
		"no publisher":          {request, func(m *M) { m.Info.PublisherGID, m.ID = transport.GID{}, transport.ParseID("a@b") }, transport.ErrNotSupported},
		"answer to a person": {response, func(m *M) {
			m.Info.ClientGID, m.Info.RequestSequence, m.InReplyTo = transport.GID{}, 0, transport.ParseID("a@b")
		}, transport.ErrNotSupported},
		"fields in the body":       {request, func(m *M) { *m = *topic("x\ny Client-GID: 5") }, transport.ErrNotSupported},
		"fields in a header":       {request, func(m *M) { *m = *topic(""); m.Header.Add("X1", "Request-Sequence-Number: 5") }, transport.ErrNotSupported},
		"fields in a header field": {response, func(m *M) { m.Header.Add("X.Publisher-GID", "5") }, transport.ErrNotSupported},
		"what Encode refuses":      {request, func(m *M) { m.Name = "a b" }, transport.ErrInvalidName},
		"huge header":              {request, func(m *M) { m.Header = hugeHeader() }, transport.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			m := c.make()
			c.change(m)
			raw, err := EncodeRMW(m, robot)
			if err == nil {
				t.Fatalf("encoded as\n%s", raw)
			}
			requireError(t, err, c.want)
		})
	}
	for name, e := range map[string]Envelope{
		"no sender": {To: robot.To}, "bad sender": {From: "x"}, "bad recipient": {From: "a@b", To: []string{"x"}}, "bad reply address": {From: "a@b", ReplyTo: "x"},
		"many recipients": {From: "a@b", To: slices.Repeat([]string{"recipient@example.org"}, 50)},
	} {
		if raw, err := EncodeRMW(topic("x"), e); err == nil {
			t.Errorf("%s: encoded as\n%s", name, raw)
		}
	}
	largest := topic(strings.Repeat("x\n", MaxRMWBody/3))
	if got := readRMW(t, string(mustEncodeRMW(t, largest, robot))); len(got.body) != MaxRMWBody {
		t.Errorf("the largest body has %d bytes", len(got.body))
	}
}

// What rmwField finds must be what the regular expression finds.
func TestRMWFieldIsTheRegularExpression(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		line := make([]byte, rng.IntN(12))
		for i := range line {
			line[i] = "ab-: :1X\xc3"[rng.IntN(9)]
		}
		want := ""
		if match := rmwHeader.FindSubmatch(append(slices.Clone(line), '\r')); match != nil {
			want = string(match[1])
		}
		if got := string(rmwField(line)); got != want {
			t.Fatalf("in %q rmwField finds %q, the regular expression %q", line, got, want)
		}
	}
}

// FuzzRMW checks that what can be written for rmw_email is read by it, comes back from
// Decode, and can't smuggle fields in.
func FuzzRMW(f *testing.F) {
	for body := range payloads() {
		if len(body) < 4096 {
			f.Add(uint8(len(body)), []byte(body), "text/plain", "X-A", "väl  ue", uint64(len(body)))
		}
	}
	f.Add(uint8(0), []byte("Grüße"), "", "X1", "Client-GID: 5", uint64(1))
	f.Add(uint8(2), []byte("a\nPublisher-GID: 5\n"), "", "X.From", "b", uint64(0))
	f.Fuzz(func(t *testing.T, kind uint8, body []byte, contentType, name, value string, number uint64) {
		makers := []func() *transport.Message{func() *transport.Message { return topic("") }, request, response, errorResponse}
		m := makers[int(kind)%len(makers)]()
		if m.Kind == transport.ErrorResponse {
			m.Error.Text = string(body)
		} else {
			m.Body = body
		}
		if m.ContentType = contentType; contentType != "" && transport.ValidateContentType(contentType) != nil {
			m.ContentType = ""
		}
		if m.Header = (transport.Header{{Name: name, Value: value}, {Name: "Y", Value: "z"}}); m.Header.Validate() != nil {
			m.Header = nil
		}
		if m.Kind == transport.Request {
			m.Info.RequestSequence, m.Info.Sequence, m.ID = number, number, transport.NewID(client, number, "host")
		}
		m.Deadline = time.Unix(0, int64(number)).UTC()
		mail, err := EncodeRMW(m, robot)
		if err != nil {
			requireLoggable(t, err)
			return
		}
		requireSubmittable(t, mail)
		got, want := mustDecode(t, []byte(stored(mail))), shortened(m, robot)
		if _, err := rmwLines(body); err != nil && m.Kind == transport.ErrorResponse {
			want.Error = &transport.RemoteError{Code: m.Error.Code, Text: got.Error.Text}
		}
		requireEqual(t, got, want)
		read := readRMW(t, stored(mail))
		for field, has := range map[string]bool{
			"Publisher-GID": m.InReplyTo.IsZero(), "Client-GID": m.Kind != transport.TopicMessage, "Request-Sequence-Number": m.Kind != transport.TopicMessage,
		} {
			if _, ok := read.fields[field]; ok != has {
				t.Fatalf("rmw_email finds %s: %v, want %v, in\n%s", field, ok, has, mail)
			}
		}
		if read.fields["Subject"] != m.Name || read.fields["From"] != "robot@example.org" || read.fields["In-Reply-To"] != read.fields["References"] {
			t.Fatalf("rmw_email reads %+v", read)
		}
	})
}
