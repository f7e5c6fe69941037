package transporttest

import (
	"bytes"
	"math/rand/v2"
	"strings"

	"github.com/postbus/postbus/transport"
)

// payload is a body that is hard on some carrier.
type payload struct {
	name string
	body []byte
}

func text(name, body string) payload { return payload{name, []byte(body)} }

// allPayloads returns the bodies that must arrive byte for byte.
func allPayloads() []payload {
	all := []payload{
		text("empty", ""),
		text("text", "hello"),
		text("UTF-8", "Grüße, 世界 👋"),
		text("byte order mark", "\ufeffhello"),
		text("NUL", "\x00"),
		text("NUL in the middle", "a\x00b"),
		text("NUL at the end", "ab\x00"),
		text("control characters", "\x01\x08\x0b\x0c\x1a\x1b\x7f"),
		text("LF", "a\nb\n"),
		text("CRLF", "a\r\nb\r\n"),
		text("LF and CRLF mixed", "a\r\nb\nc\r\n\nd"),
		text("bare CR", "a\rb\r"),
		text("CR CR LF", "a\r\r\nb"),
		text("LF CR", "a\n\rb"),
		text("CRLF only", "\r\n"),
		text("LF only", "\n"),
		text("CR only", "\r"),
		text("empty lines at both ends", "\n\n\ntext\n\n\n"),
		text("CRLFs at both ends", "\r\n\r\ntext\r\n\r\n"),
		text("no newline at the end", "line\nlast"),
		text("blank only", " "),
		text("tab only", "\t"),
		text("blanks at the ends of lines", " a \t\r\n b \r\n "),
		text("one dot", "."),
		text("dots at the start of lines", ".\r\n..\r\n.a\r\n...\r\n"),
		text("end of data", "a\r\n.\r\nb"),
		text("end of data with bare LF", "a\n.\nb\r.\r"),
		text("From at the start of lines", "From a@b Thu Jan 1 00:00:00 1970\nFrom here\n>From there\n"),
		text("header-like first line", "Subject: not mine\r\nTo: nobody\r\n\r\nbody"),
		text("folded-looking first line", " folded\r\n\tlines\r\n"),
		text("boundary-like line", "--boundary\r\n\r\na\r\n--boundary--\r\n"),
		text("quoted-printable-like", "=3D=\r\n=20 =\n=zz"),
		text("base64-like", "aGVsbG8=\r\n"),
		text("signature and quotes", "text\n-- \nsignature\n\nOn Monday, A wrote:\n> quoted\n> > twice\n"),
		text("JSON", `{"a": [1, 2, {"b": null}], "ü": "\u0000\n"}`),
		text("HTML", "<html><body>&amp;</body></html>"),
		text("invalid UTF-8", "a\xff\xfe\xc3(\xed\xa0\x80"),
		text("Latin-1", "Gr\xfc\xdfe"),
		text("76 characters", strings.Repeat("x", 76)),
		text("line of 998 characters", strings.Repeat("x", 998)),
		text("line of 999 characters", strings.Repeat("x", 999)),
		text("line of 5,000 characters", strings.Repeat("x", 5000)),
		text("line of 64K characters", strings.Repeat("x", 1<<16)),
		text("long line of words", strings.Repeat("word ", 2000)),
		text("long line of UTF-8", strings.Repeat("ü", 3000)),
		text("10,000 lines", strings.Repeat("line\n", 10000)),
		text("10,000 dots", strings.Repeat(".\r\n", 10000)),
		text("1 MB of text", strings.Repeat("0123456789abcde\n", 1<<16)),
		{"every byte", everyByte()},
		{"1 MB of random bytes", random(1 << 20)},
	}
	for n := 1; n <= 4; n++ { // all the ways in which base64 may end
		all = append(all, payload{"random bytes", random(1000 + n)})
	}
	return all
}

func everyByte() []byte {
	b := make([]byte, 0, 512)
	for i := range 256 {
		b = append(b, byte(i))
	}
	for i := range 256 {
		b = append(b, byte(255-i))
	}
	return b
}

// random returns n bytes, the same in every run.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// payloads sends every payload as a topic message and as a request's body.
func payloads(e *env) {
	a, b := e.open(), e.open()
	topic, service := b.topic("/t"), b.service("/t")
	// Two senders, so that each numbers its messages without a gap, for which would be waited.
	publisher, client := newSource(), newSource()
	type number struct {
		kind     transport.Kind
		sequence uint64
	}
	sent := make(map[number]payload)
	perBox := 0
	for _, p := range allPayloads() {
		if e.Features.MaxBody > 0 && len(p.body) > e.Features.MaxBody {
			continue
		}
		perBox++
		n := publisher.send(a, &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: p.body})
		sent[number{transport.TopicMessage, n}] = p
		n = client.send(a, &transport.Message{
			Kind: transport.Request, Name: "/t", Body: p.body,
			Info: transport.Info{ClientGID: client.gid, RequestSequence: client.seq.Load() + 1},
		})
		sent[number{transport.Request, n}] = p
	}
	for _, box := range []*inbox{topic, service} {
		for _, m := range box.atLeast(perBox) {
			n := number{m.Kind, m.Info.Sequence}
			p, ok := sent[n]
			if !ok {
				e.Errorf("%v %d arrived and was not sent, or it came twice", m.Kind, m.Info.Sequence)
				continue
			}
			delete(sent, n)
			if !bytes.Equal(m.Body, p.body) {
				e.Errorf("payload %q as %v arrived as %s, sent was %s", p.name, m.Kind, excerpt(m.Body), excerpt(p.body))
			}
		}
	}
	for _, p := range sent {
		e.Errorf("payload %q did not arrive", p.name)
	}
}
