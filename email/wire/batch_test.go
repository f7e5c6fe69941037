package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

var batchID = transport.NewID(server, 3, "robot.example.org")

// mustBatch returns a batch of these messages as a mail.
func mustBatch(t testing.TB, e Envelope, messages ...*transport.Message) []byte {
	t.Helper()
	b, err := NewBatch(batchID, e, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := b.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	raw := b.Mail()
	requireSafe(t, raw)
	if b.Len() != len(messages) || len(raw) > b.Size() || len(raw) < b.Size()-800 {
		t.Fatalf("a batch of %d messages says that it has %d; its mail has %d bytes, it says %d", len(messages), b.Len(), len(raw), b.Size())
	}
	return raw
}

// outcome is what DecodeBatch yields at one place.
type outcome struct {
	m   *transport.Message
	err error
}

func readBatch(t testing.TB, raw []byte) (found []outcome) {
	t.Helper()
	messages, err := DecodeBatch(raw)
	if err != nil {
		t.Fatalf("%v\n%.4000s", err, raw)
	}
	for m, err := range messages {
		if (m == nil) == (err == nil) {
			t.Fatalf("message %v and error %v", m, err)
		}
		if err != nil {
			requireError(t, err, ErrMalformed)
		}
		found = append(found, outcome{m, err})
	}
	return found
}

// requireBatch checks that raw gives just these messages.
func requireBatch(t testing.TB, raw []byte, e Envelope, messages ...*transport.Message) {
	t.Helper()
	for _, decode := range []func([]byte) (*transport.Message, error){Decode, DecodeHeader} {
		if _, err := decode(raw); err != ErrBatch {
			t.Fatalf("Decode gives %v for a batch", err)
		}
	}
	found := readBatch(t, raw)
	if len(found) != len(messages) {
		t.Fatalf("%d messages, want %d\n%.4000s", len(found), len(messages), raw)
	}
	for i, o := range found {
		if o.err != nil {
			t.Fatal(o.err)
		}
		requireEqual(t, o.m, received(messages[i], e))
	}
}

// kinds are messages of all kinds with nothing special about them.
func kinds() []*transport.Message {
	return []*transport.Message{
		topic("hello\nworld\n"), topic("Grüße aus Köln\n"), topic("\x00\x01\x02\xff"), topic(""), withHeader(topic("x")),
		file("Grüße.csv", "Köln;1\r\nBonn;2\r\n"), request(), response(), errorResponse(),
	}
}

func TestBatchOfAllKindsAndPayloads(t *testing.T) {
	messages := kinds()
	for payload := range payloads() {
		for _, contentType := range []string{"", "application/json", "text/plain; charset=utf-8", "multipart/mixed; boundary=x"} {
			m := topic(payload)
			m.ContentType = contentType
			messages = append(messages, m)
		}
		m := errorResponse()
		m.Error.Text = payload
		messages = append(messages, m)
	}
	e := Envelope{From: "a@example.org", ReplyTo: "b@example.org", To: []string{"c@example.org", "d@example.org"}, Cc: []string{"e@example.org"}}
	requireBatch(t, mustBatch(t, e, messages...), e, messages...)
	for _, m := range messages {
		if len(m.Body) < 4096 {
			requireBatch(t, mustBatch(t, robot, m), robot, m)
		}
	}
}

// What looks like the end of a part is none where a message holds it.
func TestBatchHoldsItsOwnBoundary(t *testing.T) {
	inner := string(mustBatch(t, robot, topic("a"), topic("b")))
	messages := []*transport.Message{topic(inner), topic(strings.ReplaceAll(inner, "\r\n", "\n"))}
	for _, payload := range []string{
		delimiter, delimiter + "\n", delimiter + "--", "a\n" + delimiter + "\nb", "a\r\n" + delimiter + "--\r\nb", "\n" + delimiter + " \n", boundary, "--", "--\n--",
		delimiter + "\n\nSubject: /evil\nPublisher-GID: 5\n\nx",
	} {
		messages = append(messages, topic(payload))
		m := errorResponse()
		m.Error.Text = payload
		messages = append(messages, m)
	}
	m := topic("x")
	m.Header = transport.Header{{Name: "--", Value: delimiter}, {Name: "--=", Value: "postbus"}, {Name: "X", Value: delimiter + "--"}}
	messages = append(messages, m)
	m = topic("x")
	m.ContentType, m.Filename = `a/b; c="`+delimiter+`"`, delimiter
	messages = append(messages, m)
	raw := mustBatch(t, robot, messages...)
	if n := bytes.Count(raw, []byte("\r\n"+delimiter)); n != len(messages)+1 {
		t.Errorf("%d lines begin like a delimiter, want %d", n, len(messages)+1)
	}
	requireBatch(t, raw, robot, messages...)
}

func TestBatchKeepsIDs(t *testing.T) {
	usual := topic("x")
	elsewhere := topic("x")
	elsewhere.ID = transport.NewID(publisher, 7, "other.example.org")
	foreign := topic("x")
	foreign.ID = transport.ParseID("abc@robot.example.org")
	nobody := topic("x")
	nobody.Info.PublisherGID, nobody.Info.Sequence = transport.GID{}, 0
	another := request()
	another.ID = transport.NewID(client, 13, "robot.example.org")
	messages := []*transport.Message{usual, elsewhere, foreign, nobody, another, request()}
	raw := mustBatch(t, robot, messages...)
	requireBatch(t, raw, robot, messages...)
	if n := bytes.Count(raw, []byte("\r\nMessage-ID: ")); n != 1+4 {
		t.Errorf("%d IDs are written, want those of the mail and of four messages\n%s", n, raw)
	}
}

// Any program that knows MIME finds the messages.
func TestBatchIsStandardMail(t *testing.T) {
	messages := kinds()
	raw := mustBatch(t, robot, messages...)
	outer, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(outer.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/digest" {
		t.Fatal(kind, err)
	}
	reader := multipart.NewReader(outer.Body, params["boundary"])
	for i, m := range messages {
		part, err := reader.NextRawPart()
		if err != nil {
			t.Fatal(i, err)
		}
		if len(part.Header) != 0 {
			t.Errorf("part %d has the header %v", i, part.Header)
		}
		// As a mail of its own it lacks only what is the same for all.
		content, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(i, err)
		}
		got := mustDecode(t, append([]byte("From: robot@example.org\r\nTo: base@example.org\r\n"), content...))
		if got.ID.IsZero() {
			got.ID = m.ID
		}
		requireEqual(t, got, received(m, robot))
	}
	if _, err := reader.NextRawPart(); err != io.EOF {
		t.Errorf("after the last part comes %v", err)
	}
}

