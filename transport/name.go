package transport

import (
	"fmt"
	"strings"
)

// MaxName is the length of the longest topic or service name, in bytes.
const MaxName = 200

// ValidateName checks the name of a topic or service: 1 to MaxName bytes, each a
// letter or digit of ASCII or one of "_~.-/{}$". Its errors wrap ErrInvalidName and
// show the offending byte.
//
// The alphabet keeps a name out of trouble wherever it travels: it can neither break
// a header line nor look like an encoded word (RFC 2047).
func ValidateName(name string) error { return validate(name, false) }

// ValidatePattern checks a name pattern: a name in which a token may be "*", which
// stands for any one token, and the last may be ">", which stands for one or more.
// Tokens end at "/" in names that begin with "/", and at "." in all others. The
// pattern ">" alone stands for every name. Its errors wrap ErrInvalidName.
func ValidatePattern(pattern string) error { return validate(pattern, true) }

func validate(name string, wildcards bool) error {
	what := "name"
	if wildcards {
		what = "pattern"
	}
	if name == "" {
		return fmt.Errorf("%w: the %s is empty", ErrInvalidName, what)
	}
	if len(name) > MaxName {
		return fmt.Errorf("%w: the %s %.40q… has %d bytes, at most %d are allowed", ErrInvalidName, what, name, len(name), MaxName)
	}
	for i := range len(name) {
		if c := name[i]; !nameBytes[c] && !(wildcards && (c == '*' || c == '>')) {
			return fmt.Errorf("%w: byte %q at index %d of %s %q; allowed are A-Z a-z 0-9 _ ~ . - / { } $", ErrInvalidName, name[i:i+1], i, what, name)
		}
	}
	if !wildcards {
		return nil
	}
	for rest, more := name, true; more; {
		var token string
		token, rest, more = cutToken(rest, separator(name))
		if strings.ContainsAny(token, "*>") && (len(token) > 1 || token == ">" && more) {
			return fmt.Errorf("%w: in pattern %q, * and > must be whole tokens and > the last", ErrInvalidName, name)
		}
	}
	return nil
}

// nameBytes are the bytes of names. A table, because every name is checked with every message.
var nameBytes = func() (table [256]bool) {
	for c := range table {
		table[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	}
	for _, c := range []byte("_~.-/{}$") {
		table[c] = true
	}
	return table
}()

// MatchName reports whether a valid pattern stands for a valid name.
func MatchName(pattern, name string) bool {
	if pattern == ">" {
		return true
	}
	sep := separator(pattern)
	if sep != separator(name) {
		return false
	}
	for morePattern, moreName := true, true; ; {
		var p, n string
		p, pattern, morePattern = cutToken(pattern, sep)
		n, name, moreName = cutToken(name, sep)
		if p == ">" {
			return true
		}
		if p != n && p != "*" || morePattern != moreName {
			return false
		}
		if !moreName {
			return true
		}
	}
}

// isPattern reports whether a valid pattern has wildcards.
func isPattern(s string) bool { return strings.ContainsAny(s, "*>") }

// separator returns the byte at which the tokens of a name or pattern end.
func separator(name string) byte {
	if strings.HasPrefix(name, "/") {
		return '/'
	}
	return '.'
}

// cutToken returns the first token of name, what follows its end, and whether it
// had an end, that is, whether another token follows. The first token of a name
// that begins with "/" is empty, as in paths.
func cutToken(name string, sep byte) (token, rest string, more bool) {
	if i := strings.IndexByte(name, sep); i >= 0 {
		return name[:i], name[i+1:], true
	}
	return name, "", false
}
