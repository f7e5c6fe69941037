package queue_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

func newNode(t *testing.T, o *transport.Options) *transport.Node {
	t.Helper()
	n, err := transport.NewNode(intraprocess.New(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n
}

func attach(t *testing.T, n *transport.Node, qos transport.QoS) *queue.Inbox {
	t.Helper()
	in, err := queue.Attach(n, transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, queue.Options{QoS: qos})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// publish sends messages first to last.
func publish(t *testing.T, n *transport.Node, first, last uint64) {
	t.Helper()
	for seq := first; seq <= last; seq++ {
		if err := n.Send(t.Context(), numbered(seq).Message); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInboxReceives(t *testing.T) {
	n := newNode(t, nil)
	in := attach(t, n, transport.QoS{})
	publish(t, n, 1, 3)
	checkContents(t, in.Queue, 1, 2, 3)
	publish(t, n, 4, 4)
	in.Close()
	in.Close() // once more does nothing
	publish(t, n, 5, 5)
	checkContents(t, in.Queue, 4)
	if _, err := in.Pop(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Pop after Close: %v, want ErrClosed", err)
	}
}

func TestAttachErrors(t *testing.T) {
	n := newNode(t, nil)
	bad := transport.Interest{Kind: transport.TopicMessage, Name: "a b"}
	if in, err := queue.Attach(n, bad, queue.Options{}); in != nil || !errors.Is(err, transport.ErrInvalidName) {
		t.Errorf("Attach with an invalid name: %v", err)
	}
	n.Close(t.Context())
	if in, err := queue.Attach(n, transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, queue.Options{}); in != nil || !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Attach to a closed node: %v", err)
	}
}

func TestHandleOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		in := attach(t, n, transport.QoS{})
		var got []uint64 // guarded by there being one handler
		handle(t, in, 1, func(_ context.Context, d transport.Delivery) {
			time.Sleep(time.Duration(10-d.Message.Info.Sequence) * time.Second)
			got = append(got, d.Message.Info.Sequence)
		})
		publish(t, n, 1, 5)
		if err := n.Close(t.Context()); err != nil { // works off what has arrived
			t.Errorf("Close: %v", err)
		}
		if want := []uint64{1, 2, 3, 4, 5}; !slices.Equal(got, want) {
			t.Errorf("the handler got %d, want %d", got, want)
		}
	})
}

func handle(t *testing.T, in *queue.Inbox, concurrency int, handler func(context.Context, transport.Delivery)) {
	t.Helper()
	if err := in.Handle(concurrency, handler); err != nil {
		t.Fatal(err)
	}
}

func TestHandleConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		in := attach(t, n, transport.QoS{})
		var running, most, handled atomic.Int32
		handle(t, in, 3, func(context.Context, transport.Delivery) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			handled.Add(1)
		})
		publish(t, n, 1, 7)
		begin := time.Now()
		if err := n.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if handled.Load() != 7 || most.Load() != 3 {
			t.Errorf("%d messages were handled, %d at a time, want 7, 3", handled.Load(), most.Load())
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("7 handlers of a second, 3 at a time, took %v", d)
		}
	})
}

func TestHandleTwice(t *testing.T) {
	n := newNode(t, nil)
	in := attach(t, n, transport.QoS{})
	ignore := func(context.Context, transport.Delivery) {}
	handle(t, in, 1, ignore)
	if err := in.Handle(1, ignore); !errors.Is(err, queue.ErrHandled) {
		t.Errorf("a second handler: %v", err)
	}
}

func TestHandleAfterClose(t *testing.T) {
	n := newNode(t, nil)
	in := attach(t, n, transport.QoS{})
	publish(t, n, 1, 1)
	in.Close()
	if err := in.Handle(1, nil); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a handler after Close: %v", err)
	}
	checkContents(t, in.Queue, 1)
}

func TestLeftoversAreHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		var got []uint64
		leftover := func(_ *queue.Inbox, d transport.Delivery) { got = append(got, d.Message.Info.Sequence) }
		interest := transport.Interest{Kind: transport.TopicMessage, Name: "/t"}
		in, err := queue.Attach(n, interest, queue.Options{Leftover: leftover})
		if err != nil {
			t.Fatal(err)
		}
		publish(t, n, 1, 3)
		in.Close()
		synctest.Wait()
		if want := []uint64{1, 2, 3}; !slices.Equal(got, want) {
			t.Errorf("left over are %d, want %d", got, want)
		}
	})
}

// Neither a panic nor the end of its goroutine ends the handling.
func TestHandlerMishaps(t *testing.T) {
	for _, concurrency := range []int{1, 3} {
		var log strings.Builder
		n := newNode(t, &transport.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		in := attach(t, n, transport.QoS{})
		var handled atomic.Int32
		handle(t, in, concurrency, func(_ context.Context, d transport.Delivery) {
			handled.Add(1)
			switch d.Message.Info.Sequence {
			case 1:
				panic("on purpose")
			case 2:
				runtime.Goexit()
			}
		})
		publish(t, n, 1, 4)
		if err := n.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if handled.Load() != 4 {
			t.Errorf("concurrency %d: %d messages were handled, want 4", concurrency, handled.Load())
		}
		if !strings.Contains(log.String(), "on purpose") {
			t.Errorf("the panic was not logged: %s", log.String())
		}
	}
}

func TestDrainWithoutHandler(t *testing.T) {
	n := newNode(t, nil)
	in := attach(t, n, transport.QoS{})
	publish(t, n, 1, 1)
	if err := in.Drain(t.Context()); err != nil {
		t.Errorf("Drain: %v", err)
	}
	checkContents(t, in.Queue, 1) // is left to who may still read it
}

func TestDrainGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		in := attach(t, n, transport.QoS{})
		ended := make(chan uint64, 2)
		handle(t, in, 1, func(ctx context.Context, d transport.Delivery) {
			<-ctx.Done()
			ended <- d.Message.Info.Sequence
		})
		publish(t, n, 1, 2)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := in.Drain(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "/t") {
			t.Errorf("Drain past its deadline: %v", err)
		}
		synctest.Wait()
		if seq := <-ended; seq != 1 || len(ended) > 0 {
			t.Errorf("message %d was handled, and %d more; want only the first", seq, len(ended))
		}
	})
}

// Close does not wait for handlers, as they may call it; what has arrived is still
// handled, and the Close of the node waits for that.
func TestCloseFromHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		in := attach(t, n, transport.QoS{})
		var got []uint64 // guarded by there being one handler
		published := make(chan struct{})
		handle(t, in, 1, func(_ context.Context, d transport.Delivery) {
			<-published
			in.Close()
			time.Sleep(time.Second)
			got = append(got, d.Message.Info.Sequence)
		})
		publish(t, n, 1, 3)
		close(published)
		synctest.Wait()
		if err := n.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if want := []uint64{1, 2, 3}; !slices.Equal(got, want) {
			t.Errorf("handled %d, want %d", got, want)
		}
	})
}

// A reader that is too slow for a queue that keeps all is told of once.
func TestFullQueueWarnsOnce(t *testing.T) {
	var log strings.Builder
	n := newNode(t, &transport.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	all, last := attach(t, n, transport.QoS{KeepAll: true}), attach(t, n, transport.QoS{Depth: 1})
	publish(t, n, 1, transport.KeepAllMessages)
	if log.Len() > 0 {
		t.Errorf("before the queue is full the log says %s", log.String())
	}
	publish(t, n, 1, 3)
	checkDropped(t, all.Queue, 3)
	checkDropped(t, last.Queue, transport.KeepAllMessages+2)
	if got := log.String(); strings.Count(got, "queue full") != 1 || !strings.Contains(got, "name=/t") {
		t.Errorf("the log says %s", got)
	}
}
