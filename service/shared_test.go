package service_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// place is what carriers in this process share results in. It never forgets by itself.
type place struct {
	mu       sync.Mutex
	values   map[string][]byte
	accesses int
	err      error         // of every access
	hangs    int           // so many accesses take as long as they may
	delay    time.Duration // of every access
	changed  chan struct{} // gets a value after Put
}

func newPlace() *place {
	return &place{values: make(map[string][]byte), changed: make(chan struct{}, 1<<10)}
}

func (p *place) access(ctx context.Context, f func()) error {
	p.mu.Lock()
	p.accesses++
	delay := p.delay
	if p.hangs > 0 {
		p.hangs--
		delay = time.Hour
	}
	p.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		f()
	}
	return p.err
}

func (p *place) Get(ctx context.Context, key string) (value []byte, err error) {
	err = p.access(ctx, func() { value = bytes.Clone(p.values[key]) })
	return value, err
}

func (p *place) Put(ctx context.Context, key string, value []byte, _ time.Duration) error {
	return p.access(ctx, func() {
		p.values[key] = bytes.Clone(value)
		p.changed <- struct{}{}
	})
}

// set changes the place.
func (p *place) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// sharing is a carrier with a place.
type sharing struct {
	transport.Carrier
	place transport.Cache
}

func (s sharing) Cache() transport.Cache { return s.place }

// journal is a log that a test can read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

// site is a bus with a server of /s whose results are shared, and a client.
type site struct {
	counter
	before func()          // a result is made, if not nil
	node   *transport.Node // of the server
	client *service.Client
	log    *journal
}

func newSite(t *testing.T, carrier func(transport.Carrier) transport.Carrier, ttl time.Duration) *site {
	t.Helper()
	bus := intraprocess.NewBus()
	s := &site{log: new(journal)}
	node, err := transport.NewNode(carrier(bus.Attach()), &transport.Options{Logger: slog.New(slog.NewTextHandler(s.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close(context.Background()) })
	s.node = node
	serve(t, node, "/s", func(ctx context.Context, m *transport.Message) ([]byte, error) {
		if s.before != nil {
			s.before()
		}
		return s.handle(ctx, m)
	}, service.Cache(ttl))
	s.client = newClient(t, newNode(t, bus), "/s")
	return s
}

func with(p *place) func(transport.Carrier) transport.Carrier {
	return func(c transport.Carrier) transport.Carrier { return sharing{c, p} }
}

func TestServersShareResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		a, b := newSite(t, with(p), 5*time.Second), newSite(t, with(p), 5*time.Second)
		b.runs.Store(100) // so that its results can be told apart
		begin := time.Now()
		for _, step := range []struct {
			at   time.Duration
			of   *site
			want string
		}{
			{0, a, "1"}, {3 * time.Second, b, "1"}, {4900 * time.Millisecond, b, "1"}, // as old as it is
			{5100 * time.Millisecond, b, "101"}, {6 * time.Second, a, "101"}, {time.Minute, a, "2"},
		} {
			time.Sleep(time.Until(begin.Add(step.at)))
			if got := call(t, step.of.client, "q"); got != step.want {
				t.Errorf("after %v: %s, want %s", step.at, got, step.want)
			}
		}
	})
}

// TestClockThatIsAhead: a result that seems to be of the future is used for ttl from when it was found, and no longer.
func TestClockThatIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		a := newSite(t, with(p), 5*time.Second)
		call(t, a.client, "q")
		<-p.changed
		p.set(func() {
			for _, value := range p.values { // behind its version it has its time
				binary.BigEndian.PutUint64(value[1:], uint64(time.Now().Add(24*time.Hour).UnixNano()))
			}
		})
		b := newSite(t, with(p), 5*time.Second)
		b.runs.Store(100)
		begin := time.Now()
		for _, step := range []struct {
			at   time.Duration
			want string
		}{{0, "1"}, {4900 * time.Millisecond, "1"}, {5100 * time.Millisecond, "101"}} {
			time.Sleep(time.Until(begin.Add(step.at)))
			if got := call(t, b.client, "q"); got != step.want {
				t.Errorf("after %v: %s, want %s", step.at, got, step.want)
			}
			p.set(func() { clear(p.values) }) // as a place does that forgets
		}
	})
}

func TestResultsAreSharedBehindAnOutbox(t *testing.T) {
	p := newPlace()
	behind := func(c transport.Carrier) transport.Carrier {
		box, err := outbox.Open(sharing{c, p}, outbox.Options{File: filepath.Join(t.TempDir(), "outbox.db")})
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	a, b := newSite(t, behind, time.Hour), newSite(t, with(p), time.Hour)
	call(t, a.client, "q")
	<-p.changed
	if call(t, b.client, "q"); a.runs.Load() != 1 || b.runs.Load() != 0 {
		t.Errorf("%d and %d runs", a.runs.Load(), b.runs.Load())
	}
}

func TestPlaceThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		s := newSite(t, with(p), time.Millisecond)
		p.set(func() { p.err = errors.New("no place") })
		ask := func(n int) {
			for range n {
				time.Sleep(100 * time.Millisecond)
				want := fmt.Sprint(s.runs.Load() + 1)
				if got := call(t, s.client, "q"); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		}
		ask(100) // ten seconds
		synctest.Wait()
		if p.accesses < 2 || p.accesses > 3 {
			t.Errorf("it was tried %d times in 10 s", p.accesses)
		}
		if warned := s.log.count(`no place`); warned != 1 {
			t.Errorf("%d warnings", warned)
		}
		p.set(func() { p.err = nil })
		ask(100)
		if s.log.count("no place") != 1 || s.log.count("again") != 1 {
			t.Errorf("the log:\n%s", s.log.text.String())
		}
		p.set(func() { p.err = errors.New("no place") })
		ask(2)
		if s.log.count("no place") != 2 {
			t.Errorf("the log:\n%s", s.log.text.String())
		}
	})
}

func TestPlaceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		s := newSite(t, with(p), time.Millisecond)
		p.set(func() { p.hangs = 1 << 10 })
		for i, most := range []time.Duration{500 * time.Millisecond, 0, 0} {
			begin := time.Now()
			if call(t, s.client, "q"); time.Since(begin) > most {
				t.Errorf("call %d took %v", i, time.Since(begin))
			}
			time.Sleep(time.Second)
		}
		if p.accesses != 1 || s.log.count("deadline exceeded") != 1 {
			t.Errorf("%d accesses, log:\n%s", p.accesses, s.log.text.String())
		}
	})
}

// A caller with little time does not wait for all that the place may take, which has not failed by that.
func TestPlaceThatIsSlowForACallerInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		p.delay = 300 * time.Millisecond
		s := newSite(t, with(p), time.Hour)
		took := func(request string, patience, most time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			begin := time.Now()
			if _, err := s.client.Call(ctx, []byte(request)); err != nil || time.Since(begin) > most {
				t.Errorf("%s with %v: %v after %v", request, patience, err, time.Since(begin))
			}
			time.Sleep(time.Second)
		}
		took("q", 400*time.Millisecond, 100*time.Millisecond)
		took("other", 20*time.Millisecond, 5*time.Millisecond)
		took("third", time.Minute, 300*time.Millisecond)
		p.set(func() {
			if len(p.values) != 3 || s.log.count("can't be shared") != 0 {
				t.Errorf("%d values, log:\n%s", len(p.values), s.log.text.String())
			}
		})
	})
}

// A place that hangs is left alone also if no caller has the time to find that out.
func TestPlaceThatHangsForCallersInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		p.hangs = 1 << 10
		s := newSite(t, with(p), time.Millisecond)
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
			begin := time.Now()
			if _, err := s.client.Call(ctx, []byte("q")); err != nil || time.Since(begin) > 100*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			cancel()
			time.Sleep(time.Second)
		}
		p.set(func() { // that of a first result was begun, too, and it was tried again after five seconds
			if p.accesses != 3 || s.log.count("can't be shared") != 1 {
				t.Errorf("%d accesses, log:\n%s", p.accesses, s.log.text.String())
			}
		})
	})
}

// So much is under way with a place that is slow, and no more: the handler is run for the others.
func TestPlaceThatIsSlowForManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		p.hangs = 1 << 10
		s := newSite(t, with(p), time.Hour)
		var calls sync.WaitGroup
		for i := range 500 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
				defer cancel()
				if _, err := s.client.Call(ctx, fmt.Append(nil, i)); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		p.set(func() {
			if p.accesses > 200 {
				t.Errorf("%d accesses at once", p.accesses)
			}
		})
	})
}

// Nobody waits until a result is shared but the Close of the node.
func TestPlaceThatIsSlowToKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace()
		s := newSite(t, with(p), time.Hour)
		s.before = func() { p.set(func() { p.delay = 400 * time.Millisecond }) }
		begin := time.Now()
		if bodies, errs := concurrently(t, s.client, 50); bodies["1"] != 50 || time.Since(begin) > 0 {
			t.Errorf("results %v, errors %v, after %v", bodies, errs, time.Since(begin))
		}
		if err := s.node.Close(t.Context()); err != nil || time.Since(begin) != 400*time.Millisecond || len(p.values) != 1 {
			t.Errorf("closed after %v with %d values: %v", time.Since(begin), len(p.values), err)
		}
	})
}

func TestPlaceThatHoldsSomethingElse(t *testing.T) {
	p := newPlace()
	first := newSite(t, with(p), time.Hour)
	call(t, first.client, "q")
	<-p.changed
	var key string
	for key = range p.values {
	}
	whole := p.values[key]
	for _, value := range []string{"\x02" + string(whole[1:]), "\x01", "\x01 no time", string(whole[:9]), string(whole[:9]) + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"} {
		p.set(func() { p.values[key] = []byte(value) })
		s := newSite(t, with(p), time.Hour)
		s.runs.Store(40)
		if got := call(t, s.client, "q"); got != "41" || s.log.count("") > 1 {
			t.Errorf("with %q: %s, log:\n%s", value, got, s.log.text.String())
		}
	}
}

func TestPlaceThatIsTooSmall(t *testing.T) {
	p := newPlace()
	s := newSite(t, func(c transport.Carrier) transport.Carrier { return sharing{c, smallPlace{p}} }, time.Hour)
	for range 2 {
		if got := call(t, s.client, "q"); got != "1" {
			t.Errorf("got %s", got)
		}
	}
	call(t, s.client, "other")
	if p.accesses != 2 || s.log.count("can't be shared") != 0 {
		t.Errorf("%d accesses, log:\n%s", p.accesses, s.log.text.String())
	}
}

// smallPlace is a place for nothing.
type smallPlace struct{ *place }

func (smallPlace) Put(context.Context, string, []byte, time.Duration) error {
	return fmt.Errorf("value: %w", transport.ErrTooLarge)
}

// A carrier can share results and yet have been opened without a place for them.
func TestNoPlace(t *testing.T) {
	s := newSite(t, func(c transport.Carrier) transport.Carrier { return sharing{c, nil} }, time.Hour)
	for range 2 {
		if got := call(t, s.client, "q"); got != "1" {
			t.Errorf("got %s", got)
		}
	}
}
