package email

import (
	"maps"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

const (
	// mostAwaited is the greatest number of calls that are remembered as under way; 16,384 are more
	// than a mailbox can answer in the time that a caller waits.
	mostAwaited = 1 << 14
	// sweepPause is the time between two looks for calls that are over. Each looks at all.
	sweepPause = time.Second
	// patience is how long the answer to a request without a deadline is awaited.
	patience = time.Minute
)

// awaited are the requests that this node has sent and that nobody has answered yet. Until their
// deadline somebody waits. The zero value is empty.
type awaited struct {
	mu   sync.Mutex
	open map[transport.ID]time.Time // the deadlines
	// swept is when those past their deadline were last looked for to make room.
	swept time.Time
}

// add notes a request, before it is sent.
func (a *awaited) add(m *transport.Message) {
	deadline := m.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(patience)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = make(map[transport.ID]time.Time)
	}
	if now := time.Now(); len(a.open) >= mostAwaited && now.Sub(a.swept) >= sweepPause {
		a.swept = now
		maps.DeleteFunc(a.open, func(_ transport.ID, deadline time.Time) bool { return !now.Before(deadline) })
	}
	if len(a.open) < mostAwaited {
		a.open[m.ID] = deadline
	}
}

// settle notes that a request has been answered, or was not sent.
func (a *awaited) settle(request transport.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, request)
}

// drop notes that requests of one call of Send will not be answered, because they were certainly not sent.
func (a *awaited) drop(msgs []*transport.Message, failed *transport.SendError) {
	msgs = msgs[failed.Taken:]
	if failed.Outcome == transport.Unknown {
		msgs = msgs[min(1+failed.With, len(msgs)):]
	}
	for _, m := range msgs {
		if m.Kind == transport.Request {
			a.settle(m.ID)
		}
	}
}

// any reports whether an answer is awaited.
func (a *awaited) any(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, deadline := range a.open {
		if now.Before(deadline) {
			return true
		}
		delete(a.open, id)
	}
	return false
}
