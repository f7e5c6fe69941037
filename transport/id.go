package transport

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// ID is a Message-ID (RFC 5322 section 3.6.4) without its angle brackets. It is
// comparable; the zero ID means "none".
//
// The IDs of postbus are made of the sending entity's GID, the message's sequence
// number and a host: "sequence.gid@host". So an ID is fixed before the first try
// to send, is the same in every retry, and an answer that names it (In-Reply-To)
// leads back to the client and the call, even when a person wrote the answer. The GID
// is always written in hexadecimal here: mail servers make IDs that look like a decimal
// one. IDs of other origin are kept as they are.
type ID struct {
	gid GID
	seq uint64
	// rest is the host of an ID of ours (gid is not zero), or a whole foreign ID.
	rest string
}

// NewID returns the ID of message number seq of the entity gid, sent from host.
// gid must not be zero; host must be fit for the right side of a Message-ID, such
// as a domain name.
func NewID(gid GID, seq uint64, host string) ID {
	return ID{gid: gid, seq: seq, rest: host}
}

// ParseID reads a Message-ID, with or without angle brackets. Any text is
// accepted: what does not have the form of our own IDs is foreign.
func ParseID(s string) ID {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		s = s[1 : len(s)-1]
	}
	left, host, ok := strings.Cut(s, "@")
	dot := len(left) - 1 - hex.EncodedLen(len(GID{}))
	if !ok || host == "" || dot < 1 || left[dot] != '.' {
		return ID{rest: s}
	}
	// Only the canonical form is ours, so that String gives back what was read.
	seq, err := strconv.ParseUint(left[:dot], 10, 64)
	gid, ok := lowerHex(left[dot+1:])
	if err != nil || !ok || gid.IsZero() || dot > 1 && left[0] == '0' {
		return ID{rest: s}
	}
	return NewID(gid, seq, host)
}

// lowerHex reads 32 hexadecimal digits in lower case.
func lowerHex(s string) (g GID, ok bool) {
	for i := range g {
		high, low := lowerDigits[s[2*i]], lowerDigits[s[2*i+1]]
		if high|low > 0xf {
			return GID{}, false
		}
		g[i] = high<<4 | low
	}
	return g, true
}

// lowerDigits are the values of the hexadecimal digits; what is none has 0xff.
var lowerDigits = func() (values [256]byte) {
	for c := range values {
		values[c] = 0xff
	}
	for value, c := range []byte("0123456789abcdef") {
		values[c] = byte(value)
	}
	return values
}()

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id.gid.IsZero() && id.rest == "" }

// Origin returns the GID of the sending entity and its sequence number, if id has
// the form of our own IDs.
func (id ID) Origin() (gid GID, seq uint64, ok bool) {
	return id.gid, id.seq, !id.gid.IsZero()
}

// String returns the ID without angle brackets, as ParseID reads it.
func (id ID) String() string {
	if id.gid.IsZero() {
		return id.rest
	}
	var room [128]byte
	b, _ := id.AppendText(room[:0])
	return string(b)
}

// AppendText appends what String returns. It implements [encoding.TextAppender], and never fails.
func (id ID) AppendText(b []byte) ([]byte, error) {
	if id.gid.IsZero() {
		return append(b, id.rest...), nil
	}
	b = strconv.AppendUint(b, id.seq, 10)
	b = append(b, '.')
	b = hex.AppendEncode(b, id.gid[:])
	b = append(b, '@')
	return append(b, id.rest...), nil
}
