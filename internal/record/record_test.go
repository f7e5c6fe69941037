package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postbus/postbus/internal/record"
	"github.com/postbus/postbus/transport"
)

// random makes messages with each field empty, ordinary or odd.
type random struct{ *rand.Rand }

func (r random) text() string {
	return []string{"", "/t", "grüße", "\x00\xff\r\n", strings.Repeat("long ", r.IntN(500)), "<a@b>", " "}[r.IntN(7)]
}

func (r random) number() uint64 {
	return []uint64{0, 1, 127, 128, uint64(r.IntN(1 << 30)), math.MaxUint64}[r.IntN(6)]
}

func (r random) gid() (gid transport.GID) {
	switch r.IntN(3) {
	case 0:
		gid = transport.NewGID()
	case 1:
		gid[15] = 7
	}
	return gid
}

func (r random) id() transport.ID {
	if r.IntN(2) == 0 {
		return transport.NewID(transport.NewGID(), r.number(), r.text())
	}
	return transport.ParseID(r.text() + []string{"", "@host", "<<x>>"}[r.IntN(3)])
}

func (r random) time() time.Time {
	switch r.IntN(4) {
	case 0:
		return time.Time{}
	case 1:
		return time.Unix(0, int64(r.Uint64()))
	case 2:
		return time.Date(r.IntN(20000)-5000, 2, 3, 4, 5, 6, r.IntN(1e9), time.FixedZone("x", 3600))
	}
	return time.Now()
}

func (r random) message() *transport.Message {
	m := &transport.Message{
		Kind:        transport.Kind(r.IntN(7)),
		Name:        r.text(),
		Body:        []byte(r.text()),
		ContentType: r.text(),
		Filename:    r.text(),
		Info: transport.Info{
			SourceTime: r.time(), ReceivedTime: r.time(),
			PublisherGID: r.gid(), Sequence: r.number(), ClientGID: r.gid(), RequestSequence: r.number(),
		},
		ID: r.id(), InReplyTo: r.id(),
		From: r.text(), ReplyTo: r.text(),
		Deadline: r.time(),
		Person:   r.IntN(2) == 0,
	}
	for range r.IntN(4) {
		m.Header.Add(r.text(), r.text())
	}
	for range r.IntN(4) {
		m.To = append(m.To, r.text())
	}
	if r.IntN(2) == 0 {
		m.Error = &transport.RemoteError{Code: int(r.number()), Text: r.text()}
	}
	return m
}

func diff(a, b *transport.Message) string {
	if !bytes.Equal(a.Body, b.Body) {
		return fmt.Sprintf("-%q\n+%q", a.Body, b.Body)
	}
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(transport.Message{}, "Body"),
		cmp.Comparer(func(a, b transport.ID) bool { return a == b }))
}

func TestRoundTrip(t *testing.T) {
	r := random{rand.New(rand.NewPCG(1, 2))}
	for range 1000 {
		m := r.message()
		prefix := []byte("before")
		data := record.Append(prefix, m)
		if !strings.HasPrefix(string(data), "before") {
			t.Fatal("Append has changed what was there before")
		}
		data = data[len(prefix):]
		got, err := record.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		clear(data) // nothing may refer to it
		if d := diff(m, got); d != "" {
			t.Fatalf("a message came back changed:\n%s", d)
		}
	}
}

// A field that is added to the message has to be added to the record: this message has
// none that is zero.
func TestAllFields(t *testing.T) {
	m := &transport.Message{
		Kind: transport.ErrorResponse, Name: "/n", Body: []byte("b"), ContentType: "text/plain", Filename: "f",
		Header: transport.Header{{Name: "a", Value: "b"}},
		Info: transport.Info{SourceTime: time.Unix(1, 2), ReceivedTime: time.Unix(3, 4), PublisherGID: transport.NewGID(),
			Sequence: 5, ClientGID: transport.NewGID(), RequestSequence: 6},
		ID: transport.NewID(transport.NewGID(), 7, "h"), InReplyTo: transport.ParseID("x@y"), From: "from", ReplyTo: "reply",
		To: []string{"to"}, Deadline: time.Unix(8, 9), Error: &transport.RemoteError{Code: -1, Text: "e"}, Person: true,
	}
	if field := zeroField(m); field != "" {
		t.Fatalf("the test does not set %s", field)
	}
	got, err := record.Decode(record.Append(nil, m))
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(m, got); d != "" {
		t.Error(d)
	}
}

// A record that has been changed anywhere, or cut short, is noticed.
func TestDamage(t *testing.T) {
	r := random{rand.New(rand.NewPCG(3, 4))}
	for range 50 {
		data := record.Append(nil, r.message())
		for range 200 {
			bad := append([]byte(nil), data...)
			if r.IntN(2) == 0 {
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			} else {
				bad = bad[:r.IntN(len(bad))]
			}
			if _, err := record.Decode(bad); !errors.Is(err, record.ErrMalformed) {
				t.Fatalf("a damaged record: %v", err)
			}
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	m := &transport.Message{
		Kind: transport.TopicMessage, Name: "/chatter", Body: make([]byte, 500), ContentType: "text/plain",
		Info: transport.Info{SourceTime: time.Now(), PublisherGID: transport.NewGID(), Sequence: 5},
		ID:   transport.NewID(transport.NewGID(), 7, "example.org"), To: []string{"robot@example.org"},
	}
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var data []byte
		for b.Loop() {
			data = record.Append(data[:0], m)
		}
		b.ReportMetric(float64(len(data)), "bytes")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		data := record.Append(nil, m)
		for b.Loop() {
			if _, err := record.Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
