package bridge

import (
	"slices"
	"strings"

	"github.com/postbus/postbus/transport"
)

// HeaderWay is the header field in which bridges note where a message has been: the names of the sides that it has
// left, the first one first, with commas between.
const HeaderWay = "Bridge-Way"

const (
	// MaxHops is the longest way of a message: so many bridges it can cross.
	MaxHops = 16
	// MaxSideName is the length of the longest name of a side, in bytes.
	MaxSideName = 32
)

// ValidSideName reports whether s can be the name of a side: 1 to MaxSideName of A-Z a-z 0-9 _ - and dots.
func ValidSideName(s string) bool {
	return s != "" && len(s) <= MaxSideName && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.')
	})
}

// wayOf returns where a message has been. It returns false if what the message says is too long, or no way: then
// it must not cross.
func wayOf(m *transport.Message) (way []string, ok bool) {
	for _, value := range m.Header.Values(HeaderWay) {
		for name := range strings.SplitSeq(value, ",") {
			if len(way) == MaxHops || !ValidSideName(name) {
				return nil, false
			}
			way = append(way, name)
		}
	}
	return way, true
}

// mayCross reports whether a message that has come to side from may cross to side to, and its way there.
func mayCross(m *transport.Message, from, to string) (way []string, ok bool) {
	way, ok = wayOf(m)
	if !ok || len(way) == MaxHops || slices.Contains(way, to) {
		return nil, false
	}
	return append(way, from), true
}

// withWay returns header fields with that way instead of another.
func withWay(h transport.Header, way []string) transport.Header {
	fields := make(transport.Header, 0, len(h)+1)
	for _, f := range h {
		if !strings.EqualFold(f.Name, HeaderWay) {
			fields = append(fields, f)
		}
	}
	fields.Add(HeaderWay, strings.Join(way, ","))
	return fields
}
