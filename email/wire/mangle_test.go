package wire

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"mime/quotedprintable"
	"slices"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

// mangler does to a mail what servers and mailing lists are known to do, at random.
type mangler struct {
	rng    *rand.Rand
	fields []string // each with its folded lines, without the last line ending
	body   string
}

func newMangler(raw []byte, seed uint64) *mangler {
	m := &mangler{rng: rand.New(rand.NewPCG(seed, 1))}
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	m.body = body
	for line := range strings.SplitSeq(head, "\r\n") {
		if isBlank(line[0]) {
			m.fields[len(m.fields)-1] += "\r\n" + line
		} else {
			m.fields = append(m.fields, line)
		}
	}
	return m
}

// mangle applies each way with a chance of a half, and returns the mail.
func (m *mangler) mangle() []byte {
	for _, way := range []func(){m.reencode, m.recase, m.refold, m.shuffle, m.trace} {
		if m.rng.IntN(2) == 0 {
			way()
		}
	}
	raw := strings.Join(m.fields, "\r\n") + "\r\n\r\n" + m.body
	switch m.rng.IntN(4) {
	case 0:
		raw += strings.Repeat("\r\n", 1+m.rng.IntN(3))
	case 1:
		if m.body != "" {
			raw = strings.TrimSuffix(raw, "\r\n")
		}
	}
	if m.rng.IntN(2) == 0 {
		raw = strings.ReplaceAll(raw, "\r\n", "\n")
	}
	return []byte(raw)
}

// refold breaks lines at single blanks of the values, before the blank or a tab in its place.
func (m *mangler) refold() {
	for i, f := range m.fields {
		var b strings.Builder
		colon := strings.IndexByte(f, ':')
		for j, c := range []byte(f) {
			single := c == ' ' && j > colon && j+1 < len(f) && !isSpace(f[j+1]) && !isSpace(f[j-1])
			if single && m.rng.IntN(3) == 0 {
				b.WriteString([]string{"\r\n ", "\r\n\t"}[m.rng.IntN(2)])
			} else {
				b.WriteByte(c)
			}
		}
		m.fields[i] = b.String()
	}
}

// recase changes the case of field names, and puts blanks before the colon.
func (m *mangler) recase() {
	for i, f := range m.fields {
		name, value, _ := strings.Cut(f, ":")
		switch m.rng.IntN(4) {
		case 0:
			name = strings.ToLower(name)
		case 1:
			name = strings.ToUpper(name)
		case 2:
			name += " "
		}
		m.fields[i] = name + ":" + value
	}
}

func (m *mangler) shuffle() {
	m.rng.Shuffle(len(m.fields), func(i, j int) { m.fields[i], m.fields[j] = m.fields[j], m.fields[i] })
}

// trace adds fields that servers and lists add.
func (m *mangler) trace() {
	for _, f := range []string{
		"Return-Path: <list-bounces@example.org>", "Received: from a (b [192.0.2.1])\r\n\tby c; Sat, 21 Nov 2026 11:44:27 +0000",
		"DKIM-Signature: v=1; a=rsa-sha256;\r\n b=abc", "List-Id: <list.example.org>", "Sender: list@example.org", "Bcc: ",
		"Authentication-Results: mail.example.org; spf=pass", "ARC-Seal: i=1; cv=none", "Precedence: list", "Resent-Date: x",
	} {
		if m.rng.IntN(2) == 0 {
			m.fields = slices.Insert(m.fields, m.rng.IntN(len(m.fields)+1), f)
		}
	}
}

// reencode changes the transfer encoding of text, and the lines of base64.
func (m *mangler) reencode() {
	i := slices.IndexFunc(m.fields, func(f string) bool { return strings.HasPrefix(f, "Content-Transfer-Encoding: ") })
	encoding := "base64"
	content := []byte(m.body)
	if strings.HasSuffix(m.fields[i], "base64") {
		content, _ = base64.StdEncoding.DecodeString(m.body)
	} else if m.rng.IntN(2) == 0 {
		encoding = "Quoted-Printable"
	}
	var b bytes.Buffer
	if encoding == "base64" {
		text := base64.StdEncoding.EncodeToString(content)
		for width := 4 + m.rng.IntN(100); len(text) > width; text = text[width:] {
			b.WriteString(text[:width] + "\r\n")
		}
		b.WriteString(text + "\r\n")
	} else {
		w := quotedprintable.NewWriter(&b)
		w.Write(content) // never fails: it writes to memory
		w.Close()
	}
	m.fields[i] = "Content-Transfer-Encoding: " + encoding
	m.body = b.String()
}

// sorted orders the application's fields, which may have been shuffled and re-cased.
func sorted(m *transport.Message) *transport.Message {
	c := *m
	c.Header = slices.Clone(m.Header)
	for i := range c.Header {
		c.Header[i].Name = strings.ToLower(c.Header[i].Name)
	}
	slices.SortFunc(c.Header, func(a, b transport.Field) int { return strings.Compare(a.Name, b.Name) })
	return &c
}

func TestMangledMailIsTheSameMessage(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	typed := topic("")
	typed.ContentType = `application/x-protobuf; messageType="a.B"; version=2`
	typed.Header = transport.Header{{Name: "A", Value: "two words and more of them"}, {Name: "B", Value: "Grüße  aus Köln " + strings.Repeat("x", 99)}, {Name: "C", Value: "=?"}}
	plain := topic("")
	plain.ContentType = "text/plain; charset=utf-8"
	named := file("the final report.pdf", "")
	answer := response()
	e := Envelope{From: "a@example.org", ReplyTo: "b@example.org"}
	for range 20 {
		e.To = append(e.To, "somebody@example.org")
	}
	var seed uint64
	for _, m := range []*transport.Message{topic(""), typed, plain, named, request(), answer} {
		for body := range payloads() {
			if len(body) > 4096 {
				continue
			}
			m.Body = []byte(body)
			raw := mustEncode(t, m, e)
			want := sorted(received(m, e))
			for range rounds {
				seed++
				mangled := newMangler(raw, seed).mangle()
				got, err := Decode(mangled)
				if err != nil {
					t.Fatalf("%v\n%q", err, mangled)
				}
				requireEqual(t, sorted(got), want)
			}
		}
	}
}

// A mail with two fields where one counts is refused, since nobody knows which one a
// server, a filter or a person has looked at.
func TestDuplicatesAreRefused(t *testing.T) {
	m := errorResponse()
	m.Deadline, m.ContentType = source, "text/plain"
	e := Envelope{From: "a@example.org", ReplyTo: "b@example.org", To: robot.To}
	for seed, raw := range [][]byte{mustEncode(t, m, e), mustEncode(t, file("a", "b"), e)} {
		original := newMangler(raw, uint64(seed))
		for i, f := range original.fields {
			name, _, _ := strings.Cut(f, ":")
			if f, known := fieldNamed([]byte(name)); known && f == fieldSkipped {
				continue
			}
			double := newMangler(raw, uint64(seed))
			double.fields = slices.Insert(double.fields, len(double.fields), original.fields[i])
			double.recase()
			_, err := Decode([]byte(strings.Join(double.fields, "\r\n") + "\r\n\r\n" + double.body))
			requireError(t, err, ErrMalformed)
		}
	}
}
