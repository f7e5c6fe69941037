package order

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/postbus/postbus/transport"
)

// The bounds of a Memory. Runs are those of all publishers together.
const (
	maxPublishers = 1 << 14
	maxTotalRuns  = 1 << 17
	maxIDs        = 1 << 14
)

// Memory knows which messages have been handled. It is bounded: it forgets first the publisher that has not
// been heard of for longest, and the oldest Message-ID. It is not safe for concurrent
// use. The zero Memory is empty.
type Memory struct {
	publishers lru[transport.GID, *publisher]
	ids        lru[hash, uint64] // the value is the clock when it was added
	runs       int
	clock      uint64 // counts calls of Add that were news
	// forgotten is the latest source time of a message that is forgotten.
	forgotten time.Time
	gone      [][]byte // names of the entries that are there no more
	tracking  bool
}

type publisher struct {
	window Window
	latest time.Time // the latest source time
	used   uint64    // clock of its last message
}

// Has reports whether the message has been handled. Of the zero Key it never knows.
func (m *Memory) Has(k Key) bool {
	if k.Sequence != 0 {
		p, ok := m.publishers.get(k.Publisher)
		return ok && p.window.Has(k.Sequence)
	}
	if k.ID.IsZero() {
		return false
	}
	_, ok := m.ids.get(hashOf(k.ID))
	return ok
}

// Verdict is what is known of a message that is found again, with others, in a place where all
// that has been handled may still be: a mailbox.
type Verdict uint8

const (
	// Unknown: nothing is known of it, nor of its publisher.
	Unknown Verdict = iota
	// Handled: it has been handled.
	Handled
	// Forgotten: it may have been handled, for it is not later than what had to be forgotten.
	Forgotten
	// Missing: its number is above one of the same publisher that has been handled, but
	// it has not been.
	Missing
)

// Judge says what is known of a message.
func (m *Memory) Judge(message *transport.Message) Verdict {
	k := KeyOf(message)
	if m.Has(k) {
		return Handled
	}
	if k.Sequence != 0 {
		if p, ok := m.publishers.get(k.Publisher); ok {
			if p.window.Before(k.Sequence) > 0 {
				return Missing
			}
			return Unknown
		}
	}
	if !m.forgotten.IsZero() && !SourceTime(message).After(m.forgotten) {
		return Forgotten
	}
	return Unknown
}

// Window returns the numbers of a publisher that have been handled, or nil if there are
// none. It is valid until the next call of Add, and not to be changed.
func (m *Memory) Window(gid transport.GID) *Window {
	if p, ok := m.publishers.get(gid); ok {
		return &p.window
	}
	return nil
}

// Add notes that the message has been handled, and reports whether that was not known. The
// zero Key is not noted.
func (m *Memory) Add(k Key, source time.Time) bool {
	switch {
	case k.Sequence != 0:
		return m.addNumber(k.Publisher, k.Sequence, source)
	case !k.ID.IsZero():
		return m.addID(hashOf(k.ID))
	}
	return false
}

func (m *Memory) addNumber(gid transport.GID, n uint64, source time.Time) bool {
	p, known := m.publishers.get(gid)
	if !known {
		p = new(publisher)
		m.publishers.put(gid, p)
	}
	before := len(p.window.runs)
	if !p.window.Add(n) {
		return false
	}
	m.clock++
	m.runs += len(p.window.runs) - before
	p.used = m.clock
	if source.After(p.latest) {
		p.latest = source
	}
	m.publishers.use(gid)
	m.shrink()
	return true
}

func (m *Memory) addID(id hash) bool {
	if _, known := m.ids.get(id); known {
		return false
	}
	m.clock++
	m.ids.put(id, m.clock)
	m.shrink()
	return true
}

// shrink forgets what is beyond the bounds.
func (m *Memory) shrink() {
	for m.publishers.len() > maxPublishers || m.runs > maxTotalRuns && m.publishers.len() > 1 {
		gid, p := m.publishers.oldest()
		m.publishers.delete(gid)
		m.runs -= len(p.window.runs)
		if p.latest.After(m.forgotten) {
			m.forgotten = p.latest
		}
		m.lose(publisherName(gid))
	}
	for m.ids.len() > maxIDs {
		id, _ := m.ids.oldest()
		m.ids.delete(id)
		m.lose(idName(id))
	}
}

func (m *Memory) lose(name []byte) {
	if m.tracking {
		m.gone = append(m.gone, name)
	}
}

// Clone returns a memory of its own that knows the same.
func (m *Memory) Clone() *Memory {
	c := &Memory{runs: m.runs, clock: m.clock, forgotten: m.forgotten}
	for gid, p := range m.publishers.all {
		c.publishers.put(gid, &publisher{p.window.clone(), p.latest, p.used})
	}
	for id, clock := range m.ids.all {
		c.ids.put(id, clock)
	}
	return c
}

