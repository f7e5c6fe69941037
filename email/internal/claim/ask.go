package claim

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"time"
)

// Standing is how it stands with a message.
type Standing int

const (
	// Unknown: nobody has claimed it.
	Unknown Standing = iota
	// Mine: the member that asks has it.
	Mine
	// Others: another member has it, or may get it again later.
	Others
	// Settled: it is handled, or a dead letter.
	Settled
)

// Standing returns how it stands with a message for a member.
func (s *State) Standing(key Key, member string) Standing {
	o := s.Open[key]
	switch {
	case o == nil && s.Settled.has(key):
		return Settled
	case o == nil:
		return Unknown
	case o.Member == member:
		return Mine
	}
	return Others
}

// Lost reports whether a member's record, its last one, was refused as far as it concerns a message.
func (s *State) Lost(member string, key Key) bool {
	m := s.Members[member]
	return m != nil && slices.Contains(m.Lost, key)
}

// Applied reports whether a member's record has been applied. A member that has left
// is forgotten.
func (s *State) Applied(member string, number uint64) bool {
	m := s.Members[member]
	return m != nil && m.Number >= number
}

// Free is a message that can be claimed from a time on.
type Free struct {
	Key Key
	UID uint32
	At  int64
}

// Free returns what others have had, or what was given back, with the time from which on it
// can be claimed, the earliest first. What has no place in the inbox is left out.
func (s *State) Free(member string) []Free {
	var free []Free
	for key, o := range s.Open {
		if o.UID == 0 || o.Member == member {
			continue
		}
		at := o.After
		if m := s.Members[o.Member]; m != nil {
			at = max(at, m.Until+1)
		}
		free = append(free, Free{key, o.UID, at})
	}
	slices.SortFunc(free, func(a, b Free) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.UID, b.UID), cmp.Compare(a.Key, b.Key))
	})
	return free
}

// Ahead returns the members that come before this one when a message is to be claimed: for each message
// another one is the first, so that members do not run for the same.
func (s *State) Ahead(key Key, member string) []string {
	var ahead []string
	own := weight(key, member)
	for other := range s.Members {
		if w := weight(key, other); other != member && (w > own || w == own && other < member) {
			ahead = append(ahead, other)
		}
	}
	return ahead
}

// weight is a number that is as good as random for each pair.
func weight(key Key, member string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key)) // never fails
	h.Write([]byte{0})
	h.Write([]byte(member))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// Unread returns the lowest of the UIDs of messages that are not in the log, or the highest possible UID.
func (s *State) Unread(uids map[Key]uint32) uint32 {
	lowest := uint32(math.MaxUint32)
	for key, uid := range uids {
		if o := s.Open[key]; o == nil && !s.Settled.has(key) || o != nil && o.UID == 0 {
			lowest = min(lowest, uid)
		}
	}
	return lowest
}

// Fresh returns the state that the log of a group begins with, that is to get what
// is in the inbox from a UID on.
func Fresh(validity, next uint32) *State { return &State{Validity: validity, Read: next} }

// CheckEvery is how often a member has to see whether the log is still there.
const CheckEvery = time.Minute

// Again returns the state that a new log begins with, if this one's has been lost. What is in the inbox below
// a UID is held back for a while.
func (s *State) Again(below uint32) *State {
	again := *s
	again.UID, again.Below = 0, below
	return &again
}

// OnHold reports whether the message with a UID can't be claimed yet, if nobody has
// claimed it before.
func (s *State) OnHold(uid uint32) bool { return uid < s.Below && s.Holding() }

// Holding reports whether messages are held back because a log has been lost: not all members have spoken since.
func (s *State) Holding() bool { return s.Now < s.Hold && len(s.Silent) > 0 }