func TestBatchSubjects(t *testing.T) {
	named := func(names ...string) (messages []*transport.Message) {
		for _, name := range names {
			m := topic("x")
			m.Name = name
			messages = append(messages, m)
		}
		return messages
	}
	long := strings.Repeat("n", transport.MaxName)
	for _, c := range []struct {
		messages []*transport.Message
		subject  string
		thread   bool
	}{
		{named("/a", "/a", "/a"), "3 messages: /a", true},
		{named("/a", "/b", "/a"), "3 messages: /a, /b", false},
		{named(long, "/a"), "2 messages: " + long + ", ...", false},
		{named("/first_name", "/second_name", "/third_name", "/fourth_name", "/fifth_name", "/s", "/first_name"),
			"7 messages: /first_name, /second_name, /third_name, /fourth_name, ...", false},
		{[]*transport.Message{request(), request()}, "2 messages: /add_two_ints", false},
		{[]*transport.Message{topic("x"), request()}, "2 messages: /chatter, /add_two_ints", false},
	} {
		raw := string(mustBatch(t, robot, c.messages...))
		if !strings.Contains(raw, "\r\nSubject: "+c.subject+"\r\n") {
			t.Errorf("the subject is not %q:\n%.600s", c.subject, raw)
		}
		if strings.Contains(raw, "\r\nReferences: <topic.") != c.thread {
			t.Errorf("%s: part of the topic's thread: want %t", c.subject, c.thread)
		}
	}
}

