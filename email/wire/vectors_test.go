package wire

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

var update = flag.Bool("update", false, "write the mails of testdata that Encode makes")

// written are the mails of testdata that Encode is to make exactly so.
var written = map[string]struct {
	message  *transport.Message
	envelope Envelope
}{
	// Those for rmw_email are made by EncodeRMW.
	"compat-topic.eml":    {topic("position: {x: 1.5}\nname: Köln\n"), robot},
	"compat-request.eml":  {request(), robot},
	"compat-response.eml": {response(), Envelope{From: "base@example.org", To: []string{"robot@example.org"}}},
	"compat-error.eml":    {errorResponse(), Envelope{From: "base@example.org", To: []string{"robot@example.org"}}},

	"topic.eml":          {withHeader(topic("hello\nworld\n")), robot},
	"topic-utf8.eml":     {topic("Grüße aus Köln\n"), robot},
	"topic-binary.eml":   {topic("\x00\x01\x02\xff"), robot},
	"file.eml":           {file("Grüße.csv", "Köln;1\r\nBonn;2\r\n"), robot},
	"request.eml":        {request(), Envelope{From: "Robot <robot@example.org>", ReplyTo: "answers@example.org", To: robot.To}},
	"response.eml":       {response(), Envelope{From: "base@example.org", To: []string{"answers@example.org"}}},
	"error-response.eml": {errorResponse(), Envelope{From: "base@example.org", To: []string{"answers@example.org"}}},
}

func withHeader(m *transport.Message) *transport.Message {
	m.Header = transport.Header{{Name: "X-Priority", Value: "1"}, {Name: "Traceparent-Note", Value: "wörld"}}
	return m
}

// file returns a topic message whose payload is a file.
func file(name, body string) *transport.Message {
	m := topic(body)
	m.Filename, m.ContentType = name, "text/csv; charset=utf-8"
	return m
}

func TestWrittenVectors(t *testing.T) {
	for name, v := range written {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name)
			compat := strings.HasPrefix(name, "compat-")
			var raw []byte
			if compat {
				raw = mustEncodeRMW(t, v.message, v.envelope)
			} else {
				raw = mustEncode(t, v.message, v.envelope)
			}
			if *update {
				if err := os.WriteFile(path, raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(raw) != string(file) {
				t.Errorf("Encode gives\n%s\nnot\n%s", raw, file)
			}
			e := v.envelope
			if e.From == "Robot <robot@example.org>" {
				e.From = "robot@example.org"
			}
			want := received(v.message, e)
			if compat {
				want = shortened(v.message, e)
			}
			requireEqual(t, mustDecode(t, file), want)
		})
	}
}

// The mail of several messages of testdata is what Batch makes.
func TestWrittenBatch(t *testing.T) {
	second := request()
	second.ID = transport.NewID(client, 12, "client.example.org")
	messages := []*transport.Message{topic("hello\nworld\n"), second, topic("\x00\x01\x02\xff")}
	raw := mustBatch(t, robot, messages...)
	path := filepath.Join("testdata", "batch.eml")
	if *update {
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != string(file) {
		t.Errorf("Batch gives\n%s\nnot\n%s", raw, file)
	}
	requireBatch(t, file, robot, messages...)
}

// The examples of the specification are the vectors, whole.
func TestSpecificationShowsTheVectors(t *testing.T) {
	text, err := os.ReadFile("../../docs/wire-format.md")
	if err != nil {
		t.Fatal(err)
	}
	specification := string(text)
	links := regexp.MustCompile("(?s)\\(\\.\\./email/wire/testdata/([a-z0-9-]+\\.eml)\\)[^\n]*\n```\n(.*?)```\n")
	shown := make(map[string]bool)
	for _, match := range links.FindAllStringSubmatch(specification, -1) {
		name, example := match[1], match[2]
		shown[name] = true
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(string(file), "\r\n", "\n"); example != want {
			t.Errorf("docs/wire-format.md shows %s as\n%s\nnot\n%s", name, example, want)
		}
	}
	for _, name := range []string{"topic.eml", "topic-binary.eml", "file.eml", "request.eml", "response.eml", "error-response.eml", "compat-topic.eml", "batch.eml", "by-hand.eml"} {
		if !shown[name] {
			t.Errorf("docs/wire-format.md does not show %s", name)
		}
	}
	// The example at the top has notes.
	_, glance, _ := strings.Cut(specification, "## At a glance\n")
	_, glance, _ = strings.Cut(glance, "```\n")
	glance, _, _ = strings.Cut(glance, "```\n")
	glance = regexp.MustCompile(`(?m) {3,}.*$`).ReplaceAllString(glance, "")
	if response, err := os.ReadFile("testdata/response.eml"); err != nil || glance != strings.ReplaceAll(string(response), "\r\n", "\n") {
		t.Errorf("docs/wire-format.md shows response.eml at the top as\n%s (%v)", glance, err)
	}
}

// A person with a program that can add a header field writes such a mail.
func TestMailByHandIsUnderstood(t *testing.T) {
	raw, err := os.ReadFile("testdata/by-hand.eml")
	if err != nil {
		t.Fatal(err)
	}
	requireEqual(t, mustDecode(t, raw), &transport.Message{
		Kind: transport.TopicMessage, Name: "/chatter", Body: []byte("Hello, robots!"),
		ID:   transport.ParseID("6a0c.1732189467@alice.example.org"),
		Info: transport.Info{PublisherGID: rmwGID("1"), SourceTime: time.Unix(1795261467, 0).UTC()},
		From: "alice@example.org", ReplyTo: "alice@example.org", To: []string{"base@example.org"},
	})
}

// rmw are mails in the form of rmw_email 0.8, as servers store them.
var rmw = map[string]transport.Message{
	"rmw-topic.eml": {
		Kind: transport.TopicMessage, Name: "/my_topic", Body: []byte("position: {x: 1.5, y: -2}"),
		ID:   transport.ParseID("20261121114427.6C82498E00C@mail.example.org"),
		Info: transport.Info{PublisherGID: rmwGID("305543232"), SourceTime: time.Unix(0, 1795261467376193763).UTC()},
		From: "robot@example.org", ReplyTo: "robot@example.org", To: []string{"peer@example.org"},
	},
	"rmw-request.eml": {
		Kind: transport.Request, Name: "/my_service", Body: []byte("a: 2\r\nb: 3"),
		ID: transport.ParseID("20261121114427.2690198E00F@mail.example.org"),
		Info: transport.Info{
			PublisherGID: rmwGID("3865011698"), ClientGID: rmwGID("3865011697"), SourceTime: time.Unix(0, 1795261467052926400).UTC(),
		},
		From: "robot@example.org", ReplyTo: "robot@example.org", To: []string{"peer@example.org", "spare@example.org"},
	},
	"rmw-response.eml": {
		Kind: transport.Response, Name: "/my_service", Body: []byte("sum: 5"),
		ID:        transport.ParseID("20261121114427.4E50898E00C@mail.example.org"),
		InReplyTo: transport.ParseID("20261121114427.2690198E00F@mail.example.org"),
		Info:      transport.Info{ClientGID: rmwGID("3865011697"), SourceTime: time.Unix(0, 1795261467199873880).UTC()},
		From:      "peer@example.org", ReplyTo: "peer@example.org", To: []string{"robot@example.org"},
	},
}

func rmwGID(s string) transport.GID {
	g, err := transport.ParseGID(s)
	if err != nil {
		panic(err)
	}
	return g
}

func TestReadVectorsOfRMWEmail(t *testing.T) {
	for name, want := range rmw {
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, mustDecode(t, raw), &want)
		})
	}
}

