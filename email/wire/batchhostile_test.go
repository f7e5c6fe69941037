package wire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// numbered returns messages that can be told apart.
func numbered(n int) (messages []*transport.Message) {
	for i := range n {
		m := topic(fmt.Sprintf("message %d\nsecond line", i))
		if i%2 == 1 {
			m.Body = append(m.Body, 0, 255)
		}
		m.Info.Sequence = uint64(i + 1)
		m.ID = transport.NewID(publisher, m.Info.Sequence, "robot.example.org")
		messages = append(messages, m)
	}
	return messages
}

// Wherever a batch is cut off, what is whole is read and what is not is missed.
func TestBatchCutOff(t *testing.T) {
	messages := numbered(4)
	raw := mustBatch(t, robot, messages...)
	head := bytes.Index(raw, []byte("\r\n\r\n")) + 4
	for n := range len(raw) {
		sequence, err := DecodeBatch(raw[:n])
		if n < head-2 { // which of the fields are there is a matter of luck
			if err == nil {
				t.Fatalf("cut off after %d bytes, within the header section, it is still a batch", n)
			}
			continue
		}
		if err != nil {
			continue
		}
		at := 0
		var last error
		for m, err := range sequence {
			if last != nil {
				t.Fatalf("cut off after %d bytes: after %v comes something", n, last)
			}
			if last = err; err == nil {
				requireEqual(t, m, received(messages[at], robot))
				at++
			}
		}
		if (at < len(messages)) != (last != nil) {
			t.Errorf("cut off after %d bytes: %d messages and %v", n, at, last)
		}
	}
}

func TestDamagedPartsCostNoOthers(t *testing.T) {
	const count = 5
	messages := numbered(count)
	raw := string(mustBatch(t, robot, messages...))
	parts := strings.Split(raw, delimiter+"\r\n")
	text := func(part string) string {
		return strings.Join([]string{parts[0], parts[1], part, parts[3], parts[4], parts[5]}, delimiter+"\r\n")
	}
	binaryPart := parts[2]
	for name, c := range map[string]struct {
		raw    string
		errors []int // where they are
		lost   int   // messages
	}{
		"a broken body":         {text(strings.Replace(binaryPart, "base64\r\n\r\n", "base64\r\n\r\n*", 1)), []int{1}, 1},
		"no name":               {text(strings.Replace(binaryPart, "Subject:", "Object:", 1)), []int{1}, 1},
		"no ID":                 {text(strings.Replace(binaryPart, "Publisher-GID:", "X:", 1)), []int{1}, 1},
		"a bad number":          {text(strings.Replace(binaryPart, "Publisher-Sequence-Number: ", "Publisher-Sequence-Number: x", 1)), []int{1}, 1},
		"two names":             {text(strings.Replace(binaryPart, "Subject: ", "Subject: /other\r\nSubject: ", 1)), []int{1}, 1},
		"an empty part":         {text(""), []int{1}, 1},
		"no header section":     {text("\r\n"), []int{1}, 1},
		"junk":                  {text("\x00\xff: junk\r\n"), []int{1}, 1},
		"a batch in it":         {text("\r\n" + raw), nil, 1}, // its parts are parts of the mail around it, and there end both
		"a multipart":           {text("\r\nContent-Type: multipart/mixed; boundary=x" + binaryPart), []int{1}, 1},
		"no part's end":         {text(strings.Replace(binaryPart, "\r\n\r\n", "\r\n\r\nX", 1)), []int{1}, 1},
		"a delimiter twice":     {text(binaryPart + delimiter + "\r\n"), []int{2}, 0},
		"a delimiter less":      {strings.Replace(raw, delimiter+"\r\n\r\nSubject", "\r\n\r\nSubject", 2), nil, 0},
		"a text added":          {text(binaryPart + delimiter + "\r\nContent-Type: text/plain\r\n\r\nThis list is for robots.\r\n"), nil, 0},
		"a part's type":         {text("Content-Type: Message/RFC822\r\n" + binaryPart), nil, 0},
		"a preamble, a footer":  {strings.Replace(raw, "\r\n\r\n", "\r\n\r\nThis is a digest.\r\n", 1) + "A footer.\r\n" + delimiter + "\r\n\r\nx", nil, 0},
		"blanks at delimiters":  {strings.ReplaceAll(raw, "postbus\r\n", "postbus \t\r\n"), nil, 0},
		"says more than it has": {strings.Replace(raw, headerCount+": 5", headerCount+": 7", 1), []int{count}, 0},
		"says less than it has": {strings.Replace(raw, headerCount+": 5", headerCount+": 2", 1), nil, 0},
		"another boundary":      {strings.ReplaceAll(raw, boundary, `--x"y`), nil, 0},
		"ends too early":        {strings.Replace(raw, delimiter+"\r\n\r\nSubject", delimiter+"--\r\n\r\nSubject", 1), []int{0}, count},
	} {
		t.Run(name, func(t *testing.T) {
			switch name {
			case "a delimiter less": // two messages become one, or none
				found := readBatch(t, []byte(c.raw))
				if last := found[len(found)-1]; last.err == nil || !strings.Contains(last.err.Error(), "missing") {
					t.Errorf("the last of %d is %v", len(found), last)
				}
				return
			case "a batch in it":
				found := readBatch(t, []byte(c.raw))
				requireEqual(t, found[0].m, received(messages[0], robot))
				if found[1].err == nil || len(found) > 2*count {
					t.Errorf("found %v", found)
				}
				return
			case "another boundary":
				c.raw = strings.Replace(c.raw, `boundary="--x"y"`, `boundary="--x\"y"`, 1)
			case "no part's end":
				c.raw = strings.Replace(c.raw, delimiter+"\r\n"+"X", delimiter+"X", 1)
			}
			found := readBatch(t, []byte(c.raw))
			var errs []int
			got := map[string]bool{}
			for i, o := range found {
				if o.err != nil {
					errs = append(errs, i)
					continue
				}
				at := int(o.m.Info.Sequence) - 1
				requireEqual(t, o.m, received(messages[at], robot))
				got[o.m.ID.String()] = true
			}
			if !slices.Equal(errs, c.errors) || len(got) != count-c.lost {
				t.Errorf("errors at %v, want %v; %d messages, want %d\n%s", errs, c.errors, len(got), count-c.lost, c.raw)
			}
		})
	}
}

