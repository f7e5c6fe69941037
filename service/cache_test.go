package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

// counter is a handler that answers with how often it has run.
type counter struct{ runs atomic.Int64 }

func (c *counter) handle(context.Context, *transport.Message) ([]byte, error) {
	return fmt.Append(nil, c.runs.Add(1)), nil
}

// call returns the body of an answer.
func call(t testing.TB, c *service.Client, request string, options ...transport.MessageOption) string {
	t.Helper()
	answer, err := c.Call(t.Context(), []byte(request), options...)
	if err != nil {
		t.Fatalf("call %s: %v", request, err)
	}
	return string(answer.Body)
}

func TestCachedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		var c counter
		serve(t, newNode(t, bus), "/s", c.handle, service.Cache(5*time.Second))
		client := newClient(t, newNode(t, bus), "/s")
		begin := time.Now()
		for _, step := range []struct {
			at   time.Duration
			want string
		}{{0, "1"}, {time.Second, "1"}, {4900 * time.Millisecond, "1"}, {5100 * time.Millisecond, "2"}, {10 * time.Second, "2"}, {time.Hour, "3"}} {
			time.Sleep(time.Until(begin.Add(step.at)))
			if got := call(t, client, "q"); got != step.want {
				t.Errorf("after %v: %s, want %s", step.at, got, step.want)
			}
		}
	})
}

func TestCacheTellsRequestsApart(t *testing.T) {
	bus := intraprocess.NewBus()
	var c counter
	serve(t, newNode(t, bus), "/s/*", c.handle, service.Cache(time.Hour))
	node := newNode(t, bus)
	a, ab := newClient(t, node, "/s/a"), newClient(t, node, "/s/ab")
	json := transport.WithContentType("application/json")
	for range 2 {
		for i, got := range []string{
			call(t, a, "x"), call(t, a, ""), call(t, a, "x", json), call(t, ab, "x"), call(t, a, "bx"),
			call(t, a, "application/jsonx"), call(t, a, "x", transport.WithFile("a.csv")), call(t, a, "x", transport.WithFile("b.csv")),
		} {
			if want := fmt.Sprint(i + 1); got != want {
				t.Errorf("request %d: %s", i+1, got)
			}
		}
	}
	if got := call(t, newClient(t, newNode(t, bus), "/s/a"), "x", transport.WithHeader("Trace", "7")); got != "1" {
		t.Errorf("another client: %s", got)
	}
}

func TestCacheKeepsContentTypesAndCopies(t *testing.T) {
	bus := intraprocess.NewBus()
	room := []byte("first")
	serve(t, newNode(t, bus), "/bytes", func(context.Context, *transport.Message) ([]byte, error) { return room, nil }, service.Cache(time.Hour))
	typed, err := service.NewTypedServer(newNode(t, bus), "/typed", codec.JSON[int](), codec.JSON[string](), service.Cache(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	if err := typed.Handle(func(_ context.Context, n int) (string, error) { runs++; return fmt.Sprint(n), nil }); err != nil {
		t.Fatal(err)
	}
	node := newNode(t, bus)
	client := newClient(t, node, "/bytes")
	call(t, client, "q")
	copy(room, "other") // the handler's own
	if got := call(t, client, "q"); got != "first" {
		t.Errorf("got %s", got)
	}
	client = newClient(t, node, "/typed")
	for range 2 {
		answer, err := client.Call(t.Context(), []byte("7"), transport.WithContentType("application/json"))
		if err != nil || string(answer.Body) != `"7"` || answer.ContentType != "application/json" || runs != 1 {
			t.Errorf("answer %+v, %v, after %d runs", answer, err, runs)
		}
	}
}

// concurrently makes n calls at once, and returns their outcomes when all have ended.
func concurrently(t *testing.T, client *service.Client, n int) (bodies map[string]int, errs map[string]int) {
	bodies, errs = make(map[string]int), make(map[string]int)
	var mu sync.Mutex
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() {
			answer, err := client.Call(t.Context(), []byte("q"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[err.Error()]++
			} else {
				bodies[string(answer.Body)]++
			}
		})
	}
	calls.Wait()
	return bodies, errs
}

func TestSameRequestsAtOnceRunTheHandlerOnce(t *testing.T) {
	for _, test := range []struct {
		name    string
		outcome func() ([]byte, error)
		body    string
		err     string
	}{
		{"result", func() ([]byte, error) { return []byte("a"), nil }, "a", ""},
		{"error", func() ([]byte, error) { return nil, &transport.RemoteError{Code: 422, Text: "no"} }, "", "remote error 422: no"},
		{"panic", func() ([]byte, error) { panic("oh") }, "", "the handler panicked"},
		{"goexit", func() ([]byte, error) { runtime.Goexit(); return nil, nil }, "", "the handler ended without an answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := intraprocess.NewBus()
				var runs atomic.Int64
				serve(t, newNode(t, bus), "/s", func(context.Context, *transport.Message) ([]byte, error) {
					runs.Add(1)
					time.Sleep(time.Second)
					return test.outcome()
				}, service.Cache(time.Minute))
				client := newClient(t, newNode(t, bus), "/s")
				bodies, errs := concurrently(t, client, 50)
				if runs.Load() != 1 {
					t.Errorf("the handler has run %d times", runs.Load())
				}
				if test.err == "" {
					if bodies[test.body] != 50 {
						t.Errorf("results %v, errors %v", bodies, errs)
					}
					return
				}
				for text, n := range errs {
					if n != 50 || !strings.HasSuffix(text, test.err) {
						t.Errorf("%d errors %s", n, text)
					}
				}
				if len(errs) != 1 {
					t.Errorf("results %v, errors %v", bodies, errs)
				}
				if _, errs := concurrently(t, client, 1); len(errs) != 1 || runs.Load() != 2 {
					t.Errorf("errors %v after %d runs: an error was kept", errs, runs.Load())
				}
			})
		})
	}
}