// What servers do to mails of rmw_email must not change the messages.
func TestMailOfRMWEmailMayBeMangled(t *testing.T) {
	for name, want := range rmw {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(200) {
			m := newMangler(raw, seed)
			m.fields = slices.DeleteFunc(m.fields, func(f string) bool {
				field, _, _ := strings.Cut(f, ":")
				optional := slices.Contains([]string{"date", "cc", "bcc", "references"}, strings.ToLower(field))
				return optional && m.rng.IntN(2) == 0
			})
			for _, way := range []func(){m.recase, m.refold, m.shuffle, m.trace} {
				if m.rng.IntN(2) == 0 {
					way()
				}
			}
			requireEqual(t, mustDecode(t, []byte(strings.Join(m.fields, "\r\n")+"\r\n\r\n"+m.body)), &want)
		}
	}
}

// shared finds mails that are kept beside the project, because they are not ours to
// distribute.
func shared(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("../../../shared/vectors", pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skip("there is no ../shared/vectors beside the project")
	}
	mails := make(map[string][]byte)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		mails[filepath.Base(path)] = raw
	}
	return mails
}

func TestMailOfOthersIsForeign(t *testing.T) {
	for _, pattern := range []string{"people/*", "bounces/*", "strange/*"} {
		t.Run(pattern, func(t *testing.T) {
			for name, raw := range shared(t, pattern) {
				if _, err := Decode(raw); err == nil {
					t.Errorf("%s was read as a message", name)
				} else {
					requireError(t, err, ErrForeign)
				}
			}
		})
	}
}

func TestReadRealMailOfRMWEmail(t *testing.T) {
	type essence struct {
		kind              transport.Kind
		name              string
		publisher, client string
		body              string
	}
	want := map[string]essence{
		"topic-1-as-stored.eml":  {transport.TopicMessage, "/my_topic", "305543232", "0", "my awesome message!"},
		"topic-2-as-stored.eml":  {transport.TopicMessage, "/my_other_topic", "305543233", "0", "my other awesome message!"},
		"request-as-stored.eml":  {transport.Request, "/my_service", "3865011698", "3865011697", "this is the request!"},
		"response-as-stored.eml": {transport.Response, "/my_service", "0", "3865011697", "responseeeee!"},
		"stock-1.eml":            {transport.TopicMessage, "/my_topic", "1528928215", "0", "my awesome message!"},
		"stock-2.eml":            {transport.TopicMessage, "/my_other_topic", "1528928216", "0", "my other awesome message!"},
		"stock-3.eml":            {transport.Request, "/my_service", "365275872", "365275871", "this is the request!"},
	}
	for name, raw := range shared(t, "rmw_email/*.eml") {
		m := mustDecode(t, raw)
		got := essence{m.Kind, m.Name, m.Info.PublisherGID.String(), m.Info.ClientGID.String(), string(m.Body)}
		if got != want[name] {
			t.Errorf("%s: got %+v, want %+v", name, got, want[name])
		}
		if m.Info.RequestSequence != 0 || m.ID.IsZero() || m.From == "" || len(m.To) != 1 || m.Info.SourceTime.Year() != 2026 || len(m.Header) != 0 {
			t.Errorf("%s: got %+v", name, m)
		}
	}
}
