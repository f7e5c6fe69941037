package transport

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
)

// GID is the globally unique identifier of an entity: a publisher, a subscription,
// a client or a server. It is comparable; the zero GID means "none" or "unknown".
//
// Its text form is 32 lower-case hexadecimal digits. Identifiers of rmw_email are
// decimal uint32 numbers; they are kept in the last four bytes, the others zero,
// and keep their decimal text form.
type GID [16]byte

// NewGID returns a random GID.
func NewGID() GID {
	var g GID
	rand.Read(g[:]) // never fails (crypto/rand)
	return g
}

// ParseGID reads the text form of a GID: 32 hexadecimal digits in either case, or
// a decimal uint32.
func ParseGID(s string) (GID, error) {
	var g GID
	if len(s) == 2*len(g) {
		if _, err := hex.Decode(g[:], []byte(s)); err != nil {
			return GID{}, fmt.Errorf("GID %q: %w", s, err)
		}
		return g, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return GID{}, fmt.Errorf("GID %.64q is neither 32 hexadecimal digits nor a decimal uint32", s)
	}
	binary.BigEndian.PutUint32(g[12:], uint32(n))
	return g, nil
}

// IsZero reports whether g is the zero GID.
func (g GID) IsZero() bool { return g == GID{} }

// Short returns the identifier of 32 bits that stands for g where there is no room for
// more (rmw_email): the last four bytes of g, or 1 if those are zero. It is not unique;
// what matters must be told apart by other means. The short form of a short identifier,
// and of the zero GID, is itself.
func (g GID) Short() GID {
	short := GID{12: g[12], 13: g[13], 14: g[14], 15: g[15]}
	if short.IsZero() && !g.IsZero() {
		short[15] = 1
	}
	return short
}

// String returns the text form, which ParseGID reads.
func (g GID) String() string {
	var room [32]byte
	b, _ := g.AppendText(room[:0])
	return string(b)
}

// AppendText appends the text form. It implements [encoding.TextAppender], and never fails.
func (g GID) AppendText(b []byte) ([]byte, error) {
	if [12]byte(g[:12]) == ([12]byte{}) {
		return strconv.AppendUint(b, uint64(binary.BigEndian.Uint32(g[12:])), 10), nil
	}
	return hex.AppendEncode(b, g[:]), nil
}
