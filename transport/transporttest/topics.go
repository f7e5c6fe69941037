package transporttest

import (
	"fmt"
	"strings"
	"time"

	"github.com/postbus/postbus/transport"
)

var topicCases = []testCase{
	{"TopicReachesEveryInterest", nil, topicReachesEveryInterest},
	{"TopicMetadata", nil, topicMetadata},
	{"TopicWithoutMetadata", nil, topicWithoutMetadata},
	{"Header", nil, header},
	{"Payloads", nil, payloads},
	{"Names", nil, exactNames},
	{"Patterns", nil, patterns},
	{"ServicePatterns", nil, servicePatterns},
	{"TopicAndServiceAreApart", nil, topicAndServiceAreApart},
	{"NobodyListens", nil, nobodyListens},
	{"LargestBody", func(f Features) bool { return f.MaxBody > 0 }, largestBody},
}

func topicReachesEveryInterest(e *env) {
	a, b, c := e.open(), e.open(), e.open()
	boxes := map[string]*inbox{
		"sender's own":           a.topic("/t"),
		"other's first":          b.topic("/t"),
		"other's second":         b.topic("/t"),
		"third participant's":    c.topic("/t"),
		"third's by a pattern":   c.topic("/*"),
		"third's by all of them": c.topic(">"),
	}
	const n = 5
	src := newSource()
	for i := range n {
		src.publish(a, "/t", fmt.Sprint("message ", i))
	}
	for _, box := range boxes {
		box.atLeast(n)
	}
	settle(a, b, c)
	for name, box := range boxes {
		var got []*transport.Message
		for _, m := range box.messages() {
			if m.Name != markerName {
				got = append(got, m)
			}
		}
		seen := make(map[uint64]int)
		for _, m := range got {
			seen[m.Info.Sequence]++
			if want := fmt.Sprint("message ", m.Info.Sequence-1); string(m.Body) != want {
				e.Errorf("%s interest: message %d has body %q, want %q", name, m.Info.Sequence, m.Body, want)
			}
		}
		for seq := uint64(1); seq <= n; seq++ {
			if seen[seq] != 1 {
				e.Errorf("%s interest got message %d %d times, want once", name, seq, seen[seq])
			}
		}
		if len(got) != n {
			e.Errorf("%s interest got %d messages, want %d", name, len(got), n)
		}
	}
}

func topicMetadata(e *env) {
	a, b := e.open(), e.open()
	boxes := []*inbox{a.topic("/t"), b.topic("/t")}
	src := newSource()
	src.seq.Store(1<<63 - 2) // the next fills 63 bits
	want := transport.Message{
		Kind:        transport.TopicMessage,
		Name:        "/t",
		Body:        []byte(`{"a":1}`),
		ContentType: "application/json",
		Filename:    "a report.json",
		Header:      transport.Header{{Name: "Trace", Value: "1"}},
		Info: transport.Info{
			SourceTime:   time.Unix(1700000000, 123456789),
			PublisherGID: src.gid,
			Sequence:     1<<63 - 1,
		},
		ID:       transport.NewID(src.gid, 1<<63-1, "transporttest.example"),
		Deadline: time.Now().Add(time.Hour).Round(0),
	}
	sent := want
	src.send(a, &sent)
	for _, box := range boxes {
		got := box.next(0)
		e.compare("topic message", got, &want)
		if got.From == "" {
			e.Errorf("From is empty")
		}
		if got.Info.ReceivedTime.IsZero() {
			e.Errorf("ReceivedTime is zero")
		}
	}
}

// topicWithoutMetadata checks what the node fills in, and that nothing is made up.
func topicWithoutMetadata(e *env) {
	a, b := e.open(), e.open()
	box := b.topic("/t")
	src := newSource()
	before := time.Now().Round(0)
	src.publish(a, "/t", "text")
	got := box.next(0)
	after := time.Now().Round(0)
	want := transport.Message{
		Kind: transport.TopicMessage,
		Name: "/t",
		Body: []byte("text"),
		Info: transport.Info{SourceTime: got.Info.SourceTime, PublisherGID: src.gid, Sequence: 1},
		ID:   got.ID,
	}
	e.compare("topic message", got, &want)
	if gid, seq, ok := got.ID.Origin(); !ok || gid != src.gid || seq != 1 {
		e.Errorf("the ID %q does not lead back to message 1 of %v", got.ID, src.gid)
	}
	if source := got.Info.SourceTime.Round(0); source.Before(before) || source.After(after) {
		e.Errorf("the source time %v is not between %v and %v", source, before, after)
	}
}

func header(e *env) {
	a, b := e.open(), e.open()
	box := b.topic("/t")
	want := transport.Header{
		{Name: "Plain", Value: "text"},
		{Name: "Empty", Value: ""},
		{Name: "Non-Ascii", Value: "Grüße, 世界 👋"},
		{Name: "Blanks", Value: "one two  three   four"},
		{Name: "Other-Blanks", Value: "\u00a0no-break\u2003em\u2028line\u00a0"},
		{Name: "Punctuation", Value: `"a\b" <c@d> (e); f=g, h:i`},
		{Name: "Encoded-Word", Value: "=?utf-8?q?not_encoded?="},
		{Name: "Mixed", Value: "=?utf-8?q?x?= ü"},
		{Name: "Long", Value: strings.Repeat("x", transport.MaxHeaderValue)},
		{Name: "Long-Words", Value: strings.Repeat("word ", transport.MaxHeaderValue/5-1) + "end"},
		{Name: "Long-Non-Ascii", Value: strings.Repeat("ü", transport.MaxHeaderValue/2)},
		{Name: strings.Repeat("N", transport.MaxHeaderName), Value: "longest name"},
		{Name: "Again", Value: "first"},
		{Name: "again", Value: "second"},
		{Name: "AGAIN", Value: "third"},
	}
	for len(want) < transport.MaxHeaderFields {
		want.Add(fmt.Sprintf("Filler-%d", len(want)), "x")
	}
	newSource().send(a, &transport.Message{Kind: transport.TopicMessage, Name: "/t", Header: want})
	e.compareHeader("message with every kind of header field", box.next(0).Header, want)
}