func TestNoBatch(t *testing.T) {
	raw := string(mustBatch(t, robot, numbered(2)...))
	replaced := func(old, with string) string {
		s := strings.Replace(raw, old, with, 1)
		if s == raw {
			t.Fatalf("there is no %q", old)
		}
		return s
	}
	for name, c := range map[string]struct {
		raw  string
		want error
	}{
		"nothing":             {"", ErrForeign},
		"a message":           {string(mustEncode(t, topic("x"), robot)), ErrForeign},
		"somebody's digest":   {replaced(headerCount, "X-Count"), ErrForeign},
		"another multipart":   {replaced("multipart/digest", "multipart/mixed"), ErrForeign},
		"a text with a count": {mailWith(headerCount + ": 2\r\n"), ErrForeign},
		"a long header":       {strings.Repeat("X-Y: z\r\n", MaxFields) + raw, ErrForeign},
		"no boundary":         {replaced(`; boundary="`+boundary+`"`, ""), ErrMalformed},
		"an empty boundary":   {replaced(`boundary="`+boundary+`"`, `boundary=""`), ErrMalformed},
		"a long boundary":     {replaced(boundary, strings.Repeat("x", maxBoundary+1)), ErrMalformed},
		"no number":           {replaced(headerCount+": 2", headerCount+": two"), ErrMalformed},
		"none":                {replaced(headerCount+": 2", headerCount+": 0"), ErrMalformed},
		"no host":             {replaced("; host=robot.example.org", ""), ErrMalformed},
		"a bad host":          {replaced("host=robot", "host=ro bot"), ErrMalformed},
		"a long host":         {replaced("host=robot", "host="+strings.Repeat("x", MaxID)), ErrMalformed},
		"a huge number":       {replaced(headerCount+": 2", headerCount+": 99999999999999999999"), ErrMalformed},
		"two numbers":         {replaced(headerCount+": 2", headerCount+": 2\r\n"+headerCount+": 2; host=x\r\nX: "), ErrMalformed},
		"two senders":         {replaced("From: ", "From: b@example.org\r\nFrom: "), ErrMalformed},
		"only a header":       {raw[:strings.Index(raw, "\r\n\r\n")+2], ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeBatch([]byte(c.raw))
			requireError(t, err, c.want)
			if _, err = Decode([]byte(c.raw)); c.want == ErrForeign && err == ErrBatch {
				t.Error("Decode takes it for a batch")
			}
		})
	}
}