// A Memory is stored in entries, so that what one more message changes is small. The name
// of an entry begins with its kind.
const (
	publisherEntry = 'p' // and the GID; clock, latest source time, window
	idEntry        = 'i' // and the hash of the Message-ID; clock
	forgottenName  = "f" // source time
)

func publisherName(gid transport.GID) []byte { return append([]byte{publisherEntry}, gid[:]...) }
func idName(id hash) []byte                  { return append([]byte{idEntry}, id[:]...) }

// Entry returns the name and the value of the entry that knows whether the message has
// been handled. The value is nil if nothing is known, and so is the name for the zero Key.
func (m *Memory) Entry(k Key) (name, value []byte) {
	switch {
	case k.Sequence != 0:
		name = publisherName(k.Publisher)
		if p, ok := m.publishers.get(k.Publisher); ok {
			value = p.entry()
		}
	case !k.ID.IsZero():
		id := hashOf(k.ID)
		name = idName(id)
		if clock, ok := m.ids.get(id); ok {
			value = binary.AppendUvarint(nil, clock)
		}
	}
	return name, value
}

func (p *publisher) entry() []byte {
	b := binary.AppendUvarint(nil, p.used)
	b = appendTime(b, p.latest)
	b, _ = p.window.AppendBinary(b) // it never fails
	return b
}

// Forget returns the names of the entries that are there no more since the last call, and
// the entry that says so in their stead.
func (m *Memory) Forget() (gone [][]byte, name, value []byte) {
	for _, name := range m.gone {
		var back bool
		if name[0] == publisherEntry {
			_, back = m.publishers.get(transport.GID(name[1:]))
		} else {
			_, back = m.ids.get(hash(name[1:]))
		}
		if !back {
			gone = append(gone, name)
		}
	}
	m.gone = nil
	return gone, []byte(forgottenName), appendTime(nil, m.forgotten)
}

// Entries yields all entries.
func (m *Memory) Entries(yield func(name, value []byte) bool) {
	for gid, p := range m.publishers.all {
		if !yield(publisherName(gid), p.entry()) {
			return
		}
	}
	for id, clock := range m.ids.all {
		if !yield(idName(id), binary.AppendUvarint(nil, clock)) {
			return
		}
	}
	if !m.forgotten.IsZero() {
		yield([]byte(forgottenName), appendTime(nil, m.forgotten))
	}
}

var errEntry = errors.New("not an entry of a memory of messages")

// Load returns a Memory that has these entries, in whatever order. From then on it keeps
// track of those that it forgets, for Forget.
func Load(entries iter.Seq2[[]byte, []byte]) (*Memory, error) {
	m := &Memory{tracking: true}
	type known[K any] struct {
		key K
		p   *publisher
	}
	var publishers []known[transport.GID]
	var ids []known[hash]
	for name, value := range entries {
		p := new(publisher)
		rest, err := value, error(nil)
		switch {
		case string(name) == forgottenName:
			m.forgotten, rest, err = cutTime(rest)
		case len(name) == 17 && name[0] == idEntry:
			p.used, rest, err = cutNumber(rest)
			ids = append(ids, known[hash]{hash(name[1:]), p})
		case len(name) == 17 && name[0] == publisherEntry:
			p.used, rest, err = cutNumber(rest)
			if err == nil {
				p.latest, rest, err = cutTime(rest)
			}
			if err == nil {
				rest, err = nil, p.window.UnmarshalBinary(rest)
			}
			publishers = append(publishers, known[transport.GID]{transport.GID(name[1:]), p})
		default:
			err = errEntry
		}
		if err != nil || len(rest) > 0 {
			return nil, fmt.Errorf("%w: %.40q", errEntry, name)
		}
		m.clock = max(m.clock, p.used)
	}
	slices.SortFunc(publishers, func(a, b known[transport.GID]) int { return cmp.Compare(a.p.used, b.p.used) })
	slices.SortFunc(ids, func(a, b known[hash]) int { return cmp.Compare(a.p.used, b.p.used) })
	for _, k := range publishers {
		m.publishers.put(k.key, k.p)
		m.runs += len(k.p.window.runs)
	}
	for _, k := range ids {
		m.ids.put(k.key, k.p.used)
	}
	if m.publishers.len() < len(publishers) || m.ids.len() < len(ids) {
		return nil, fmt.Errorf("%w: one is there twice", errEntry)
	}
	m.shrink()
	return m, nil
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	b = append(b, 1)
	return binary.AppendVarint(b, t.UnixNano())
}

func cutNumber(b []byte) (n uint64, rest []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, errEntry
	}
	return n, b[size:], nil
}

func cutTime(b []byte) (t time.Time, rest []byte, err error) {
	switch {
	case len(b) == 0 || b[0] > 1:
		return t, nil, errEntry
	case b[0] == 0:
		return t, b[1:], nil
	}
	n, size := binary.Varint(b[1:])
	if size <= 0 {
		return t, nil, errEntry
	}
	return time.Unix(0, n), b[1+size:], nil
}
