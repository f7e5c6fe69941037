package outbox

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/postbus/postbus/internal/record"
	"github.com/postbus/postbus/transport"
)

// Entry is a message in an outbox.
type Entry struct {
	// Number identifies the entry in its outbox. Entries accepted later have higher ones.
	Number uint64
	// Message is the message, or nil if what is in the file has been damaged.
	Message *transport.Message
	// Size is how many bytes of Options.MaxBytes it takes.
	Size int
	// Accepted is when it came into the outbox.
	Accepted time.Time
	// Dead is set if the message was refused for good, and says why.
	Dead *Death

	lane transport.GID
}

// Death says why a message is not tried any more.
type Death struct {
	// Time is when it was given up.
	Time time.Time
	// Reason is the error of the last attempt.
	Reason string
	// Code is the next hop's reply code, or 0 (see transport.SendError).
	Code int
	// Attempts is how often it was tried since the outbox was last opened, or 0 if it was not refused,
	// but grew too old.
	Attempts int
}

// What stands in front of the record of a waiting message: a version, when it was accepted, its deadline
// (ns since the epoch, 0 for none) and its lane, so that the index can be made without the rest.
const (
	entryVersion = 1
	headSize     = 1 + 8 + 8 + 16
	// maxReason is the length of the longest reason that is kept, in bytes.
	maxReason = transport.MaxErrorText
)

// head is what the index keeps of an entry, and its lane.
type head struct {
	accepted, deadline int64
	lane               transport.GID
}

// laneOf returns what a message must not overtake others of: the messages of its publisher or,
// for answers, those to its client.
func laneOf(m *transport.Message) transport.GID {
	if (m.Kind == transport.Response || m.Kind == transport.ErrorResponse) && !m.Info.ClientGID.IsZero() {
		return m.Info.ClientGID
	}
	if !m.Info.PublisherGID.IsZero() {
		return m.Info.PublisherGID
	}
	gid, _, _ := m.ID.Origin()
	return gid
}

// encode returns a message as it is kept while it waits.
func encode(m *transport.Message, now time.Time) ([]byte, head) {
	h := head{accepted: now.UnixNano(), lane: laneOf(m)}
	if !m.Deadline.IsZero() {
		h.deadline = nanoseconds(m.Deadline)
	}
	b := make([]byte, 0, headSize+len(m.Body)+512)
	b = append(b, entryVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(h.accepted))
	b = binary.BigEndian.AppendUint64(b, uint64(h.deadline))
	b = append(b, h.lane[:]...)
	return record.Append(b, m), h
}

// nanoseconds returns a time in nanoseconds since the epoch, or the closest there is that does not mean
// none.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.Unix() > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	case t.Unix() < math.MinInt64/int64(time.Second)+1:
		return math.MinInt64
	case t.UnixNano() == 0:
		return 1
	}
	return t.UnixNano()
}

// decodeHead reads what encode has put in front. Of what is damaged it returns zeros: it fails
// when it is to be sent.
func decodeHead(value []byte) (h head) {
	if len(value) < headSize || value[0] != entryVersion {
		return head{}
	}
	h.accepted = int64(binary.BigEndian.Uint64(value[1:]))
	h.deadline = int64(binary.BigEndian.Uint64(value[9:]))
	copy(h.lane[:], value[17:])
	return h
}

func decodeMessage(value []byte) (*transport.Message, error) {
	if len(value) < headSize || value[0] != entryVersion {
		return nil, fmt.Errorf("%w: an entry of %d bytes", record.ErrMalformed, len(value))
	}
	return record.Decode(value[headSize:])
}

// encodeDeath returns a dead letter: what it died of in front of what it was as it waited.
func encodeDeath(d Death, waiting []byte) []byte {
	reason := shorten(d.Reason)
	b := make([]byte, 0, 32+len(reason)+len(waiting))
	b = append(b, entryVersion)
	b = binary.AppendVarint(b, nanoseconds(d.Time))
	b = binary.AppendVarint(b, int64(d.Code))
	b = binary.AppendUvarint(b, uint64(d.Attempts))
	b = binary.AppendUvarint(b, uint64(len(reason)))
	b = append(b, reason...)
	return append(b, waiting...)
}

func shorten(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// decodeDeath reads a dead letter and returns what it was as it waited.
func decodeDeath(value []byte) (d Death, waiting []byte, err error) {
	malformed := fmt.Errorf("%w: a dead letter of %d bytes", record.ErrMalformed, len(value))
	if len(value) == 0 || value[0] != entryVersion {
		return Death{}, nil, malformed
	}
	rest := value[1:]
	signed := func() (v int64) {
		v, n := binary.Varint(rest)
		rest = rest[max(n, 0):]
		return v
	}
	unsigned := func() (v uint64) {
		v, n := binary.Uvarint(rest)
		rest = rest[max(n, 0):]
		return v
	}
	d.Time, d.Code, d.Attempts = time.Unix(0, signed()), int(signed()), int(unsigned())
	n := unsigned()
	if n > maxReason || n > uint64(len(rest)) {
		return Death{}, nil, malformed
	}
	d.Reason, waiting = string(rest[:n]), rest[n:]
	return d, waiting, nil
}
