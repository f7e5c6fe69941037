package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openNode returns a node on the bus that the test closes itself.
func openNode(t testing.TB, bus *intraprocess.Bus) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(bus.Attach(), &transport.Options{Logger: slog.New(slog.DiscardHandler), MaxBody: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// newNode returns a node on the bus that is closed at the end of the test.
func newNode(t testing.TB, bus *intraprocess.Bus) *transport.Node {
	t.Helper()
	node := openNode(t, bus)
	t.Cleanup(func() {
		if err := node.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return node
}

func newClient(t testing.TB, node *transport.Node, name string) *service.Client {
	t.Helper()
	c, err := service.NewClient(node, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newServer(t testing.TB, node *transport.Node, name string, options ...service.ServerOption) *service.Server {
	t.Helper()
	s, err := service.NewServer(node, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve returns a server on the node that answers with handler.
func serve(t testing.TB, node *transport.Node, name string, handler service.Handler, options ...service.ServerOption) *service.Server {
	t.Helper()
	s := newServer(t, node, name, options...)
	if err := s.Handle(handler); err != nil {
		t.Fatal(err)
	}
	return s
}

// echo answers with the request.
func echo(_ context.Context, m *transport.Message) ([]byte, error) { return m.Body, nil }

func next(t testing.TB, s *service.Server) *service.Request {
	t.Helper()
	r, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func send(t testing.TB, c *service.Client, request string) uint64 {
	t.Helper()
	seq, err := c.Send(t.Context(), []byte(request))
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestCall(t *testing.T) {
	bus := intraprocess.NewBus()
	s := serve(t, newNode(t, bus), "/echo", echo)
	c := newClient(t, newNode(t, bus), "/echo")
	answer, err := c.Call(t.Context(), []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if string(answer.Body) != "hello" || answer.Kind != transport.Response || answer.Name != "/echo" {
		t.Errorf("answer %v %q %q", answer.Kind, answer.Name, answer.Body)
	}
	if answer.Info.ClientGID != c.GID() || answer.Info.RequestSequence != 1 || answer.Info.PublisherGID != s.GID() {
		t.Errorf("answer has %+v", answer.Info)
	}
	if gid, seq, ok := answer.InReplyTo.Origin(); !ok || gid != c.GID() || seq != 1 {
		t.Errorf("answer replies to %v", answer.InReplyTo)
	}
}

func TestRequestIsTakenAndAnswered(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	c, s := newClient(t, node, "/s"), newServer(t, node, "/s")
	if _, ok := s.TryNext(); ok || s.Ready() {
		t.Error("a request came from nowhere")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seq, err := c.Send(ctx, []byte("q"), transport.WithHeader("Trace", "7"))
	if err != nil {
		t.Fatal(err)
	}
	r, ok := s.TryNext()
	if !ok {
		t.Fatal("no request")
	}
	deadline, _ := ctx.Deadline()
	if string(r.Body) != "q" || r.Header.Get("trace") != "7" || !r.Deadline.Equal(deadline) {
		t.Errorf("request %q, header %v, deadline %v", r.Body, r.Header, r.Deadline)
	}
	if c.HasResponse(seq) || c.Ready() {
		t.Error("there is a response before the answer")
	}
	if err := r.Respond(t.Context(), []byte("a"), transport.WithContentType("text/x")); err != nil {
		t.Fatal(err)
	}
	if err := r.Respond(t.Context(), []byte("b")); !errors.Is(err, service.ErrAnswered) {
		t.Errorf("second answer: %v", err)
	}
	if err := r.RespondError(t.Context(), errors.New("x")); !errors.Is(err, service.ErrAnswered) {
		t.Errorf("second answer: %v", err)
	}
	if !c.HasResponse(seq) || !c.Ready() {
		t.Error("the answer is not there")
	}
	answer, err := c.Response(t.Context(), seq)
	if err != nil || string(answer.Body) != "a" || answer.ContentType != "text/x" {
		t.Errorf("answer %v, %v", answer, err)
	}
	if c.HasResponse(seq) || c.Ready() {
		t.Error("the answer is there after it was collected")
	}
	if _, err := c.Response(t.Context(), seq); !errors.Is(err, service.ErrUnknownCall) {
		t.Errorf("second Response: %v", err)
	}
}

func TestAnswersOutOfOrderFindTheirCalls(t *testing.T) {
	bus := intraprocess.NewBus()
	s := newServer(t, newNode(t, bus), "/s")
	shared := newNode(t, bus)
	clients := []*service.Client{newClient(t, shared, "/s"), newClient(t, shared, "/s"), newClient(t, newNode(t, bus), "/s")}
	var calls sync.WaitGroup
	for i, c := range clients {
		for j := range 20 {
			calls.Go(func() {
				question := fmt.Sprint(i, "/", j)
				answer, err := c.Call(context.Background(), []byte(question))
				if err != nil || string(answer.Body) != "to "+question {
					t.Errorf("%s got %v, %v", question, answer, err)
				}
			})
		}
	}
	var requests []*service.Request
	for range len(clients) * 20 {
		requests = append(requests, next(t, s))
	}
	for _, r := range slices.Backward(requests) {
		if err := r.Respond(t.Context(), append([]byte("to "), r.Body...)); err != nil {
			t.Error(err)
		}
	}
	calls.Wait()
}

func TestErrorAnswers(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler service.Handler
		code    int
		text    string
	}{
		{"error", func(context.Context, *transport.Message) ([]byte, error) { return nil, errors.New("no luck") }, service.CodeError, "no luck"},
		{"own code", func(context.Context, *transport.Message) ([]byte, error) {
			return nil, fmt.Errorf("wrapped: %w", &transport.RemoteError{Code: -32601, Text: "method not found"})
		}, -32601, "method not found"},
		{"panic", func(context.Context, *transport.Message) ([]byte, error) { panic("secret") }, service.CodeError, "the handler panicked"},
		{"goexit", func(context.Context, *transport.Message) ([]byte, error) { runtime.Goexit(); return nil, nil }, service.CodeError, "the handler ended without an answer"},
		{"deadline", func(context.Context, *transport.Message) ([]byte, error) {
			return nil, fmt.Errorf("database: %w", context.DeadlineExceeded)
		}, service.CodeDeadline, "database: context deadline exceeded"},
		{"nil error of the type", func(context.Context, *transport.Message) ([]byte, error) {
			var none *transport.RemoteError
			return nil, none
		}, service.CodeError, "remote error"},
		{"error that panics", func(context.Context, *transport.Message) ([]byte, error) {
			return nil, badError{}
		}, service.CodeError, "badError"},
		{"code too large", func(context.Context, *transport.Message) ([]byte, error) {
			return nil, &transport.RemoteError{Code: 1 << 40, Text: "x"}
		}, service.CodeError, "1099511627776"},
		{"long error", func(context.Context, *transport.Message) ([]byte, error) {
			return nil, errors.New(strings.Repeat("ü", 4096))
		}, service.CodeError, "üüü…"},
		{"result too large", func(context.Context, *transport.Message) ([]byte, error) { return make([]byte, 2<<20), nil }, service.CodeError, "too large"},
	} {
		for _, concurrency := range []int{1, 8} {
			t.Run(fmt.Sprint(c.name, ", concurrency ", concurrency), func(t *testing.T) {
				bus := intraprocess.NewBus()
				node := openNode(t, bus)
				serve(t, node, "/s", c.handler, service.Concurrency(concurrency))
				client := newClient(t, newNode(t, bus), "/s")
				for range 3 { // what goes wrong does not end the server
					_, err := client.Call(t.Context(), nil)
					var remote *transport.RemoteError
					if !errors.As(err, &remote) || remote.Code != c.code || !strings.Contains(remote.Text, c.text) {
						t.Errorf("got %v", err)
					}
				}
				if err := node.Close(t.Context()); err != nil { // waits for second answers, if any
					t.Fatal(err)
				}
				if client.Late() != 0 {
					t.Error("there was more than one answer")
				}
			})
		}
	}
}

// badError is an error whose text can't be had.
type badError struct{}

func (badError) Error() string { panic("no text") }

func TestNobodyServes(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	c := newClient(t, node, "/nobody")
	if _, err := c.Call(t.Context(), nil); !errors.Is(err, transport.ErrNoResponder) {
		t.Errorf("got %v", err)
	}
}

func TestTimeoutAndLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		s, c := newServer(t, node, "/s"), newClient(t, node, "/s")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := c.Call(ctx, nil)
		if !errors.Is(err, transport.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 300*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
		// The late answer, and a duplicate of it, are dropped and counted.
		r := next(t, s)
		if !r.Expired(time.Now().Add(1)) {
			t.Error("the server cannot see the deadline")
		}
		for range 2 {
			answer := &transport.Message{Kind: transport.Response, Name: "/s", InReplyTo: r.ID, To: []string{r.ReplyTo},
				Info: transport.Info{PublisherGID: s.GID(), Sequence: 1, ClientGID: r.Info.ClientGID, RequestSequence: r.Info.RequestSequence}}
			if err := node.Send(t.Context(), answer); err != nil {
				t.Fatal(err)
			}
		}
		if c.Late() != 2 {
			t.Errorf("%d late answers were counted, want 2", c.Late())
		}
	})
}

func TestDefaultTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		newServer(t, node, "/s") // takes requests and never answers
		c := newClient(t, node, "/s")
		begin := time.Now()
		if _, err := c.Call(context.Background(), nil); !errors.Is(err, transport.ErrTimeout) || time.Since(begin) != service.DefaultTimeout {
			t.Errorf("Call: %v after %v", err, time.Since(begin))
		}
		seq, err := c.Send(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		woken := make(chan struct{}, 1)
		defer c.Watch(func() { woken <- struct{}{} })()
		<-woken // the deadline is an event, too: a wait set must not miss it
		if !c.Ready() || !c.HasResponse(seq) {
			t.Error("the client is not ready when a deadline has passed")
		}
		if _, err := c.Response(context.Background(), seq); !errors.Is(err, transport.ErrTimeout) || time.Since(begin) != service.DefaultTimeout {
			t.Errorf("Response: %v after %v", err, time.Since(begin))
		}
	})
}

func TestResponseCanBeWaitedForAgain(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	s, c := newServer(t, node, "/s"), newClient(t, node, "/s")
	seq := send(t, c, "q")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Response(ctx, seq); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := next(t, s).Respond(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	// An answer that is there counts even when the context has ended.
	if answer, err := c.Response(ctx, seq); err != nil || string(answer.Body) != "a" {
		t.Errorf("got %v, %v", answer, err)
	}
}

func TestPersonsAnswerIsFoundByInReplyTo(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	s, c := newServer(t, node, "/approve"), newClient(t, node, "/approve")
	seq := send(t, c, "may I?")
	r := next(t, s)
	answer := &transport.Message{Kind: transport.Response, Name: "/approve", Body: []byte("yes"),
		ID: transport.ParseID("<abc@mail.example>"), InReplyTo: r.ID, To: []string{r.ReplyTo}}
	if err := node.Send(t.Context(), answer); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Response(t.Context(), seq); err != nil || string(got.Body) != "yes" {
		t.Errorf("got %v, %v", got, err)
	}
}

// bouncing is a carrier by which every request comes back as undeliverable.
type bouncing struct {
	transport.Carrier
	deliver map[transport.GID]func(transport.Delivery)
}

func (c bouncing) Receive(i transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	c.deliver[i.Client] = deliver
	return func() { delete(c.deliver, i.Client) }, nil
}

func (c bouncing) Send(_ context.Context, msgs ...*transport.Message) error {
	for _, m := range msgs {
		c.deliver[m.Info.ClientGID](transport.Delivery{Message: &transport.Message{Kind: transport.Undeliverable,
			InReplyTo: m.ID, Error: &transport.RemoteError{Code: 550, Text: "no such user"}}})
	}
	return nil
}

func TestBounceFailsTheCall(t *testing.T) {
	node, err := transport.NewNode(bouncing{intraprocess.New(), make(map[transport.GID]func(transport.Delivery))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	_, err = newClient(t, node, "/s").Call(t.Context(), nil)
	var failed *transport.SendError
	if !errors.Is(err, transport.ErrUndeliverable) || !errors.As(err, &failed) || failed.Code != 550 || !strings.Contains(err.Error(), "no such user") {
		t.Errorf("got %v", err)
	}
}

func TestHandlerSeesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		var ran int
		serve(t, node, "/s", func(ctx context.Context, m *transport.Message) ([]byte, error) {
			ran++
			<-ctx.Done()
			return nil, ctx.Err()
		}, service.Concurrency(1))
		c := newClient(t, node, "/s")
		var answers uint64
		outcome := func(err error) {
			var remote *transport.RemoteError
			switch {
			case errors.As(err, &remote) && remote.Code == service.CodeDeadline:
				answers++ // it came in the very instant of the deadline
			case !errors.Is(err, transport.ErrTimeout):
				t.Errorf("got %v", err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Call(ctx, nil)
		outcome(err)
		// Two at once, one at a time: the second has expired when its turn comes.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 2 {
			if _, err := c.Send(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second) // of the bubble's clock
		synctest.Wait()
		for seq := range uint64(2) {
			_, err := c.Response(context.Background(), 2+seq)
			outcome(err)
		}
		// Every request was answered once, whether somebody still waited or not.
		if answers += c.Late(); answers != 3 {
			t.Errorf("%d answers, want 3", answers)
		}
		if ran != 2 {
			t.Errorf("the handler ran %d times, want 2: not for the expired request", ran)
		}
	})
}

func TestConcurrency(t *testing.T) {
	for _, c := range []struct {
		options []service.ServerOption
		want    int
	}{
		{nil, service.DefaultConcurrency},
		{[]service.ServerOption{service.Concurrency(3)}, 3},
		{[]service.ServerOption{service.Concurrency(0)}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			node := newNode(t, intraprocess.NewBus())
			var mu sync.Mutex
			running, most := 0, 0
			serve(t, node, "/s", func(context.Context, *transport.Message) ([]byte, error) {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(time.Second) // of the bubble's clock
				mu.Lock()
				running--
				mu.Unlock()
				return nil, nil
			}, c.options...)
			client := newClient(t, node, "/s")
			for range 100 {
				send(t, client, "")
			}
			for seq := range uint64(100) {
				if _, err := client.Response(context.Background(), seq+1); err != nil && !errors.Is(err, transport.ErrTimeout) && c.want > 1 {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if most != c.want {
				t.Errorf("%d handlers at once, want %d", most, c.want)
			}
		})
	}
}

func TestCloseDrainsServers(t *testing.T) {
	bus := intraprocess.NewBus()
	back := openNode(t, bus)
	helper := newNode(t, bus)
	serve(t, helper, "/inner", echo)
	inner := newClient(t, back, "/inner")
	started := make(chan struct{}, 10)
	release := make(chan struct{})
	serve(t, back, "/outer", func(ctx context.Context, m *transport.Message) ([]byte, error) {
		started <- struct{}{}
		<-release
		answer, err := inner.Call(ctx, m.Body) // a handler can still call while its node drains
		if err != nil {
			return nil, err
		}
		return answer.Body, nil
	})
	c := newClient(t, newNode(t, bus), "/outer")
	seqs := []uint64{send(t, c, "1"), send(t, c, "2")}
	<-started
	<-started
	closed := make(chan error)
	go func() { closed <- back.Close(context.Background()) }()
	close(release)
	for i, seq := range seqs {
		if answer, err := c.Response(t.Context(), seq); err != nil || string(answer.Body) != fmt.Sprint(i+1) {
			t.Errorf("call %d: %v, %v", i+1, answer, err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	bus := intraprocess.NewBus()
	node := openNode(t, bus)
	s := newServer(t, newNode(t, bus), "/s")
	c, other := newClient(t, node, "/s"), newClient(t, node, "/s")
	seq := send(t, c, "q")
	c.Close()
	c.Close()
	if !c.Ready() || !c.HasResponse(seq) {
		t.Error("a closed client is not ready")
	}
	if _, err := c.Response(t.Context(), seq); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Response of a closed client: %v", err)
	}
	if _, err := c.Call(t.Context(), nil); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Call of a closed client: %v", err)
	}
	failed := make(chan error)
	go func() {
		_, err := other.Call(context.Background(), nil)
		failed <- err
	}()
	next(t, s)
	next(t, s) // the call is under way
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, transport.ErrClosed) {
		t.Errorf("call under way when the node was closed: %v", err)
	}
	if _, err := service.NewServer(node, "/s"); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("NewServer after the node was closed: %v", err)
	}
	if _, err := service.NewClient(node, "/s"); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("NewClient after the node was closed: %v", err)
	}
	s.Close()
	if _, err := s.Next(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Next of a closed server: %v", err)
	}
}

func TestRefused(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	for _, name := range []string{"", "a b", "/s/*", "a\n"} {
		if _, err := service.NewClient(node, name); !errors.Is(err, transport.ErrInvalidName) {
			t.Errorf("client of %q: %v", name, err)
		}
	}
	if _, err := service.NewServer(node, "a b"); !errors.Is(err, transport.ErrInvalidName) {
		t.Errorf("server: %v", err)
	}
	s := serve(t, node, "/s", echo)
	if err := s.Handle(echo); err == nil {
		t.Error("a second Handle did not fail")
	}
	if _, err := newClient(t, node, "/s").Call(t.Context(), make([]byte, 2<<20)); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("large request: %v", err)
	}
}

func TestOutstandingCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		newServer(t, node, "/s")
		c := newClient(t, node, "/s")
		for range service.MaxOutstanding {
			send(t, c, "")
		}
		if _, err := c.Send(t.Context(), nil); !errors.Is(err, service.ErrTooManyCalls) {
			t.Fatalf("got %v", err)
		}
		// What nobody has collected by its deadline makes room.
		time.Sleep(service.DefaultTimeout + 1) // of the bubble's clock
		send(t, c, "")
	})
}

// slowCarrier takes requests until their context ends.
type slowCarrier struct {
	transport.Carrier
	outcome transport.Outcome
}

func (c slowCarrier) Send(ctx context.Context, msgs ...*transport.Message) error {
	<-ctx.Done()
	return &transport.SendError{Name: msgs[0].Name, Outcome: c.outcome, Err: transport.ContextError(ctx)}
}

// A Send that fails at the very deadline of its call leaves nothing to be collected.
func TestSendFailsAtItsDeadline(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			node, err := transport.NewNode(slowCarrier{intraprocess.New(), transport.Temporary}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer node.Close(context.Background())
			c := newClient(t, node, "/s")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := c.Send(ctx, nil); !errors.Is(err, transport.ErrTimeout) {
				t.Errorf("got %v", err)
			}
			synctest.Wait()
			if c.Ready() {
				t.Error("the client is ready, with nothing to collect")
			}
		})
	}
}

// A request that may have been sent may be answered.
func TestAnswerToARequestOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		node, err := transport.NewNode(slowCarrier{bus.Attach(), transport.Unknown}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close(context.Background())
		other := newNode(t, bus)
		c := newClient(t, node, "/s")
		sending, cancel := context.WithCancel(t.Context())
		cancel()
		seq, err := c.Send(sending, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer := &transport.Message{Kind: transport.Response, Name: "/s", InReplyTo: transport.NewID(c.GID(), seq, "intraprocess")}
		if err := other.Send(t.Context(), answer); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Response(t.Context(), seq); err != nil {
			t.Errorf("got %v", err)
		}
		// Without an answer, the error says that the request may not have been sent.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.Call(ctx, nil)
		var unsent *transport.SendError
		if !errors.Is(err, transport.ErrTimeout) || !errors.As(err, &unsent) {
			t.Errorf("got %v", err)
		}
	})
}

// Whoever waits for a call that is dropped to make room gets its outcome.
func TestEvictedCallsTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		newServer(t, node, "/s")
		c := newClient(t, node, "/s")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errs := make(chan error)
		const waiters = 100
		for i := range service.MaxOutstanding {
			seq, err := c.Send(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if i < waiters {
				go func() {
					_, err := c.Response(context.Background(), seq)
					errs <- err
				}()
			}
		}
		time.Sleep(time.Second) // of the bubble's clock
		if _, err := c.Send(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		for range waiters {
			if err := <-errs; !errors.Is(err, transport.ErrTimeout) {
				t.Errorf("got %v", err)
			}
		}
		synctest.Wait()
		if c.Ready() && !c.HasResponse(service.MaxOutstanding) {
			t.Error("the client is ready, with nothing to collect")
		}
	})
}

// Every answer either reaches its call or is counted.
func TestAnswersAtTheEndOfACallAreCounted(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	s, c := newServer(t, node, "/s"), newClient(t, node, "/s")
	var reached uint64
	const calls = 2000
	for range calls {
		ctx, cancel := context.WithCancel(t.Context())
		outcome := make(chan error)
		go func() {
			_, err := c.Call(ctx, nil)
			outcome <- err
		}()
		r := next(t, s)
		var end sync.WaitGroup
		end.Go(cancel)
		end.Go(func() {
			if err := r.Respond(context.Background(), nil); err != nil {
				t.Error(err)
			}
		})
		if <-outcome == nil {
			reached++
		}
		end.Wait()
	}
	if reached+c.Late() != calls {
		t.Errorf("of %d answers %d reached their call and %d were late", calls, reached, c.Late())
	}
}

func TestClosedServerStillAnswers(t *testing.T) {
	for _, handled := range []bool{true, false} {
		bus := intraprocess.NewBus()
		node := openNode(t, bus)
		s := newServer(t, node, "/s", service.Concurrency(1))
		begin := make(chan struct{})
		if handled {
			err := s.Handle(func(context.Context, *transport.Message) ([]byte, error) {
				<-begin
				return nil, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		c := newClient(t, newNode(t, bus), "/s")
		seqs := []uint64{send(t, c, "1"), send(t, c, "2"), send(t, c, "3")}
		s.Close()
		close(begin)
		if err := node.Close(t.Context()); err != nil { // waits for the answers
			t.Fatal(err)
		}
		for _, seq := range seqs {
			if !c.HasResponse(seq) {
				t.Fatal("a request that had arrived was not answered")
			}
			_, err := c.Response(t.Context(), seq)
			var remote *transport.RemoteError
			if handled && err != nil || !handled && (!errors.As(err, &remote) || remote.Code != service.CodeClosing) {
				t.Errorf("handled %v: %v", handled, err)
			}
		}
	}
}

// failOnce refuses the first answer.
type failOnce struct {
	transport.Carrier
	failed bool
	sent   []transport.ID
}

func (c *failOnce) Send(ctx context.Context, msgs ...*transport.Message) error {
	if m := msgs[0]; m.Kind == transport.Response {
		c.sent = append(c.sent, m.ID)
		if !c.failed {
			c.failed = true
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Err: errors.New("no")}
		}
	}
	return c.Carrier.Send(ctx, msgs...)
}

func TestAnswerKeepsItsIDWhenSentAgain(t *testing.T) {
	carrier := &failOnce{Carrier: intraprocess.New()}
	node, err := transport.NewNode(carrier, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	s, c := newServer(t, node, "/s"), newClient(t, node, "/s")
	send(t, c, "q")
	r := next(t, s)
	if err := r.Respond(t.Context(), nil); err == nil {
		t.Error("the first answer was taken")
	}
	if err := r.Respond(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if len(carrier.sent) != 2 || carrier.sent[0] != carrier.sent[1] {
		t.Errorf("the answers have the IDs %v", carrier.sent)
	}
}

func TestWatch(t *testing.T) {
	node := newNode(t, intraprocess.NewBus())
	s, c := newServer(t, node, "/s"), newClient(t, node, "/s")
	requests, answers := make(chan struct{}, 9), make(chan struct{}, 9)
	stop := s.Watch(func() { requests <- struct{}{} })
	defer stop()
	defer c.Watch(func() { answers <- struct{}{} })()
	seq := send(t, c, "q")
	<-requests
	if err := next(t, s).Respond(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	<-answers
	if !c.HasResponse(seq) {
		t.Error("woken without a response")
	}
}

func TestTyped(t *testing.T) {
	type sum struct{ A, B int }
	node := newNode(t, intraprocess.NewBus())
	s, err := service.NewTypedServer(node, "/add", codec.JSON[sum](), codec.JSON[int]())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Handle(func(_ context.Context, r sum) (int, error) {
		if r.B == 0 {
			return 0, &transport.RemoteError{Code: 7, Text: "nothing to add"}
		}
		return r.A + r.B, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := service.NewTypedClient(node, "/add", codec.JSON[sum](), codec.JSON[int]())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Call(t.Context(), sum{2, 3}); err != nil || got != 5 {
		t.Errorf("got %d, %v", got, err)
	}
	seq, err := c.Send(t.Context(), sum{4, 5})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Response(t.Context(), seq); err != nil || got != 9 {
		t.Errorf("got %d, %v", got, err)
	}
	var remote *transport.RemoteError
	if _, err := c.Call(t.Context(), sum{}); !errors.As(err, &remote) || remote.Code != 7 {
		t.Errorf("got %v", err)
	}
	// A request that can't be decoded gets an answer, too.
	if _, err := newClient(t, node, "/add").Call(t.Context(), []byte("{")); !errors.As(err, &remote) || remote.Code != service.CodeBadRequest {
		t.Errorf("got %v", err)
	}
	// And so does a response that can't be decoded.
	text, err := service.NewTypedClient(node, "/add", codec.JSON[sum](), codec.JSON[string]())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := text.Call(t.Context(), sum{1, 1}); !errors.Is(err, codec.ErrDecode) {
		t.Errorf("got %v", err)
	}
}
