package nats

import (
	"bytes"
	"fmt"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/transport"
)

// asServers returns a header as it comes out at the other end.
func asServers(t *testing.T, h nats.Header) nats.Header {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("NATS/1.0\r\n")
	for name, values := range h {
		if strings.ContainsAny(name, "\"()/,:;<=>?@[\\]{}\r\n ") || name == "" {
			t.Fatalf("NATS does not allow the name %q", name)
		}
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, strings.NewReplacer("\r", " ", "\n", " ").Replace(textproto.TrimString(v)))
		}
	}
	b.WriteString("\r\n")
	back, err := nats.DecodeHeadersMsg(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return back
}

const testAddress = "_INBOX.test"

// there returns the message at the other end, and whether it is known for one of ours.
func there(t *testing.T, m *transport.Message) (*transport.Message, bool) {
	t.Helper()
	e := newEnvelope()
	if err := e.write(m, testAddress); err != nil {
		t.Fatalf("write %+v: %v", m, err)
	}
	return read(asServers(t, e.msg.Header), e.msg.Data)
}

var ignored = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b transport.ID) bool { return a == b }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && a.IsZero() == b.IsZero() }),
	cmpopts.IgnoreFields(transport.Message{}, "Name", "From"),
}

// FuzzWrite checks that a message comes out as it went in.
func FuzzWrite(f *testing.F) {
	f.Add(uint8(0), int64(1), uint64(1), "id@host", "", "Trace", "1", "application/json", "a.txt", []byte("x"))
	f.Add(uint8(1), int64(-1), uint64(1<<63), "1.0123456789abcdef0123456789abcdef@_INBOX.test", "", "a/b%2F", "", "", "Grüße \"1\".txt", []byte{})
	f.Add(uint8(2), int64(0), uint64(0), "x", "y@z", "trace", "ü", "text/plain; charset=utf-8", "", []byte(nil))
	f.Add(uint8(3), int64(1<<62), uint64(2), "x", "y@z", "Status", "503", "", "", []byte("it failed\r\nagain"))
	f.Fuzz(func(t *testing.T, kind uint8, n int64, count uint64, id, replyTo, field, value, contentType, filename string, body []byte) {
		gid := transport.GID{1, 2, 15: byte(count)}
		m := &transport.Message{
			Kind: transport.Kind(kind%4) + transport.TopicMessage, Name: "t", Body: body, ContentType: contentType, Filename: filename,
			ID: transport.ParseID(id), Deadline: time.Unix(0, n/2), Info: transport.Info{SourceTime: time.Unix(0, n), PublisherGID: gid, Sequence: count},
		}
		switch m.Kind {
		case transport.Request:
			m.Info.ClientGID, m.Info.RequestSequence = gid, count
		case transport.ErrorResponse:
			m.Error, m.Body, m.Filename = &transport.RemoteError{Code: int(int32(n)), Text: string(body)}, nil, ""
			if len(body) > transport.MaxErrorText {
				t.Skip()
			}
			fallthrough
		case transport.Response:
			m.InReplyTo = transport.ParseID(replyTo)
			if m.InReplyTo.IsZero() {
				t.Skip()
			}
		}
		for _, name := range []string{field, strings.ToUpper(field), field + "%"} {
			one := transport.Header{{Name: name, Value: value}}
			if one.Validate() == nil {
				m.Header = append(m.Header, one...)
			}
		}
		if m.ContentType != "" && transport.ValidateContentType(m.ContentType) != nil || m.Filename != "" && transport.ValidateFilename(m.Filename) != nil ||
			validID(m.ID.String()) != nil || !m.InReplyTo.IsZero() && validID(m.InReplyTo.String()) != nil {
			t.Skip()
		}
		got, ours := there(t, m)
		if !ours {
			t.Fatalf("%+v is not known for one of ours", m)
		}
		want := *m
		want.Header = sameCase(want.Header)
		got.Header = sorted(got.Header)
		if d := cmp.Diff(&want, got, ignored); d != "" {
			t.Error(d)
		}
		if m.ID.String() != "" && got.From != testAddress {
			t.Errorf("it comes from %q", got.From)
		}
	})
}

