package bench

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// Memory is the floor of what stays in memory: a queue for each subscriber, a slice under a
// mutex with a wake channel, of which a subscriber takes all that is there at once. The
// payload is copied once.
type Memory struct{}

var _ System = Memory{}

// Open implements System.
func (Memory) Open(_ context.Context, load Load) (Session, error) {
	s := &memorySession{timed: load.Timed, queues: make([]*memoryQueue, load.Subscribers)}
	for i := range s.queues {
		s.queues[i] = newMemoryQueue()
	}
	return s, nil
}

// memoryItem is a message in memory.
type memoryItem struct {
	body      []byte
	number    uint64
	sent      int64 // in ns since the epoch
	publisher int
}

// memoryQueue passes items to one reader.
type memoryQueue struct {
	mu    sync.Mutex
	items []memoryItem
	wake  chan struct{}
	taken []memoryItem // the reader's, up to next
	next  int
}

func newMemoryQueue() *memoryQueue { return &memoryQueue{wake: make(chan struct{}, 1)} }

func (q *memoryQueue) push(item memoryItem) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *memoryQueue) pop(ctx context.Context) (memoryItem, error) {
	for q.next == len(q.taken) {
		q.mu.Lock()
		q.taken, q.items = q.items, q.taken[:0]
		q.mu.Unlock()
		q.next = 0
		if len(q.taken) > 0 {
			break
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return memoryItem{}, ctx.Err()
		}
	}
	item := q.taken[q.next]
	q.next++
	return item, nil
}

type memorySession struct {
	timed  bool
	queues []*memoryQueue
}

// Publish implements Session.
func (s *memorySession) Publish(_ context.Context, publisher int, number uint64, body []byte) error {
	item := memoryItem{number: number, publisher: publisher}
	if s.timed {
		item.sent = time.Now().UnixNano()
	}
	item.body = bytes.Clone(body)
	for _, q := range s.queues {
		q.push(item)
	}
	return nil
}

// Next implements Session.
func (s *memorySession) Next(ctx context.Context, subscriber int) (Arrival, error) {
	item, err := s.queues[subscriber].pop(ctx)
	return Arrival{Publisher: item.publisher, Number: item.number, Bytes: len(item.body), Sent: time.Unix(0, item.sent)}, err
}

// Close implements Session.
func (s *memorySession) Close(context.Context) error { return nil }

// memoryCaller are round trips over two queues for each client.
type memoryCaller struct {
	there, back []*memoryQueue
	stop        context.CancelFunc
	serving     sync.WaitGroup
}

// OpenMemoryCaller makes for each client two queues and a server between them: the floor of calls
// in memory.
func OpenMemoryCaller(_ context.Context, load Load) (Caller, error) {
	ctx, stop := context.WithCancel(context.Background())
	c := &memoryCaller{stop: stop}
	for range load.Publishers {
		there, back := newMemoryQueue(), newMemoryQueue()
		c.there, c.back = append(c.there, there), append(c.back, back)
		c.serving.Go(func() {
			for {
				item, err := there.pop(ctx)
				if err != nil {
					return
				}
				back.push(memoryItem{body: bytes.Clone(item.body)})
			}
		})
	}
	return c, nil
}

// Call implements Caller.
func (c *memoryCaller) Call(ctx context.Context, client int, body []byte) ([]byte, error) {
	c.there[client].push(memoryItem{body: bytes.Clone(body)})
	item, err := c.back[client].pop(ctx)
	return item.body, err
}

// Close implements Caller.
func (c *memoryCaller) Close(context.Context) error {
	c.stop()
	c.serving.Wait()
	return nil
}
