// Package record writes a message down as bytes, exactly, for what keeps messages on disk: an
// outbox, dead letters. It is not for other programs to read.
//
// A record is a version byte, the fields of transport.Message in a fixed order, and a
// checksum. Numbers are varints, and texts have their length in front of them.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/postbus/postbus/transport"
)

// ErrMalformed says that bytes are no record, or a damaged one, or one of a later version of
// this package.
var ErrMalformed = errors.New("malformed record")

const (
	version      = 1
	checksumSize = crc32.Size
)

// checksum is CRC-32C, for which processors have an instruction.
func checksum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

// Bits of the byte behind the version.
const (
	isPerson = 1 << iota
	hasError
	hasSourceTime
	hasReceivedTime
	hasDeadline
	ownID      // ID has the form of our own
	ownReplyID // InReplyTo has
	knownFlags = 1<<iota - 1
)

// Append appends the record of a message to b and returns it. A time loses its time zone,
// and an empty Body, Header or To comes back as nil; the rest comes back as it is.
func Append(b []byte, m *transport.Message) []byte {
	start := len(b)
	b = append(b, version, flags(m), byte(m.Kind))
	b = appendText(b, m.Name)
	b = appendText(b, m.ContentType)
	b = appendText(b, m.Filename)
	b = binary.AppendUvarint(b, uint64(len(m.Header)))
	for _, f := range m.Header {
		b = appendText(appendText(b, f.Name), f.Value)
	}
	b = appendTime(b, m.Info.SourceTime)
	b = appendTime(b, m.Info.ReceivedTime)
	b = append(b, m.Info.PublisherGID[:]...)
	b = binary.AppendUvarint(b, m.Info.Sequence)
	b = append(b, m.Info.ClientGID[:]...)
	b = binary.AppendUvarint(b, m.Info.RequestSequence)
	b = appendID(b, m.ID)
	b = appendID(b, m.InReplyTo)
	b = appendText(b, m.From)
	b = appendText(b, m.ReplyTo)
	b = binary.AppendUvarint(b, uint64(len(m.To)))
	for _, to := range m.To {
		b = appendText(b, to)
	}
	b = appendTime(b, m.Deadline)
	if m.Error != nil {
		b = binary.AppendVarint(b, int64(m.Error.Code))
		b = appendText(b, m.Error.Text)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Body)))
	b = append(b, m.Body...)
	return binary.LittleEndian.AppendUint32(b, checksum(b[start:]))
}

func flags(m *transport.Message) byte {
	_, _, own := m.ID.Origin()
	_, _, ownReply := m.InReplyTo.Origin()
	return bit(isPerson, m.Person) | bit(hasError, m.Error != nil) |
		bit(hasSourceTime, !m.Info.SourceTime.IsZero()) | bit(hasReceivedTime, !m.Info.ReceivedTime.IsZero()) |
		bit(hasDeadline, !m.Deadline.IsZero()) | bit(ownID, own) | bit(ownReplyID, ownReply)
}

func bit(flag byte, set bool) byte {
	if set {
		return flag
	}
	return 0
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return b // and no flag
	}
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

// appendID appends an ID of ours in parts, since its text has twice the length.
func appendID(b []byte, id transport.ID) []byte {
	gid, sequence, own := id.Origin()
	if !own {
		return appendText(b, id.String())
	}
	_, host, _ := strings.Cut(id.String(), "@")
	b = append(b, gid[:]...)
	return appendText(binary.AppendUvarint(b, sequence), host)
}

// Decode returns the message of a record. It shares no memory with data. Errors wrap ErrMalformed.
func Decode(data []byte) (*transport.Message, error) {
	m, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

func decode(data []byte) (*transport.Message, error) {
	if len(data) < 3+checksumSize {
		return nil, fmt.Errorf("%d bytes are no record", len(data))
	}
	if data[0] != version {
		return nil, fmt.Errorf("its version is %d, %d is known", data[0], version)
	}
	end := len(data) - checksumSize
	if binary.LittleEndian.Uint32(data[end:]) != checksum(data[:end]) {
		return nil, errors.New("its checksum is wrong")
	}
	flags := data[1]
	if flags&^knownFlags != 0 {
		return nil, fmt.Errorf("it has the unknown flags %#x", flags)
	}
	r := reader{data: data[3:end]}
	m := &transport.Message{Kind: transport.Kind(data[2]), Person: flags&isPerson != 0}
	m.Name, m.ContentType, m.Filename = r.text(), r.text(), r.text()
	if n := r.count(2); n > 0 {
		m.Header = make(transport.Header, n)
		for i := range m.Header {
			m.Header[i] = transport.Field{Name: r.text(), Value: r.text()}
		}
	}
	m.Info.SourceTime = r.time(flags&hasSourceTime != 0)
	m.Info.ReceivedTime = r.time(flags&hasReceivedTime != 0)
	m.Info.PublisherGID, m.Info.Sequence = r.gid(), r.uvarint()
	m.Info.ClientGID, m.Info.RequestSequence = r.gid(), r.uvarint()
	m.ID, m.InReplyTo = r.id(flags&ownID != 0), r.id(flags&ownReplyID != 0)
	m.From, m.ReplyTo = r.text(), r.text()
	if n := r.count(1); n > 0 {
		m.To = make([]string, n)
		for i := range m.To {
			m.To[i] = r.text()
		}
	}
	m.Deadline = r.time(flags&hasDeadline != 0)
	if flags&hasError != 0 {
		m.Error = &transport.RemoteError{Code: int(r.varint()), Text: r.text()}
	}
	m.Body = r.body()
	if len(r.data) > 0 && r.err == nil {
		r.err = fmt.Errorf("%d bytes are left over", len(r.data))
	}
	return m, r.err
}