func TestBatchIsBounded(t *testing.T) {
	const limit = 4000
	b, err := NewBatch(batchID, robot, limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(topic(strings.Repeat("x", 2*limit))); err != nil { // the first may be as long as it likes
		t.Fatal(err)
	}
	for err == nil {
		err = b.Add(topic("hello"))
	}
	requireError(t, err, ErrBatchFull)

	b, err = NewBatch(batchID, robot, limit)
	var messages []*transport.Message
	for err == nil {
		if err = b.Add(topic("hello")); err == nil {
			messages = append(messages, topic("hello"))
		}
	}
	requireError(t, err, ErrBatchFull)
	if raw := b.Mail(); len(raw) > limit || len(raw) < limit-1000 || b.Len() != len(messages) {
		t.Errorf("the mail of %d of %d messages has %d bytes", b.Len(), len(messages), len(raw))
	}
	requireBatch(t, b.Mail(), robot, messages...)

	b, err = NewBatch(batchID, robot, 0)
	for i := 0; err == nil; i++ {
		if err = b.Add(topic("x")); err == nil && i == MaxBatch {
			t.Fatal("more than MaxBatch messages")
		}
	}
	requireError(t, err, ErrBatchFull)
	if found := readBatch(t, b.Mail()); len(found) != MaxBatch || found[MaxBatch-1].err != nil {
		t.Errorf("%d messages come back", len(found))
	}
	more := bytes.Replace(b.Mail(), []byte(delimiter), []byte(delimiter+"\r\n\r\nSubject: /x\r\nPublisher-GID: 5\r\n\r\nx\r\n"+delimiter), 1)
	if found := readBatch(t, more); len(found) != MaxBatch+1 || found[MaxBatch-1].err != nil || found[MaxBatch].err == nil {
		t.Errorf("of more than MaxBatch %d come back", len(found))
	}
}

// What can't be added leaves the batch as it was.
func TestBatchRefuses(t *testing.T) {
	b, err := NewBatch(batchID, robot, 0)
	if err != nil {
		t.Fatal(err)
	}
	var taken []*transport.Message
	for _, c := range []struct {
		change func(m *transport.Message)
		want   error
	}{
		{func(m *transport.Message) { m.Name = "a\r\nBcc: x@y" }, transport.ErrInvalidName},
		{func(m *transport.Message) { m.Header = hugeHeader() }, transport.ErrTooLarge},
		{func(m *transport.Message) { m.Header.Add("Subject", "x") }, transport.ErrInvalidHeader},
		{func(m *transport.Message) { m.ID = transport.ID{} }, nil},
		{func(m *transport.Message) { m.ID = transport.ParseID("a>b@c") }, nil},
		{func(m *transport.Message) { m.Kind = transport.Undeliverable }, nil},
		{func(m *transport.Message) { m.Info.SourceTime = time.Time{} }, nil},
		{func(m *transport.Message) { m.Filename = "../x" }, transport.ErrInvalidFilename},
	} {
		good, bad := topic("good"), topic("bad")
		c.change(bad)
		err := b.Add(bad)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || errors.Is(err, ErrBatchFull) {
			t.Errorf("error %v, want one that wraps %v", err, c.want)
		}
		if err := b.Add(good); err != nil {
			t.Fatal(err)
		}
		taken = append(taken, good)
	}
	requireBatch(t, b.Mail(), robot, taken...)

	for name, make := range map[string]func() (*Batch, error){
		"foreign ID": func() (*Batch, error) { return NewBatch(transport.ParseID("a@b"), robot, 0) },
		"no ID":      func() (*Batch, error) { return NewBatch(transport.ID{}, robot, 0) },
		"injection":  func() (*Batch, error) { return NewBatch(transport.NewID(server, 1, "h\r\nBcc: x@y"), robot, 0) },
		"long host": func() (*Batch, error) {
			return NewBatch(transport.NewID(server, 1, strings.Repeat("h", 850)), robot, 0)
		},
		"no sender":    func() (*Batch, error) { return NewBatch(batchID, Envelope{}, 0) },
		"bad address":  func() (*Batch, error) { return NewBatch(batchID, Envelope{From: "a@b\r\nBcc: x@y"}, 0) },
		"many readers": func() (*Batch, error) { return NewBatch(batchID, Envelope{From: "a@b", To: many(3000)}, 0) },
	} {
		if b, err := make(); err == nil {
			t.Errorf("%s: a batch %v", name, b)
		} else {
			requireLoggable(t, err)
		}
	}
}

func many(n int) (addresses []string) {
	for i := range n {
		addresses = append(addresses, fmt.Sprintf("somebody-%d@example.org", i))
	}
	return addresses
}

// docs/wire-format.md promises this size for a text of 128 bytes.
func TestSmallMessagesInBatches(t *testing.T) {
	const most = 210
	m := topic(strings.Repeat("0123456789abcde\n", 8))
	m.Name, m.Info.Sequence = "/camera/front/status", 999_999
	m.ID = transport.NewID(publisher, 999_999, "robot.example.org")
	size := len(mustBatch(t, robot, m, m)) - len(mustBatch(t, robot, m))
	if size -= len(m.Body); size > most || size < most-20 {
		t.Errorf("a message of 128 bytes takes %d more, want %d at most and not much less", size, most)
	}
}

func TestDecodeBatchSharesNoMemory(t *testing.T) {
	raw := mustBatch(t, robot, kinds()...)
	found := readBatch(t, raw)
	clear(raw)
	for i, m := range kinds() {
		requireEqual(t, found[i].m, received(m, robot))
	}
}

func TestDecodeBatchCanBeStopped(t *testing.T) {
	messages, err := DecodeBatch(mustBatch(t, robot, kinds()...))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range messages {
		if n++; n == 3 {
			break
		}
	}
	for m := range messages { // and begun again
		requireEqual(t, m, received(kinds()[0], robot))
		break
	}
}
