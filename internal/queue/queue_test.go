package queue_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// numbered returns delivery number seq, published now.
func numbered(seq uint64) transport.Delivery {
	return transport.Delivery{Message: &transport.Message{
		Kind: transport.TopicMessage, Name: "/t",
		Info: transport.Info{Sequence: seq, SourceTime: time.Now()},
	}}
}

// contents takes all that is in the queue.
func contents(q *queue.Queue) []uint64 {
	var all []uint64
	for {
		d, ok := q.TryPop()
		if !ok {
			return all
		}
		all = append(all, d.Message.Info.Sequence)
	}
}

func checkContents(t *testing.T, q *queue.Queue, want ...uint64) {
	t.Helper()
	if got := contents(q); !slices.Equal(got, want) {
		t.Errorf("the queue holds %d, want %d", got, want)
	}
}

func checkDropped(t *testing.T, q *queue.Queue, want uint64) {
	t.Helper()
	if got := q.Dropped(); got != want {
		t.Errorf("Dropped = %d, want %d", got, want)
	}
}

func TestKeepLast(t *testing.T) {
	for _, test := range []struct {
		qos   transport.QoS
		depth uint64
	}{
		{transport.QoS{}, transport.DefaultDepth},
		{transport.QoS{Depth: -1}, transport.DefaultDepth},
		{transport.QoS{Depth: 1}, 1},
		{transport.QoS{Depth: 3}, 3},
		{transport.QoS{Depth: 100}, 100},
	} {
		q := queue.New(test.qos)
		var want []uint64
		for seq := uint64(1); seq <= test.depth+2; seq++ {
			if kept := q.Push(numbered(seq)); kept != (seq <= test.depth) {
				t.Errorf("%+v: Push of message %d = %v", test.qos, seq, kept)
			}
			if seq > 2 {
				want = append(want, seq)
			}
		}
		checkDropped(t, q, 2)
		checkContents(t, q, want...)
	}
}

func TestKeepFirst(t *testing.T) {
	q := queue.New(transport.QoS{Depth: 2, KeepFirst: true})
	for seq := uint64(1); seq <= 4; seq++ {
		if kept := q.Push(numbered(seq)); kept != (seq <= 2) {
			t.Errorf("Push of message %d = %v", seq, kept)
		}
	}
	checkDropped(t, q, 2)
	checkContents(t, q, 1, 2)
}

func TestKeepAllMessages(t *testing.T) {
	q := queue.New(transport.QoS{KeepAll: true, Depth: 1}) // the depth does not count
	for seq := range uint64(transport.KeepAllMessages) {
		if !q.Push(numbered(seq)) {
			t.Fatalf("message %d was not kept", seq)
		}
	}
	if q.Push(numbered(transport.KeepAllMessages)) {
		t.Error("a message over the limit was kept")
	}
	checkDropped(t, q, 1)
	if d, _ := q.TryPop(); d.Message.Info.Sequence != 0 {
		t.Errorf("the oldest message is %d, want 0", d.Message.Info.Sequence)
	}
	if !q.Push(numbered(transport.KeepAllMessages)) {
		t.Error("a message was not kept although there was room again")
	}
	got := contents(q)
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("message %d is number %d", i+1, seq)
		}
	}
	if len(got) != transport.KeepAllMessages {
		t.Errorf("the queue held %d messages, want %d", len(got), transport.KeepAllMessages)
	}
}

func TestKeepAllBytes(t *testing.T) {
	q := queue.New(transport.QoS{KeepAll: true})
	quarter := make([]byte, transport.KeepAllBytes/4) // one for all: it is the sizes that count
	push := func(seq uint64, body []byte) bool {
		d := numbered(seq)
		d.Message.Body = body
		return q.Push(d)
	}
	for seq := range uint64(4) {
		if !push(seq, quarter) {
			t.Errorf("message %d was not kept", seq)
		}
	}
	if push(4, quarter[:1]) {
		t.Error("a byte over the limit was kept")
	}
	if !push(5, nil) {
		t.Error("a message without body was not kept")
	}
	q.TryPop()
	if !push(6, quarter) {
		t.Error("a message was not kept although there was room again")
	}
	checkDropped(t, q, 1)
	checkContents(t, q, 1, 2, 3, 5, 6)
}

// Only queues that keep all count bytes.
func TestKeepLastHasNoByteLimit(t *testing.T) {
	q := queue.New(transport.QoS{Depth: 5})
	half := make([]byte, transport.KeepAllBytes/2)
	for seq := range uint64(5) {
		d := numbered(seq)
		d.Message.Body = half
		if !q.Push(d) {
			t.Errorf("message %d was not kept", seq)
		}
	}
	checkContents(t, q, 0, 1, 2, 3, 4)
}

