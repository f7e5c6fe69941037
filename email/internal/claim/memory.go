package claim

import (
	"errors"
	"slices"
)

// The bounds of what is remembered of settled messages.
const (
	// maxPublishers and maxRanges bound the publishers and, for all together, the gaps
	// between their numbers; the publishers that have been silent for longest are forgotten first.
	maxPublishers, maxRanges = 1 << 10, 1 << 14
	// maxGaps bounds them for one publisher: its oldest gap is closed. It is more than there can be
	// because of messages that are still being handled.
	maxGaps = 1 << 13
	// maxOthers is how many messages without a number are remembered, the newest ones.
	maxOthers = 1 << 12
)

// Memory is which messages have been settled, bounded, in a form that is part of checkpoints: small, and
// readable for people. One message may take longer than thousands of later ones of the same publisher.
type Memory struct {
	// Publishers are the settled numbers of each, as ranges in ascending order: first, last, first, last.
	Publishers map[string]*Numbers `json:"publishers,omitempty"`
	// Others are the keys of messages without a number, the oldest first.
	Others []Key `json:"others,omitempty"`

	ranges int
	others map[Key]struct{}
}

// Numbers are those of one publisher that have been settled.
type Numbers struct {
	Ranges []uint64 `json:"ranges"`
	// Used is the record that settled the last one.
	Used uint32 `json:"used"`
}

// has reports whether a message has been settled.
func (m *Memory) has(key Key) bool {
	publisher, number, ok := key.publisher()
	if !ok {
		_, known := m.others[key]
		return known
	}
	n := m.Publishers[publisher]
	if n == nil {
		return false
	}
	_, within := n.find(number)
	return within
}

// find returns the index in Ranges of the first end that is not below a number, and whether
// the number is within a range.
func (n *Numbers) find(number uint64) (i int, within bool) {
	i, exact := slices.BinarySearch(n.Ranges, number)
	return i, exact || i%2 == 1
}

// add notes that a message has been settled, by the record uid.
func (m *Memory) add(key Key, uid uint32) {
	publisher, number, ok := key.publisher()
	if !ok {
		m.addOther(key)
		return
	}
	n := m.Publishers[publisher]
	if n == nil {
		if m.Publishers == nil {
			m.Publishers = make(map[string]*Numbers)
		}
		n = new(Numbers)
		m.Publishers[publisher] = n
	}
	before := len(n.Ranges)
	n.Used = uid
	n.add(number)
	m.ranges += (len(n.Ranges) - before) / 2
	for len(m.Publishers) > 1 && (len(m.Publishers) > maxPublishers || m.ranges > maxRanges) {
		m.evict()
	}
}

// add notes a number.
func (n *Numbers) add(number uint64) {
	i, within := n.find(number)
	if within {
		return
	}
	joinsLeft := i > 0 && n.Ranges[i-1] == number-1
	joinsRight := i < len(n.Ranges) && n.Ranges[i] == number+1
	switch {
	case joinsLeft && joinsRight:
		n.Ranges = slices.Delete(n.Ranges, i-1, i+1)
	case joinsLeft:
		n.Ranges[i-1] = number
	case joinsRight:
		n.Ranges[i] = number
	default:
		n.Ranges = slices.Insert(n.Ranges, i, number, number)
	}
	if len(n.Ranges) > 2*maxGaps {
		n.Ranges = slices.Delete(n.Ranges, 1, 3)
	}
}

// evict forgets the publisher that has been silent for longest.
func (m *Memory) evict() {
	oldest, found := "", false
	for publisher, n := range m.Publishers {
		was := m.Publishers[oldest]
		if !found || n.Used < was.Used || n.Used == was.Used && publisher < oldest {
			oldest, found = publisher, true
		}
	}
	m.ranges -= len(m.Publishers[oldest].Ranges) / 2
	delete(m.Publishers, oldest)
}

func (m *Memory) addOther(key Key) {
	if _, known := m.others[key]; known {
		return
	}
	if m.others == nil {
		m.others = make(map[Key]struct{})
	}
	m.others[key] = struct{}{}
	m.Others = append(m.Others, key)
	if len(m.Others) > maxOthers {
		delete(m.others, m.Others[0])
		m.Others = m.Others[1:]
	}
}

// restore checks what was read, and completes it.
func (m *Memory) restore() error {
	m.ranges, m.others = 0, make(map[Key]struct{}, len(m.Others))
	for publisher, n := range m.Publishers {
		if n == nil || !plain(publisher, maxKey) || len(n.Ranges)%2 != 0 || len(n.Ranges) == 0 || len(n.Ranges) > 2*maxGaps {
			return errors.New("a publisher without numbers")
		}
		for i, number := range n.Ranges {
			switch {
			case i%2 == 1 && number < n.Ranges[i-1], i%2 == 0 && i > 0 && number-1 <= n.Ranges[i-1], number == 0:
				return errors.New("numbers that are not in order")
			}
		}
		m.ranges += len(n.Ranges) / 2
	}
	for _, key := range m.Others {
		if !plain(string(key), maxKey) {
			return errors.New("no key")
		}
		m.others[key] = struct{}{}
	}
	if len(m.Publishers) > maxPublishers || m.ranges > maxRanges || len(m.Others) > maxOthers || len(m.others) != len(m.Others) {
		return errors.New("more than can be remembered")
	}
	return nil
}
