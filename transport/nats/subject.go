package nats

import (
	"strings"

	"github.com/postbus/postbus/transport"
)

// Subject returns the subject of a valid name or name pattern. Different names have different
// subjects, and a pattern's matches those of the names that it stands for (and some that are not;
// see Name).
//
// A name that does not begin with "/" is its own subject, but an empty token becomes "%", and a "$" at the
// beginning, which NATS keeps for itself, "%24". A name that begins with "/" has "/" as its first token, and
// then what is between the slashes, where "." becomes "%2E" and nothing becomes "%". No name has a "%".
func Subject(name string) string {
	if !strings.HasPrefix(name, "/") {
		if !strings.HasPrefix(name, "$") && !hasEmptyToken(name) {
			return name
		}
		return escapeDotted(name)
	}
	var b strings.Builder
	b.Grow(len(name) + 8)
	b.WriteByte('/')
	for token := range strings.SplitSeq(name[1:], "/") {
		b.WriteByte('.')
		if token == "" {
			b.WriteString(emptyToken)
			continue
		}
		before, rest, more := strings.Cut(token, ".")
		b.WriteString(before)
		for more {
			b.WriteString(escapedDot)
			before, rest, more = strings.Cut(rest, ".")
			b.WriteString(before)
		}
	}
	return b.String()
}

const (
	emptyToken    = "%"
	escapedDot    = "%2E"
	escapedDollar = "%24"
)

// hasEmptyToken reports whether a subject would have a token of no bytes.
func hasEmptyToken(name string) bool {
	return name == "" || name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, "..")
}

// escapeDotted is Subject for a name without "/" at its beginning that is not its own subject.
func escapeDotted(name string) string {
	tokens := strings.Split(name, ".")
	if strings.HasPrefix(name, "$") {
		tokens[0] = escapedDollar + tokens[0][1:]
	}
	for i, token := range tokens {
		if token == "" {
			tokens[i] = emptyToken
		}
	}
	return strings.Join(tokens, ".")
}

// Name returns the name whose subject this is. It returns false for a subject that no name has: those of
// NATS itself, which begin with "$", those with a byte that names do not have, and those that are
// too long.
func Name(subject string) (name string, ok bool) {
	name = subject
	switch {
	case strings.HasPrefix(subject, "/"):
		tokens := strings.Split(subject, ".")
		tokens[0] = ""
		for i, token := range tokens {
			tokens[i] = strings.ReplaceAll(token, escapedDot, ".")
			if token == emptyToken {
				tokens[i] = ""
			}
		}
		name = strings.Join(tokens, "/")
	case strings.Contains(subject, "%"):
		tokens := strings.Split(subject, ".")
		if rest, ok := strings.CutPrefix(tokens[0], escapedDollar); ok {
			tokens[0] = "$" + rest
		}
		for i, token := range tokens {
			if token == emptyToken {
				tokens[i] = ""
			}
		}
		name = strings.Join(tokens, ".")
	}
	// What could be read in more than one way is read as Subject writes it.
	if transport.ValidateName(name) != nil || Subject(name) != subject {
		return "", false
	}
	return name, true
}
