package wire

import (
	"flag"
	"os"
	"path/filepath"
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
			raw := mustEncode(t, v.message, v.envelope)
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
			requireEqual(t, mustDecode(t, file), received(v.message, e))
		})
	}
}

func TestSpecificationShowsTheVectors(t *testing.T) {
	specification, err := os.ReadFile("../../docs/wire-format.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"topic.eml", "request.eml"} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if mail := strings.ReplaceAll(string(file), "\r\n", "\n"); !strings.Contains(string(specification), "```\n"+strings.TrimSuffix(mail, "\n")) {
			t.Errorf("docs/wire-format.md does not show %s", name)
		}
	}
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