// exactNames checks that a name arrives as it was sent, and only where it is wanted.
func exactNames(e *env) {
	a, b := e.open(), e.open()
	all := []string{
		"t", "T", "/t", "/T", "/", ".", "-t", "t.", "t/", "/t/", "//t", "t.t", "t/t", "Re", "~t", "{t}", "$t", "_t",
		"abcdefghijklmnopqrstuvwxyz/ABCDEFGHIJKLMNOPQRSTUVWXYZ/0123456789_~.-/{}$",
		"/" + strings.Repeat("n", transport.MaxName-1),
		"/" + strings.Repeat("n", transport.MaxName-2),
	}
	boxes := make(map[string]*inbox)
	for _, name := range all {
		boxes[name] = b.topic(name)
	}
	for _, name := range all {
		newSource().publish(a, name, name) // as a publisher has one name
	}
	for _, box := range boxes {
		box.atLeast(1)
	}
	settle(a, b)
	for name, box := range boxes {
		for _, m := range box.exactly(1) {
			if m.Name != name || string(m.Body) != name {
				e.Errorf("the interest in %q got a message called %q sent as %q", name, m.Name, m.Body)
			}
		}
	}
}

// patternsAndNames returns patterns, and names of both forms of which each stands for some. The tokens of a
// name can be empty, and those of one form can hold the separator of the other.
func patternsAndNames() (patterns, names []string) {
	patterns = []string{
		">", "*", "*.*", "a.*", "a.>", "*.b", "*.b.>", "a.*.c", "a.b", "*.>", "a/b.*", "*.", ".*", "*.*.",
		"/>", "/*", "/a/*", "/a/>", "/*/b", "/*/*", "/a.b/*", "/*/", "//*", "/a/b",
	}
	names = []string{
		"a", "b", "a.b", "a.b.c", "b.b", "a.b.c.d", "a/b", "a/b.c", ".b", "a.", "..", "a..c", "$a.b",
		"/", "/a", "/b", "/a/b", "/a/b/c", "/b/b", "/a.b/c", "/a.b", "/a/", "//b", "/a//b", "/$a/b",
	}
	return patterns, names
}

func patterns(e *env) {
	a, b := e.open(), e.open()
	e.checkPatterns(b.topic, func(name string) { newSource().publish(a, name, name) }, func() { settle(a, b) })
}

// servicePatterns is the same for requests.
func servicePatterns(e *env) {
	a, b := e.open(), e.open()
	c := newClient(a)
	e.checkPatterns(b.service, func(name string) { c.call(name, name) }, func() { settle(a, b) })
}

// checkPatterns checks that interests in patterns get what they stand for, and nothing else.
func (e *env) checkPatterns(receive func(pattern string) *inbox, send func(name string), settle func()) {
	e.Helper()
	patterns, names := patternsAndNames()
	boxes, want := make(map[string]*inbox), make(map[string][]string)
	for _, pattern := range patterns {
		boxes[pattern] = receive(pattern)
		for _, name := range names {
			if transport.MatchName(pattern, name) {
				want[pattern] = append(want[pattern], name)
			}
		}
	}
	for _, name := range names {
		send(name)
	}
	for pattern, box := range boxes {
		box.atLeast(len(want[pattern]))
	}
	settle()
	for pattern, box := range boxes {
		e.compareNames(pattern, box.messages(), want[pattern])
	}
}

func topicAndServiceAreApart(e *env) {
	a, b := e.open(), e.open()
	topic, service := b.topic("/same"), b.service("/same")
	src := newSource()
	src.publish(a, "/same", "topic")
	src.send(a, &transport.Message{
		Kind: transport.Request, Name: "/same", Body: []byte("service"),
		Info: transport.Info{ClientGID: src.gid, RequestSequence: 2},
	})
	topic.atLeast(1)
	service.atLeast(1)
	settle(a, b)
	for _, m := range topic.exactly(1) {
		if m.Kind != transport.TopicMessage || string(m.Body) != "topic" {
			e.Errorf("the topic got a %v with body %q", m.Kind, m.Body)
		}
	}
	for _, m := range service.exactly(1) {
		if m.Kind != transport.Request || string(m.Body) != "service" {
			e.Errorf("the service got a %v with body %q", m.Kind, m.Body)
		}
	}
}

func nobodyListens(e *env) {
	a := e.open()
	newSource().publish(a, "/nobody", "x") // is no error
}

func largestBody(e *env) {
	a, b := e.open(), e.open()
	box := b.topic("/t")
	src := newSource()
	src.publish(a, "/t", strings.Repeat("x", e.Features.MaxBody))
	if got := len(box.next(0).Body); got != e.Features.MaxBody {
		e.Errorf("the largest body arrived with %d bytes, want %d", got, e.Features.MaxBody)
	}
	m := src.number(&transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: make([]byte, e.Features.MaxBody+1)})
	e.wantError("send a body over the limit", a.lend(e.context(), m), transport.ErrTooLarge)
}
