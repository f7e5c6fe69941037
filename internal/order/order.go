// Package order puts messages right that a mail server, or any other carrier that promises no
// more than at-least-once, has repeated or shuffled.
//
// A [Window] knows which numbers of one publisher have been handled, a [Memory] which
// messages of many. A [Sequencer] puts the messages of one interest into each publisher's
// order. All of them are bounded, whatever comes.
package order

import (
	"crypto/sha256"
	"time"

	"github.com/postbus/postbus/transport"
)

// Key is what a message is recognised by when it comes again: its publisher and number or,
// if it has no number, its Message-ID. The zero Key stands for messages that have neither.
type Key struct {
	// Publisher and Sequence are both set, or neither.
	Publisher transport.GID
	Sequence  uint64
	// ID is set if they are not.
	ID transport.ID
}

// KeyOf returns the key of a message. The identifiers of rmw_email have 32 bits, which is
// not enough to tell publishers apart for ever: those messages go by their Message-ID.
func KeyOf(m *transport.Message) Key {
	gid := m.Info.PublisherGID
	if m.Info.Sequence != 0 && !gid.IsZero() && (gid != gid.Short() || m.ID.IsZero()) {
		return Key{Publisher: gid, Sequence: m.Info.Sequence}
	}
	return Key{ID: m.ID}
}

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k == Key{} }

// SourceTime returns when a message was published, by its sender's clock, but not later than it was
// received: clocks can be wrong, and what a Memory concludes from one must not be.
func SourceTime(m *transport.Message) time.Time {
	if r := m.Info.ReceivedTime; !r.IsZero() && r.Before(m.Info.SourceTime) {
		return r
	}
	return m.Info.SourceTime
}

// hash is what a Memory keeps of a Message-ID: it has a fixed size.
type hash [16]byte

func hashOf(id transport.ID) hash {
	sum := sha256.Sum256([]byte(id.String()))
	return hash(sum[:16])
}
