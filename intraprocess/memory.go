package intraprocess

import (
	"cmp"
	"slices"
	"sync"

	"github.com/postbus/postbus/transport"
)

// history holds the newest messages of each topic.
type history struct {
	mu      sync.Mutex
	topics  map[string][]past
	arrived uint64
	count   int
	bytes   int
}

// past is a message with its place in the order of arrival.
type past struct {
	number  uint64
	message *transport.Message
}

// record adds a message, of whose topic the newest depth are kept.
func (h *history) record(m *transport.Message, depth int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.topics == nil {
		h.topics = make(map[string][]past)
	}
	h.arrived++
	h.topics[m.Name] = append(h.topics[m.Name], past{h.arrived, m})
	h.count++
	h.bytes += len(m.Body)
	if len(h.topics[m.Name]) > depth {
		h.drop(m.Name)
	}
	for h.count > transport.KeepAllMessages || h.bytes > transport.KeepAllBytes {
		oldest := m.Name
		for name, kept := range h.topics {
			if kept[0].number < h.topics[oldest][0].number {
				oldest = name
			}
		}
		h.drop(oldest)
	}
}

// drop removes the oldest message of a topic. h.mu is held.
func (h *history) drop(name string) {
	kept := h.topics[name]
	h.count--
	h.bytes -= len(kept[0].message.Body)
	if len(kept) == 1 {
		delete(h.topics, name)
		return
	}
	h.topics[name] = slices.Delete(kept, 0, 1)
}

// last returns the messages that the interest's Last asks for, the oldest first.
func (h *history) last(in transport.Interest) []*transport.Message {
	if in.Last == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []past
	for name, kept := range h.topics {
		if transport.MatchName(in.Name, name) {
			all = append(all, kept...)
		}
	}
	slices.SortFunc(all, func(a, b past) int { return cmp.Compare(a.number, b.number) })
	all = all[max(0, len(all)-in.Last):]
	messages := make([]*transport.Message, len(all))
	for i, p := range all {
		messages[i] = p.message
	}
	return messages
}

// DeadLetter is a message of a durable interest or group that could not be handled.
type DeadLetter struct {
	// Message is the message.
	Message *transport.Message
	// For says which durable name or group it was for.
	For string
	// Reason is that of the last Nack, or of the Term.
	Reason string
}

// maxDead is how many dead letters a bus keeps.
const maxDead = 1 << 10

// bury keeps a dead letter.
func (b *Bus) bury(d DeadLetter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.dead) == maxDead {
		b.dead = slices.Delete(b.dead, 0, 1)
	}
	b.dead = append(b.dead, d)
}

// DeadLetters returns the newest dead letters of the bus, at most 1024, the oldest first.
func (b *Bus) DeadLetters() []DeadLetter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.dead)
}
