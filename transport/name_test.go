package transport_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

func TestValidateName(t *testing.T) {
	for _, test := range []struct {
		name string
		want string // in the error; "" if the name is valid
	}{
		{"t", ""},
		{"/chatter", ""},
		{"/", ""},
		{".", ""},
		{"~/a_b/{c}/$d-e.f", ""},
		{"0123456789", ""},
		{strings.Repeat("n", transport.MaxName), ""},

		{"", "the name is empty"},
		{strings.Repeat("n", transport.MaxName+1), "has 201 bytes, at most 200"},
		{"a b", `byte " " at index 1 of name "a b"`},
		{"a\r\nBcc: x", `byte "\r" at index 1`},
		{"a\nb", `byte "\n" at index 1`},
		{"a\x00", `byte "\x00" at index 1`},
		{"a\tb", `byte "\t" at index 1`},
		{"=?utf-8?q?x?=", `byte "=" at index 0`},
		{"a?", `byte "?" at index 1`},
		{"a:b", `byte ":" at index 1`},
		{"<a>", `byte "<" at index 0`},
		{"*", `byte "*" at index 0`},
		{"/a/>", `byte ">" at index 3`},
		{"a\x7f", `byte "\x7f" at index 1`},
		{"grün", `byte "\xc3" at index 2 of name "grün"`},
		{"a\xff", `byte "\xff" at index 1`},
	} {
		checkName(t, "ValidateName", test.name, transport.ValidateName(test.name), test.want)
	}
}

func TestValidateNameAlphabet(t *testing.T) {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_~.-/{}$"
	for c := range 256 {
		name := string([]byte{byte(c)})
		want := strings.Contains(allowed, name)
		if err := transport.ValidateName(name); (err == nil) != want {
			t.Errorf("ValidateName(%q) = %v, want allowed = %v", name, err, want)
		}
	}
}

func TestValidatePattern(t *testing.T) {
	const tokens = "must be whole tokens"
	for _, test := range []struct{ pattern, want string }{
		{"t", ""},
		{"*", ""},
		{">", ""},
		{"/*", ""},
		{"/>", ""},
		{"a.*.c", ""},
		{"a.*", ""},
		{"a.>", ""},
		{"*.*.>", ""},
		{"/a/*/b/>", ""},
		{"/a.b/*", ""},

		{"", "the pattern is empty"},
		{strings.Repeat(".", transport.MaxName+1), "has 201 bytes"},
		{"a.b*", tokens},
		{"a.*b.c", tokens},
		{"**", tokens},
		{">>", tokens},
		{"*>", tokens},
		{"a.>.b", tokens},
		{">.a", tokens},
		{"/>/", tokens},
		{"/a*", tokens},
		{"a/*", tokens}, // its tokens end at "."
		{"/a.*", tokens},
		{"a ", `byte " " at index 1 of pattern "a "`},
		{"?", `byte "?"`},
	} {
		checkName(t, "ValidatePattern", test.pattern, transport.ValidatePattern(test.pattern), test.want)
	}
}

func checkName(t *testing.T, f, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s(%q) = %v, want nil", f, name, err)
	case want == "":
	case !errors.Is(err, transport.ErrInvalidName):
		t.Errorf("%s(%q) = %v, want an error that wraps ErrInvalidName", f, name, err)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s(%q) = %q, want %q in it", f, name, err, want)
	}
}