// TestEnvelopesAreUsedAgain writes messages with different fields with one envelope.
func TestEnvelopesAreUsedAgain(t *testing.T) {
	gid := transport.GID{1}
	bare := transport.Message{Kind: transport.TopicMessage, Name: "t", ID: transport.NewID(gid, 1, "x")}
	full := bare
	full.Kind, full.InReplyTo, full.Deadline = transport.Response, transport.NewID(gid, 2, "y"), time.Unix(1, 0)
	full.Header = transport.Header{{Name: "Trace", Value: "1"}}
	full.Info = transport.Info{SourceTime: time.Unix(2, 0), PublisherGID: gid, Sequence: 3, ClientGID: gid, RequestSequence: 2}
	failed := full
	failed.Kind, failed.Error = transport.ErrorResponse, &transport.RemoteError{Code: 7, Text: "it failed"}
	e := newEnvelope()
	for range 2 {
		for _, m := range []transport.Message{full, bare, failed, bare, full, full} {
			if err := e.write(&m, testAddress); err != nil {
				t.Fatal(err)
			}
			got, _ := read(asServers(t, e.msg.Header), e.msg.Data)
			if d := cmp.Diff(&m, got, ignored); d != "" {
				t.Error(d)
			}
			e.reset()
		}
		e.writePlain(&transport.Message{Kind: transport.Response, Body: []byte("x")})
		if len(e.msg.Header) > 0 {
			t.Errorf("the plain answer has the fields %v", e.msg.Header)
		}
		e.reset()
	}
}

// sameCase gives fields of the same name, whatever the case, the name of the first, and sorts them.
func sameCase(h transport.Header) transport.Header {
	var same transport.Header
	for _, f := range h {
		for _, other := range h {
			if strings.EqualFold(other.Name, f.Name) {
				f.Name = other.Name
				break
			}
		}
		same = append(same, f)
	}
	return sorted(same)
}

// FuzzRead checks that what other programs send makes messages that could be sent on.
func FuzzRead(f *testing.F) {
	f.Add("Trace: 1\r\nTrace: 2\r\ntrace: 3\r\n", []byte("x"))
	f.Add("Message-ID: <x@y>\r\nIn-Reply-To: z\r\nClient-GID: 7\r\nRequest-Sequence-Number: 1\r\nSource-Timestamp: 12\r\n", []byte(nil))
	f.Add("Service-Error: 1\r\nContent-Type: text\r\nContent-Disposition: attachment; filename=\"../x\"\r\n", []byte("text"))
	f.Add("Nats-Service-Error: bad\r\nNats-Service-Error-Code: BAD\r\nFrom: a b\r\nSubject: \x00\r\n", []byte("text"))
	f.Add(strings.Repeat("A: 1\r\n", 100)+"B%2F: x\r\nC%: y\r\n: z\r\n", []byte("text"))
	f.Fuzz(func(t *testing.T, fields string, body []byte) {
		h, err := nats.DecodeHeadersMsg([]byte("NATS/1.0\r\n" + fields + "\r\n"))
		if err != nil {
			t.Skip()
		}
		m, _ := read(h, body)
		readMicroError(m, h)
		if err := m.Header.Validate(); err != nil {
			t.Error(err)
		}
		for _, id := range []transport.ID{m.ID, m.InReplyTo} {
			if !id.IsZero() && validID(id.String()) != nil {
				t.Errorf("the ID %q can't be sent", id)
			}
		}
		if m.Name != "" && transport.ValidateName(m.Name) != nil || m.Filename != "" && transport.ValidateFilename(m.Filename) != nil ||
			m.ContentType != "" && transport.ValidateContentType(m.ContentType) != nil || m.From != "" && validID(m.From) != nil {
			t.Errorf("got %+v", m)
		}
		if (m.Kind == transport.ErrorResponse) != (m.Error != nil) || m.Error != nil && (len(m.Body) > 0 || len(m.Error.Text) > transport.MaxErrorText) {
			t.Errorf("got %+v", m)
		}
	})
}

// FuzzReply checks that a reply address comes back as it was, and that no text makes one at which not to answer.
func FuzzReply(f *testing.F) {
	f.Add("_INBOX.a.b", true, uint64(3), int64(1))
	f.Add("$JS.ACK.x", false, uint64(0), int64(0))
	f.Add("a plain 1 2", false, uint64(1), int64(-1))
	f.Fuzz(func(t *testing.T, subject string, plain bool, endpoint uint64, received int64) {
		if to, ok := parseReply(subject); ok && !canAnswer(to.subject) {
			t.Errorf("%q is an address at %q", subject, to.subject)
		}
		if !canAnswer(subject) {
			return
		}
		want := replyAddress{subject: subject, plain: plain, endpoint: endpoint}
		if endpoint != 0 {
			want.received = time.Unix(0, received)
		}
		if got, ok := parseReply(want.String()); !ok || got != want {
			t.Errorf("%q was read as %+v, want %+v", want.String(), got, want)
		}
	})
}
