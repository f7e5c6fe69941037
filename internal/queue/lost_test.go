package queue_test

import (
	"errors"
	"testing"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

// leased is the settler of a delivery whose lease may end.
type leased struct {
	fate
	lost bool
}

func (l *leased) Lost() bool { return l.lost }

// What became somebody else's while it was in the queue is never taken.
func TestLostDeliveriesAreNotTaken(t *testing.T) {
	q := queue.NewTracked(0)
	settlers := make([]leased, 4)
	for i := range settlers {
		q.Push(transport.Delivery{Message: &transport.Message{Kind: transport.TopicMessage, Info: transport.Info{Sequence: uint64(i)}}, Settler: &settlers[i]})
	}
	settlers[0].lost, settlers[1].lost, settlers[3].lost = true, true, true
	if d, err := q.Pop(t.Context()); err != nil || d.Message.Info.Sequence != 2 {
		t.Errorf("taken: %+v, %v", d.Message, err)
	}
	if d, ok := q.TryPop(); ok {
		t.Errorf("taken: %+v", d.Message)
	}
	q.Close()
	if _, err := q.Pop(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	for i := range settlers {
		if given := settlers[i].nacked != ""; given != settlers[i].lost {
			t.Errorf("delivery %d was nacked with %q", i, settlers[i].nacked)
		}
	}
}
