package nats_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

func TestSubject(t *testing.T) {
	for name, want := range map[string]string{
		"kiam.console.action.iplocation": "kiam.console.action.iplocation",
		"u1.echo":                        "u1.echo",
		"u1/echo":                        "u1/echo",
		"/robot/odom":                    "/.robot.odom",
		"/robot/v1.2/odom":               "/.robot.v1%2E2.odom",
		"/...":                           "/.%2E%2E%2E",
		"/":                              "/.%",
		"//a/":                           "/.%.a.%",
		".":                              "%.%",
		"a..b.":                          "a.%.b.%",
		"$SYS.x":                         "%24SYS.x",
		"$":                              "%24",
		"a.$b":                           "a.$b",
		"/$a":                            "/.$a",
		"~{a}-_":                         "~{a}-_",
	} {
		if got := nats.Subject(name); got != want {
			t.Errorf("the subject of %q is %q, want %q", name, got, want)
		}
		if got, ok := nats.Name(want); got != name || !ok {
			t.Errorf("the name of %q is %q, %v, want %q", want, got, ok, name)
		}
	}
	for pattern, want := range map[string]string{
		">": ">", "*": "*", "a.>": "a.>", "a.*.b": "a.*.b", "/*": "/.*", "/a/>": "/.a.>", "/*/b.c": "/.*.b%2Ec", "$a.*": "%24a.*",
	} {
		if got := nats.Subject(pattern); got != want {
			t.Errorf("the subject of %q is %q, want %q", pattern, got, want)
		}
	}
}

func TestSubjectsWithoutName(t *testing.T) {
	for _, subject := range []string{
		"", "$SYS.x", "$JS.API.INFO", "/", "/a.b", "/.", "a:b", "ü", "a.%2E", "a%", "a.%24b", "/.a/b", "/.%2e", "/.%%",
		"*", "a.>", "/.*", "a b", strings.Repeat("a", transport.MaxName+1),
	} {
		if name, ok := nats.Name(subject); ok {
			t.Errorf("the subject %q has the name %q", subject, name)
		}
	}
}

// FuzzSubject checks that names keep apart, and that patterns match on the server what they stand for.
func FuzzSubject(f *testing.F) {
	for _, pair := range [][2]string{{"a.b", "a.*"}, {"/a/b", "/*/b"}, {"/a.b", "/>"}, {"$a", ">"}, {"..", "*.*.*"}, {"/", "/*"}, {"/b", "*.b"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, name, pattern string) {
		if transport.ValidateName(name) != nil {
			t.Skip()
		}
		subject := nats.Subject(name)
		if !server.IsValidLiteralSubject(subject) || strings.HasPrefix(subject, "$") {
			t.Fatalf("the subject of %q is %q", name, subject)
		}
		if back, ok := nats.Name(subject); back != name || !ok {
			t.Fatalf("the subject %q of %q has the name %q, %v", subject, name, back, ok)
		}
		if transport.ValidatePattern(pattern) != nil {
			t.Skip()
		}
		filter := nats.Subject(pattern)
		if !server.IsValidSubject(filter) {
			t.Fatalf("the subject of the pattern %q is %q", pattern, filter)
		}
		// The other way round the carrier looks again: a token of "*.b" may be the "/" of "/b".
		if transport.MatchName(pattern, name) && !server.SubjectMatchesFilter(subject, filter) {
			t.Errorf("%q stands for %q, but %q does not match %q", pattern, name, filter, subject)
		}
		exact := !strings.ContainsAny(pattern, "*>")
		if exact && (pattern == name) != (filter == subject) {
			t.Errorf("%q and %q have the subjects %q and %q", pattern, name, filter, subject)
		}
	})
}

// FuzzName checks that whatever comes has at most one name.
func FuzzName(f *testing.F) {
	for _, subject := range []string{"a.b", "/.a.b", "/.a%2Eb", "%.%", "%24a", "/.%", "_INBOX.a.b", "$SYS.a", "/.a/b"} {
		f.Add(subject)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		name, ok := nats.Name(subject)
		if !ok {
			return
		}
		if err := transport.ValidateName(name); err != nil || nats.Subject(name) != subject {
			t.Errorf("%q has the name %q (%v), whose subject is %q", subject, name, err, nats.Subject(name))
		}
	})
}
