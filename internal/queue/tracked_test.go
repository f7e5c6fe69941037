package queue_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// fate notes what became of a delivery.
type fate struct {
	mu     sync.Mutex
	acked  bool
	delay  time.Duration
	nacked string // the reason
	termed string
	block  chan struct{} // if not nil, Ack waits for it
}

func (f *fate) Ack() error {
	if f.block != nil {
		<-f.block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked = true
	return nil
}

func (f *fate) Nack(delay time.Duration, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay, f.nacked = delay, reason
}

func (f *fate) Term(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.termed = reason
}

func (f *fate) check(t *testing.T, what string, acked bool, delay time.Duration, nacked string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.acked != acked || f.delay != delay || f.nacked != nacked || f.termed != "" {
		t.Errorf("%s: acknowledged %v, to come again after %v because %q, dead because %q; want %v, %v, %q",
			what, f.acked, f.delay, f.nacked, f.termed, acked, delay, nacked)
	}
}

// tracked returns delivery number seq with its fate.
func tracked(seq uint64) (transport.Delivery, *fate) {
	f := new(fate)
	d := numbered(seq)
	d.Settler, d.Attempt = f, 1
	return d, f
}

// TestTrackedQueueWithoutSettlers has deliveries that can't be given back: those of a group whose carrier only shares them out.
func TestTrackedQueueWithoutSettlers(t *testing.T) {
	q := queue.NewTracked(0)
	for seq := range uint64(transport.MaxInFlight) {
		if !q.Push(numbered(seq)) {
			t.Fatalf("message %d was dropped", seq)
		}
	}
	if q.Push(numbered(transport.MaxInFlight)) || q.Dropped() != 1 {
		t.Errorf("one message too many was not dropped, but %d", q.Dropped())
	}
	if d, ok := q.TryPop(); !ok || d.Message.Info.Sequence != 0 {
		t.Errorf("got %+v, %v", d.Message, ok)
	}
	d, fate := tracked(7777)
	q.Push(d)
	q.Close()
	fate.check(t, "the one with a settler", false, -1, "the reader has been closed")
	for seq := uint64(1); seq < transport.MaxInFlight; seq++ {
		if d, ok := q.TryPop(); !ok || d.Message.Info.Sequence != seq {
			t.Fatalf("message %d is gone when the queue is closed", seq)
		}
	}
	if _, ok := q.TryPop(); ok {
		t.Error("there is one more")
	}
}

// TestTrackedQueueOfLargeBodies bounds what can't be given back, and only that, in bytes.
func TestTrackedQueueOfLargeBodies(t *testing.T) {
	q := queue.NewTracked(0)
	body := make([]byte, transport.KeepAllBytes/4)
	for seq := range uint64(5) {
		d := numbered(seq)
		d.Message.Body = body
		if ok := q.Push(d); ok != (seq < 4) {
			t.Errorf("message %d was kept: %v", seq, ok)
		}
	}
	d, fate := tracked(5)
	d.Message.Body = body
	q.Push(d)
	fate.check(t, "the one with a settler", false, 0, "")
}

func TestTrackedQueueGivesBack(t *testing.T) {
	q := queue.NewTracked(0)
	var fates []*fate
	for seq := range uint64(transport.MaxInFlight + 1) {
		d, f := tracked(seq)
		if !q.Push(d) {
			t.Fatalf("message %d was dropped", seq)
		}
		fates = append(fates, f)
	}
	fates[transport.MaxInFlight].check(t, "a message beyond MaxInFlight", false, time.Second, "queue full")
	if d, ok := q.TryPop(); !ok || d.Message.Info.Sequence != 0 {
		t.Fatalf("popped %v", d.Message)
	}
	q.Close()
	fates[0].check(t, "a message that was taken", false, 0, "")
	for _, f := range fates[1:transport.MaxInFlight] {
		f.check(t, "a message in a queue that was closed", false, -1, "the reader has been closed")
	}
	late, f := tracked(1)
	q.Push(late)
	f.check(t, "a message after that", false, -1, "the reader has been closed")
	checkContents(t, q)
	checkDropped(t, q, 0)
	if _, err := q.Pop(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Pop: %v", err)
	}
}

// feeding is a carrier whose deliveries the test makes.
type feeding struct {
	transport.Carrier
	deliver func(transport.Delivery)
	gap     func(transport.Gap)
}

func (c *feeding) Receive(in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	c.deliver, c.gap = deliver, in.Gap
	return func() {}, nil
}

// newFeeding returns a node with an inbox of a durable interest.
func newFeeding(t *testing.T, logger *slog.Logger, interest transport.Interest, options queue.Options) (*feeding, *transport.Node, *queue.Inbox) {
	t.Helper()
	c := &feeding{Carrier: intraprocess.New()}
	node, err := transport.NewNode(c, &transport.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close(context.Background()) })
	interest.Kind, interest.Name, interest.Durable = transport.TopicMessage, "/t", "d"
	in, err := queue.Attach(node, interest, options)
	if err != nil {
		t.Fatal(err)
	}
	return c, node, in
}

// What is too old is done with, not dead. Ack may block, and so comes from elsewhere; the node waits for it.
func TestTrackedMessagesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, node, in := newFeeding(t, nil, transport.Interest{}, queue.Options{QoS: transport.QoS{Lifespan: time.Minute}})
		old, f := tracked(1)
		f.block = make(chan struct{})
		c.deliver(old)
		time.Sleep(time.Minute + 1)
		young, _ := tracked(2)
		c.deliver(young)
		checkContents(t, in.Queue, 2)
		checkDropped(t, in.Queue, 1)
		closed := make(chan error, 1)
		go func() { closed <- node.Close(t.Context()) }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("Close did not wait for the acknowledgement")
		}
		close(f.block)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		f.check(t, "the old message", true, 0, "")
	})
}

