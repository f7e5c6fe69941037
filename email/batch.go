package email

import (
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// partly is a batch of which some messages have been delivered, and the number of the first that
// has not: there was no room for it.
type partly struct {
	uid  imap.UID
	next int
}

// whole reports whether the mail has been fetched to its end.
func (f *fetched) whole() bool { return len(f.body) < headBytes || f.size == int64(len(f.body)) }

// processBatch delivers the messages of a batch, each as if it were a mail of its own; those that have been
// delivered before are left out. What is damaged costs no others. If there is no room for all, the batch is to be
// read again.
func (r *reader) processBatch(f fetched) verdict {
	messages, err := wire.DecodeBatch(f.body)
	if err != nil {
		return r.reject(f, err)
	}
	first := 0
	if r.partly.uid == f.uid {
		first = r.partly.next
	}
	f.received, f.part = time.Now(), -1
	for m, err := range messages {
		if f.part++; f.part < first {
			continue
		}
		if err == nil {
			err = r.tooLarge(m)
		}
		if err != nil {
			r.audience.skip(f.uid, BatchMessage, err)
			continue
		}
		if r.deliver(f, m) == refused {
			r.partly = partly{f.uid, f.part}
			return refused
		}
	}
	return settled
}

// unpack calls f with the messages of a batch.
func unpack(mail fetched, f func(uid imap.UID, part int, m *transport.Message)) {
	messages, err := wire.DecodeBatch(mail.body)
	if err != nil {
		return
	}
	part := 0
	for m, err := range messages {
		if err == nil {
			f(mail.uid, part, m)
		}
		part++
	}
}

// rememberedMessages is how many messages sentBatches knows.
const rememberedMessages = 1 << 16

// sentBatches remembers which messages were in the batches that have been sent lately: a mail server that
// can't deliver one tells the mail's ID. All methods may be called concurrently. A nil one remembers nothing.
type sentBatches struct {
	mu    sync.Mutex
	in    map[transport.ID][]transport.ID
	order []transport.ID // of the batches, the oldest first
	count int            // of the messages
}

// add notes a batch before it is sent, with the IDs of its messages.
func (s *sentBatches) add(batch transport.ID, messages []transport.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		s.in = make(map[transport.ID][]transport.ID)
	}
	s.in[batch] = messages
	s.order = append(s.order, batch)
	for s.count += len(messages); s.count > rememberedMessages; s.order = s.order[1:] {
		s.count -= len(s.in[s.order[0]])
		delete(s.in, s.order[0])
	}
}

// messages returns the IDs of the messages in a batch, or nil if it is not known.
func (s *sentBatches) messages(batch transport.ID) []transport.ID {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in[batch]
}