func TestMatchName(t *testing.T) {
	for _, test := range []struct {
		pattern string
		yes, no []string
	}{
		{"a", []string{"a"}, []string{"b", "A", "/a", "a.", "a.a", "aa"}},
		{"/a", []string{"/a"}, []string{"a", "/a/", "//a", "/a/b"}},
		{">", []string{"a", "/a", "a.b", "/a/b", "/", "."}, nil},
		{"*", []string{"a", "a/b"}, []string{"/a", "a.b", ".", "/"}},
		{"*.*", []string{"a.b", ".", "a."}, []string{"a", "a.b.c", "/a.b"}},
		{"a.*", []string{"a.b", "a."}, []string{"a", "a.b.c", "b.b"}},
		{"a.>", []string{"a.b", "a.b.c", "a.."}, []string{"a", "b.b", "/a/b"}},
		{"*.b.>", []string{"a.b.c", "a.b.c.d"}, []string{"a.b", "a.c.b"}},
		{"/*", []string{"/a", "/", "/a.b"}, []string{"/a/b", "a"}},
		{"/>", []string{"/a", "/a/b", "/", "//"}, []string{"a", "a/b"}},
		{"/a/*/c", []string{"/a/b/c", "/a//c"}, []string{"/a/c", "/a/b/c/d", "/a/b/d"}},
		{"/a/>", []string{"/a/b", "/a/b/c"}, []string{"/a", "/b/a"}},
	} {
		for _, name := range test.yes {
			if !transport.MatchName(test.pattern, name) {
				t.Errorf("%s does not match %s", test.pattern, name)
			}
		}
		for _, name := range test.no {
			if transport.MatchName(test.pattern, name) {
				t.Errorf("%s matches %s", test.pattern, name)
			}
		}
	}
}

// matches is MatchName in the words of its documentation.
func matches(pattern, name string) bool {
	if pattern == ">" {
		return true
	}
	if strings.HasPrefix(pattern, "/") != strings.HasPrefix(name, "/") {
		return false
	}
	sep := "."
	if strings.HasPrefix(pattern, "/") {
		sep = "/"
	}
	tokens := strings.Split(name, sep)
	for i, token := range strings.Split(pattern, sep) {
		switch {
		case i >= len(tokens):
			return false
		case token == ">":
			return true
		case token != "*" && token != tokens[i]:
			return false
		}
	}
	return len(strings.Split(pattern, sep)) == len(tokens)
}

// checkMatch compares MatchName and a Dispatcher with the definition, for all of the
// patterns on the name.
func checkMatch(t *testing.T, patterns []string, name string) {
	t.Helper()
	var d transport.Dispatcher
	got := make([]int, len(patterns))
	for i, pattern := range patterns {
		remove := d.Add(transport.Interest{Kind: transport.TopicMessage, Name: pattern}, func(transport.Delivery) { got[i]++ })
		defer remove()
	}
	m := &transport.Message{Kind: transport.TopicMessage, Name: name}
	n := d.Dispatch(transport.Delivery{Message: m})
	sum := 0
	for i, pattern := range patterns {
		want := matches(pattern, name)
		if match := transport.MatchName(pattern, name); match != want {
			t.Errorf("MatchName(%q, %q) = %v", pattern, name, match)
		}
		if got[i] > 1 || (got[i] == 1) != want {
			t.Errorf("among %q, the interest in %q got the message %q %d times", patterns, pattern, name, got[i])
		}
		if want {
			sum++
		}
	}
	if n != sum {
		t.Errorf("Dispatch of %q to %q = %d, want %d", name, patterns, n, sum)
	}
	if wants := d.Wants(m); wants != (sum > 0) {
		t.Errorf("Wants of %q = %v among %q", name, wants, patterns)
	}
}

// spell makes a name of bytes, with an alphabet that makes many matches.
func spell(b []byte, alphabet string) string {
	name := make([]byte, len(b))
	for i, c := range b {
		name[i] = alphabet[int(c)%len(alphabet)]
	}
	return string(name)
}

func TestDispatcherMatchesLikeMatchName(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	text := func(alphabet string) string {
		b := make([]byte, 1+random.Uint64()%6)
		random.Read(b)
		return spell(b, alphabet)
	}
	for range 20_000 {
		var patterns []string
		for range 5 {
			if p := text("ab//..*>"); transport.ValidatePattern(p) == nil {
				patterns = append(patterns, p)
			}
		}
		checkMatch(t, patterns, text("ab/."))
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a.*", "/a/>", "a.b")
	f.Add(">", "*", "/a/b")
	f.Fuzz(func(t *testing.T, first, second, name string) {
		if transport.ValidateName(name) != nil {
			name = spell([]byte(name), "ab/.")
		}
		if transport.ValidateName(name) != nil {
			t.Skip()
		}
		var patterns []string
		for _, p := range []string{first, second} {
			if transport.ValidatePattern(p) != nil {
				p = spell([]byte(p), "ab//..*>")
			}
			if transport.ValidatePattern(p) == nil {
				patterns = append(patterns, p)
			}
		}
		checkMatch(t, patterns, name)
	})
}