// A handler that fails its goroutine in some way has the message come again, later each time.
func TestMishapsComeAgain(t *testing.T) {
	for _, mishap := range []func(){func() { panic("on purpose") }, runtime.Goexit} {
		c, node, in := newFeeding(t, slog.New(slog.DiscardHandler), transport.Interest{}, queue.Options{})
		handle(t, in, 1, func(context.Context, transport.Delivery) { mishap() })
		delays := []time.Duration{1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 30, 7: 30, 100: 30}
		fates := make(map[int]*fate)
		handled := 0
		for attempt, delay := range delays {
			if delay > 0 {
				d, f := tracked(1)
				d.Attempt, fates[attempt] = attempt, f
				c.deliver(d)
				handled++
			}
		}
		for handled > 0 {
			handled = 0
			for _, f := range fates {
				f.mu.Lock()
				if f.nacked == "" {
					handled++
				}
				f.mu.Unlock()
			}
			runtime.Gosched()
		}
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for attempt, f := range fates {
			f.check(t, "attempt", false, delays[attempt]*time.Second, "the handler panicked or ended its goroutine")
		}
	}
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []time.Duration
		var slow time.Duration
		c, node, _ := newFeeding(t, nil, transport.Interest{}, queue.Options{Silence: time.Minute, Silent: func(d time.Duration) {
			mu.Lock()
			heard = append(heard, d)
			wait := slow
			mu.Unlock()
			time.Sleep(wait)
		}})
		expect := func(what string, want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(heard, want) {
				t.Errorf("%s: %v was reported, want %v", what, heard, want)
			}
			heard = nil
		}
		deliver := func() {
			d, _ := tracked(1)
			c.deliver(d)
		}
		time.Sleep(time.Minute - 1)
		expect("before the first minute is over")
		time.Sleep(2*time.Minute + 1)
		expect("after three minutes", time.Minute, 2*time.Minute, 3*time.Minute)
		time.Sleep(30 * time.Second)
		deliver()
		time.Sleep(time.Minute - 1)
		expect("just before a minute after a message")
		deliver()
		time.Sleep(time.Minute - 1)
		expect("just before a minute after another")
		time.Sleep(time.Nanosecond)
		expect("a minute after it", time.Minute)
		mu.Lock()
		slow = 150 * time.Second
		mu.Unlock()
		time.Sleep(5*time.Minute + time.Second)
		expect("to a program that is slow to take it", 2*time.Minute, 5*time.Minute)
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		expect("after Close")
	})
}

// Gaps are reported to the program in their order, by a goroutine that may block, until the inbox is closed.
func TestGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var got atomic.Pointer[[]uint64]
		got.Store(new([]uint64))
		c, node, in := newFeeding(t, slog.New(slog.NewTextHandler(&log, nil)), transport.Interest{Gap: func(g transport.Gap) {
			time.Sleep(time.Second)
			if g.First == 2 {
				panic("on purpose")
			}
			all := append(slices.Clone(*got.Load()), g.First)
			got.Store(&all)
		}}, queue.Options{})
		const most = 1 << 10
		for n := range uint64(most + 2) {
			c.gap(transport.Gap{First: n + 1})
			synctest.Wait()
		}
		time.Sleep(3*time.Second + 1)
		synctest.Wait()
		if want := []uint64{1, 3}; !slices.Equal(*got.Load(), want) {
			t.Errorf("%d were reported, want %d", *got.Load(), want)
		}
		in.Close()
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if all := *got.Load(); len(all) != 3 { // the one under way
			t.Errorf("%d were reported in all", all)
		}
		c.gap(transport.Gap{First: 1})
		if text := log.String(); !strings.Contains(text, "on purpose") || strings.Count(text, "a report is dropped") != 2 {
			t.Errorf("the log says %s", text)
		}
	})
}

// A silence that could not be reported, because the program was too slow to take reports, is not the
// last one.
func TestSilenceAfterADroppedReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		var silences atomic.Int32
		c, _, _ := newFeeding(t, slog.New(slog.DiscardHandler), transport.Interest{Gap: func(transport.Gap) { <-slow }},
			queue.Options{Silence: time.Minute, Silent: func(time.Duration) { silences.Add(1) }})
		for range 1<<10 + 1 {
			c.gap(transport.Gap{})
			synctest.Wait()
		}
		time.Sleep(90 * time.Second)
		close(slow)
		time.Sleep(time.Minute)
		if silences.Load() != 1 {
			t.Errorf("%d silences were reported, want 1", silences.Load())
		}
	})
}

func TestAdmitAndRefused(t *testing.T) {
	n := newNode(t, &transport.Options{Logger: slog.New(slog.DiscardHandler)})
	refused := 0
	in, err := queue.Attach(n, transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, queue.Options{
		QoS:     transport.QoS{Depth: 2, KeepFirst: true},
		Admit:   func(_ *queue.Inbox, d transport.Delivery) bool { return d.Message.Info.Sequence != 2 },
		Refused: func(transport.Delivery) { refused++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, n, 1, 5)
	checkContents(t, in.Queue, 1, 3)
	if refused != 2 {
		t.Errorf("%d were refused, want 2", refused)
	}
}