func TestLifespan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{Lifespan: time.Minute})
		old := numbered(1)
		q.Push(old)
		time.Sleep(30 * time.Second)
		q.Push(numbered(2))
		time.Sleep(30 * time.Second)
		d, ok := q.TryPop()
		if !ok || d.Message.Info.Sequence != 1 {
			t.Errorf("a message of just the lifespan: %v", ok)
		}
		q.Push(old)
		time.Sleep(time.Nanosecond)
		q.Push(numbered(3))
		checkContents(t, q, 2, 3)
		checkDropped(t, q, 1)
		// The age counts from the source time, not from the arrival.
		late := numbered(4)
		late.Message.Info.SourceTime = time.Now().Add(-time.Hour)
		q.Push(late)
		early := numbered(5) // by a clock that is ahead
		early.Message.Info.SourceTime = time.Now().Add(time.Hour)
		q.Push(early)
		checkContents(t, q, 5)
		checkDropped(t, q, 2)
	})
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{})
		for seq, kind := range map[uint64]transport.Kind{1: transport.TopicMessage, 2: transport.Request} {
			d := numbered(seq)
			d.Message.Kind, d.Message.Deadline = kind, time.Now().Add(time.Second)
			q.Push(d)
		}
		time.Sleep(time.Second)
		// A request is owed an answer, even a late one.
		checkContents(t, q, 2)
		checkDropped(t, q, 1)
	})
}

func TestPopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{})
		got := make(chan uint64, 1)
		go func() {
			d, err := q.Pop(t.Context())
			if err != nil {
				t.Errorf("Pop: %v", err)
				return
			}
			got <- d.Message.Info.Sequence
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("Pop returned before there was a message")
		}
		q.Push(numbered(1))
		if seq := <-got; seq != 1 {
			t.Errorf("Pop returned message %d", seq)
		}
	})
}

// A message that is too old does not end a Pop.
func TestPopSkipsOldMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{Lifespan: time.Second})
		got := make(chan uint64, 1)
		go func() {
			if d, err := q.Pop(t.Context()); err == nil {
				got <- d.Message.Info.Sequence
			}
		}()
		synctest.Wait()
		old := numbered(1)
		old.Message.Info.SourceTime = time.Now().Add(-time.Minute)
		q.Push(old)
		synctest.Wait()
		if len(got) > 0 {
			t.Error("Pop returned a message that was too old")
		}
		q.Push(numbered(2))
		if seq := <-got; seq != 2 {
			t.Errorf("Pop returned message %d", seq)
		}
	})
}

func TestPopContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := q.Pop(ctx); !errors.Is(err, transport.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Pop past its deadline: %v", err)
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("Pop waited %v, want a second", d)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.Pop(cancelled); !errors.Is(err, context.Canceled) || errors.Is(err, transport.ErrTimeout) {
			t.Errorf("Pop with a cancelled context: %v", err)
		}
		// An ended context counts even when there is something to take: loops end.
		q.Push(numbered(1))
		if _, err := q.Pop(cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("Pop of a waiting message with a cancelled context: %v", err)
		}
		checkContents(t, q, 1)
	})
}

// What is too old makes room for what is not.
func TestFullOfExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{KeepAll: true, Lifespan: time.Minute})
		for seq := range uint64(transport.KeepAllMessages) {
			q.Push(numbered(seq))
		}
		time.Sleep(2 * time.Minute)
		if !q.Push(numbered(7)) {
			t.Error("a fresh message was refused by a queue full of expired ones")
		}
		checkContents(t, q, 7)
		checkDropped(t, q, transport.KeepAllMessages)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(transport.QoS{})
		const waiting = 3
		errs := make(chan error, waiting)
		for range waiting {
			go func() {
				_, err := q.Pop(t.Context())
				errs <- err
			}()
		}
		synctest.Wait()
		q.Close()
		q.Close() // once more does nothing
		for range waiting {
			if err := <-errs; !errors.Is(err, transport.ErrClosed) {
				t.Errorf("a waiting Pop: %v, want ErrClosed", err)
			}
		}
		if !q.Push(numbered(1)) {
			t.Error("a message pushed after Close counts as dropped")
		}
		checkContents(t, q)
		checkDropped(t, q, 0)
	})
}

func TestCloseLeavesMessages(t *testing.T) {
	q := queue.New(transport.QoS{})
	q.Push(numbered(1))
	q.Push(numbered(2))
	q.Close()
	q.Push(numbered(3))
	for seq := uint64(1); seq <= 2; seq++ {
		if d, err := q.Pop(t.Context()); err != nil || d.Message.Info.Sequence != seq {
			t.Errorf("Pop of message %d: %v", seq, err)
		}
	}
	if _, err := q.Pop(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Pop of the closed and empty queue: %v, want ErrClosed", err)
	}
}

func TestReadyAndWatch(t *testing.T) {
	q := queue.New(transport.QoS{Depth: 2})
	calls := 0
	readyInWake := true
	stop := q.Watch(func() {
		calls++
		readyInWake = readyInWake && q.Ready() // a watcher may use the queue
	})
	expect := func(what string, ready bool, wantCalls int) {
		t.Helper()
		if q.Ready() != ready || calls != wantCalls {
			t.Errorf("%s: Ready = %v and %d calls, want %v and %d", what, q.Ready(), calls, ready, wantCalls)
		}
	}
	expect("empty", false, 0)
	q.Push(numbered(1))
	expect("one", true, 1)
	q.Push(numbered(2))
	q.Push(numbered(3)) // pushes one out
	expect("full", true, 3)
	contents(q)
	expect("empty again", false, 3)
	q.Close()
	expect("closed", true, 4)
	q.Close()
	q.Push(numbered(4))
	expect("closed again", true, 4)
	stop()
	if !readyInWake {
		t.Error("the queue was not ready when its watcher was called")
	}

	q = queue.New(transport.QoS{})
	q.Watch(func() { t.Error("a stopped watcher was called") })()
	q.Push(numbered(1))
	q.Close()
}
