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
	number, gidText, ok2 := strings.Cut(left, ".")
	if !ok || !ok2 || host == "" {
		return ID{rest: s}
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return ID{rest: s}
	}
	gid, err := ParseGID(gidText)
	if err != nil || len(gidText) != hex.EncodedLen(len(gid)) || gid.IsZero() {
		return ID{rest: s}
	}
	// Only the canonical form is ours, so that String gives back what was read.
	if len(number) > 1 && number[0] == '0' || hasUpperCase(gidText) {
		return ID{rest: s}
	}
	return NewID(gid, seq, host)
}

func hasUpperCase(s string) bool {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}

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