// The caller whose request runs the handler has less time than those who wait for the outcome.
func TestCacheRunsAgainForThoseWithMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		var runs atomic.Int64
		serve(t, newNode(t, bus), "/s", func(ctx context.Context, _ *transport.Message) ([]byte, error) {
			runs.Add(1)
			select {
			case <-time.After(3 * time.Second):
				return []byte("a"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}, service.Cache(time.Minute))
		client := newClient(t, newNode(t, bus), "/s")
		var calls sync.WaitGroup
		for _, c := range []struct {
			patience time.Duration
			gets     bool
		}{{time.Second, false}, {time.Minute, true}, {time.Minute, true}, {500 * time.Millisecond, false}} {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				begin := time.Now()
				answer, err := client.Call(ctx, []byte("q"))
				took := time.Since(begin)
				if c.gets && (err != nil || string(answer.Body) != "a" || took != 4*time.Second) {
					t.Errorf("with %v: %v, %v after %v", c.patience, answer, err, took)
				}
				if !c.gets && (!errors.Is(err, transport.ErrTimeout) && !isDeadline(err) || took != c.patience) {
					t.Errorf("with %v: %v, %v after %v", c.patience, answer, err, took)
				}
			})
			synctest.Wait()
		}
		calls.Wait()
		if runs.Load() != 2 {
			t.Errorf("the handler has run %d times", runs.Load())
		}
	})
}

// isDeadline reports whether a server has answered that the time was over.
func isDeadline(err error) bool {
	remote, ok := errors.AsType[*transport.RemoteError](err)
	return ok && remote.Code == service.CodeDeadline
}

func TestCacheIsBounded(t *testing.T) {
	bus := intraprocess.NewBus()
	var c counter
	serve(t, newNode(t, bus), "/number", c.handle, service.Cache(time.Hour))
	client := newClient(t, newNode(t, bus), "/number")
	for i := range service.CachedAnswers + 1 {
		call(t, client, fmt.Sprint(i))
	}
	if got, want := call(t, client, fmt.Sprint(service.CachedAnswers)), fmt.Sprint(service.CachedAnswers+1); got != want {
		t.Errorf("the newest result: %s, want %s", got, want)
	}
	if got, want := call(t, client, "0"), fmt.Sprint(service.CachedAnswers+2); got != want {
		t.Errorf("the oldest result: %s, want %s", got, want)
	}

	const size = 1 << 20
	var runs atomic.Int64
	serve(t, newNode(t, bus), "/bytes", func(context.Context, *transport.Message) ([]byte, error) {
		runs.Add(1)
		return make([]byte, size), nil
	}, service.Cache(time.Hour))
	client = newClient(t, newNode(t, bus), "/bytes")
	const most = service.CachedBytes / size
	for i := range most + 1 {
		call(t, client, fmt.Sprint(i))
	}
	for _, request := range []int{1, most, 0} {
		call(t, client, fmt.Sprint(request))
	}
	if got := runs.Load(); got != most+2 {
		t.Errorf("the handler has run %d times, want %d", got, most+2)
	}
}

// TestCacheEndsWithItsServer: what a server has kept does not stay for its ttl when it, or its node, is closed.
func TestCacheEndsWithItsServer(t *testing.T) {
	const size, calls = 1 << 20, 32
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // what has been in a pool, too
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	for name, end := range map[string]func(*transport.Node, *service.Server) error{
		"server": func(_ *transport.Node, s *service.Server) error { return s.Close() },
		"node":   func(n *transport.Node, _ *service.Server) error { return n.Close(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			func() {
				bus := intraprocess.NewBus()
				node, err := transport.NewNode(bus.Attach(), &transport.Options{Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				defer node.Close(t.Context())
				server, err := service.NewServer(node, "/s", service.Cache(time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				handle := func(context.Context, *transport.Message) ([]byte, error) { return make([]byte, size), nil }
				if err := server.Handle(handle); err != nil {
					t.Fatal(err)
				}
				other, err := transport.NewNode(bus.Attach(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close(t.Context())
				client := newClient(t, other, "/s")
				for i := range calls {
					call(t, client, fmt.Sprint(i))
				}
				if err := end(node, server); err != nil {
					t.Error(err)
				}
			}()
			if more := heap() - before; more > calls*size/2 {
				t.Errorf("%d bytes are left of %d", more, calls*size)
			}
		})
	}
}

func TestCacheForNoTime(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	for _, ttl := range []time.Duration{0, -1, -time.Hour} {
		if _, err := service.NewServer(node, "/s", service.Cache(ttl)); err == nil || !strings.Contains(err.Error(), "/s: results can be kept for a time greater than 0, not for "+ttl.String()) {
			t.Errorf("%v: %v", ttl, err)
		}
	}
}