// A batch is read in a time that grows with its size alone.
func TestHostileBatches(t *testing.T) {
	head, _, _ := strings.Cut(string(mustBatch(t, robot, topic("x"))), "\r\n\r\n")
	head += "\r\n\r\n"
	const size = 4 << 20
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for name, body := range map[string]string{
		"delimiters":          fill(delimiter + "\r\n"),
		"empty parts":         fill(delimiter + "\r\n\r\n"),
		"almost delimiters":   fill(delimiter + "x\n"),
		"one line":            fill(delimiter + " "),
		"delimiter and blank": "\n" + delimiter + fill(" "),
		"a long header":       delimiter + "\r\n\r\n" + fill("X-Y: z\r\n"),
		"a long part header":  delimiter + "\r\n" + fill("X-Y: z\r\n"),
		"headers":             fill(delimiter + "\r\n\r\n" + strings.Repeat("a:\n", 500)),
		"small messages":      fill(delimiter + "\r\n\r\nSubject:/x\r\nPublisher-GID:1\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if n := len(readBatch(t, []byte(head+body))); n > MaxBatch+1 {
				t.Errorf("%d messages", n)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// What servers do to mails must not change the messages.
func TestMangledBatchIsTheSame(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 30
	}
	messages := kinds()
	for payload := range payloads() {
		if len(payload) < 1024 {
			messages = append(messages, topic(payload))
		}
	}
	e := Envelope{From: "a@example.org", ReplyTo: "b@example.org", To: many(20)}
	raw := mustBatch(t, e, messages...)
	for seed := range uint64(rounds) {
		outer := newMangler(raw, seed)
		for _, way := range []func(){outer.recase, outer.refold, outer.shuffle, outer.trace} {
			if outer.rng.IntN(2) == 0 {
				way()
			}
		}
		parts := strings.Split(outer.body, delimiter+"\r\n\r\n")
		for i, part := range parts[1:] {
			if i < len(messages)-1 && outer.rng.IntN(4) == 0 { // a server that looks into mails in mails
				inner := newMangler([]byte(part), seed)
				inner.recase()
				inner.refold()
				parts[i+1] = strings.Join(inner.fields, "\r\n") + "\r\n\r\n" + inner.body
			}
		}
		mangled := strings.Join(outer.fields, "\r\n") + "\r\n\r\n" + strings.Join(parts, delimiter+"\r\n\r\n")
		switch outer.rng.IntN(3) {
		case 0:
			mangled = strings.ReplaceAll(mangled, "\r\n", "\n")
		case 1:
			mangled = strings.TrimSuffix(mangled, "\r\n")
		}
		found := readBatch(t, []byte(mangled))
		if len(found) != len(messages) {
			t.Fatalf("%d messages, want %d\n%s", len(found), len(messages), mangled)
		}
		for i, o := range found {
			if o.err != nil {
				t.Fatal(o.err)
			}
			requireEqual(t, sorted(o.m), sorted(received(messages[i], e)))
		}
	}
}

// FuzzDecodeBatch checks that any bytes give either an error of the two kinds, or messages
// that can be sent on and read again unchanged.
func FuzzDecodeBatch(f *testing.F) {
	f.Add(mustBatch(f, robot, kinds()...))
	f.Add(mustBatch(f, robot, numbered(2)...))
	f.Add(mustBatch(f, robot, topic(delimiter+"\n"), errorResponse()))
	f.Add(bytes.ReplaceAll(mustBatch(f, robot, numbered(3)...), []byte("\r\n"), []byte("\n")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		sequence, err := DecodeBatch(raw)
		if _, single := Decode(raw); (single == ErrBatch) != (err == nil || errors.Is(err, ErrMalformed)) {
			t.Fatalf("Decode: %v, DecodeBatch: %v", single, err)
		}
		if err != nil {
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of no kind: %v", err)
			}
			requireLoggable(t, err)
			return
		}
		var again *Batch
		var messages []*transport.Message
		var e Envelope
		n := 0
		for m, err := range sequence {
			if n++; err != nil {
				requireError(t, err, ErrMalformed)
				continue
			}
			if len(m.Body) > len(raw)*2+maxFinalEndings*2 {
				t.Fatalf("a body of %d bytes from a mail of %d", len(m.Body), len(raw))
			}
			if m.ID.IsZero() || m.Info.SourceTime.IsZero() {
				continue
			}
			if again == nil {
				if e = (Envelope{From: m.From, ReplyTo: m.ReplyTo, To: m.To}); m.From == "" {
					e.From = "a@example.org"
				}
				if again, err = NewBatch(batchID, e, 0); err != nil {
					return // there are too many addresses to be written
				}
			}
			if err := again.Add(m); errors.Is(err, transport.ErrTooLarge) {
				continue
			} else if err != nil {
				t.Fatalf("what was read can't be written: %v\n%+v", err, m)
			}
			messages = append(messages, m)
		}
		if n > MaxBatch+1 {
			t.Fatalf("%d messages", n)
		}
		if len(messages) > 0 {
			requireSafe(t, again.Mail())
			requireBatch(t, again.Mail(), e, messages...)
		}
	})
}
