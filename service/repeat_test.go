package service_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// caller sends requests by hand, so that they can be sent twice, and keeps the answers.
type caller struct {
	node *transport.Node
	gid  transport.GID

	mu      sync.Mutex
	answers []*transport.Message
}

func newCaller(t *testing.T, node *transport.Node) *caller {
	t.Helper()
	c := &caller{node: node, gid: transport.NewGID()}
	if _, err := node.Receive(transport.Interest{Kind: transport.Response, Client: c.gid}, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *caller) Deliver(d transport.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, d.Message)
}

func (c *caller) Drain(context.Context) error { return nil }

func (c *caller) got() []*transport.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers
}

// request sends request number n.
func (c *caller) request(t *testing.T, n uint64) {
	t.Helper()
	err := c.node.Send(t.Context(), &transport.Message{
		Kind: transport.Request, Name: "/s", Body: []byte("q"),
		Info: transport.Info{PublisherGID: c.gid, Sequence: n, ClientGID: c.gid, RequestSequence: n},
	})
	if err != nil {
		t.Error(err)
	}
}

// kinds are the servers that remember, and one that does not.
var kinds = map[string][]service.ServerOption{
	"live":    nil,
	"durable": {service.Durable("d")},
	"group":   {service.Group("g")},
}

func TestRequestThatComesTwiceIsHandledOnce(t *testing.T) {
	for name, options := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := intraprocess.NewBus()
				c := newCaller(t, newNode(t, bus))
				var ran atomic.Int32
				serve(t, newNode(t, bus), "/s", func(_ context.Context, m *transport.Message) ([]byte, error) {
					ran.Add(1)
					time.Sleep(time.Second) // of the bubble's clock
					return []byte("a"), nil
				}, options...)
				c.request(t, 1)
				synctest.Wait()
				c.request(t, 1) // while the handler runs
				time.Sleep(2 * time.Second)
				if n := len(c.got()); n != 1 || ran.Load() != 1 {
					t.Fatalf("%d answers, and the handler ran %d times", n, ran.Load())
				}
				for range 2 {
					c.request(t, 1) // when it has been answered
					synctest.Wait()
				}
				c.request(t, 2)
				time.Sleep(2 * time.Second)
				got := c.got()
				if len(got) != 4 || ran.Load() != 2 {
					t.Fatalf("%d answers, and the handler ran %d times", len(got), ran.Load())
				}
				for _, m := range got[1:3] {
					if m.ID != got[0].ID || string(m.Body) != "a" || m.Info.RequestSequence != 1 || m.InReplyTo != got[0].InReplyTo {
						t.Errorf("the first answer was %+v, another %+v", got[0], m)
					}
				}
			})
		})
	}
}

// A repeated answer is the first one in every respect, whatever becomes of what it was made of.
func TestRepeatedAnswerIsTheSame(t *testing.T) {
	for name, respond := range map[string]func(context.Context, *service.Request, []byte) error{
		"result": func(ctx context.Context, r *service.Request, body []byte) error {
			options := []transport.MessageOption{transport.WithHeader("Colour", "red"), transport.WithContentType("text/x"), transport.WithFile("f")}
			defer clear(options)
			return r.Respond(ctx, body, options...)
		},
		"long result": func(ctx context.Context, r *service.Request, body []byte) error {
			return r.Respond(ctx, bytes.Repeat(body, 10_000), transport.WithSourceTime(time.Unix(1, 0)))
		},
		"error": func(ctx context.Context, r *service.Request, _ []byte) error {
			return r.RespondError(ctx, &transport.RemoteError{Code: 7, Text: "no"}, transport.WithHeader("Colour", "blue"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := newNode(t, intraprocess.NewBus())
				s, c := newServer(t, node, "/s"), newCaller(t, node)
				c.request(t, 1)
				body := []byte("body")
				if err := respond(t.Context(), next(t, s), body); err != nil {
					t.Fatal(err)
				}
				clear(body)
				time.Sleep(time.Minute)
				c.request(t, 1)
				synctest.Wait()
				got := c.got()
				if len(got) != 2 {
					t.Fatalf("%d answers", len(got))
				}
				first, again := *got[0], *got[1]
				again.Info.ReceivedTime = first.Info.ReceivedTime
				if !reflect.DeepEqual(first, again) {
					t.Errorf("the first answer was %+v, the next %+v", first, again)
				}
			})
		})
	}
}

func TestRepetitionIsAnsweredWithoutAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode(t, intraprocess.NewBus())
		s, c := newServer(t, node, "/s"), newCaller(t, node)
		c.request(t, 1)
		if err := next(t, s).RespondError(t.Context(), errors.New("no")); err != nil {
			t.Fatal(err)
		}
		c.request(t, 1)
		synctest.Wait()
		if s.Ready() {
			t.Error("a request that was answered makes the server ready")
		}
		if got := c.got(); len(got) != 2 || got[1].Error == nil || got[1].Error.Text != "no" {
			t.Errorf("the answers are %v", got)
		}
	})
}

// settlement notes how a delivery is settled.
type settlement struct{ acks, nacks, terms atomic.Int32 }

func (s *settlement) Ack() error                 { s.acks.Add(1); return nil }
func (s *settlement) Nack(time.Duration, string) { s.nacks.Add(1) }
func (s *settlement) Term(string)                { s.terms.Add(1) }

// scripted is a carrier that delivers what the test says, and whose answers end as it says.
type scripted struct {
	transport.Carrier
	interest transport.Interest
	deliver  func(transport.Delivery)
	answer   func(context.Context) error
	sent     atomic.Int32
}

func (c *scripted) Receive(in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	c.interest, c.deliver = in, deliver
	return func() {}, nil
}

func (c *scripted) Send(ctx context.Context, _ ...*transport.Message) error {
	c.sent.Add(1)
	if c.answer != nil {
		return c.answer(ctx)
	}
	return nil
}

func newScripted(t *testing.T) (*scripted, *transport.Node) {
	t.Helper()
	c := &scripted{Carrier: intraprocess.New()}
	node, err := transport.NewNode(c, &transport.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close(context.Background()) })
	return c, node
}

func request(n uint64) *transport.Message {
	return &transport.Message{Kind: transport.Request, Name: "/s", ReplyTo: "x@y",
		Info: transport.Info{ClientGID: transport.GID{1, 2, 3, 4, 5, 6, 7, 8, 9}, RequestSequence: n}}
}

// A request that was answered by a process of which nothing is known any more is left alone.
func TestRepetitionWithoutAKeptAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		serve(t, node, "/s", func(context.Context, *transport.Message) ([]byte, error) {
			t.Error("the handler ran")
			return nil, nil
		}, service.Durable("d"))
		var s settlement
		carrier.deliver(transport.Delivery{Message: request(1), Settler: &s, Attempt: 1, Repeated: true})
		synctest.Wait()
		if s.acks.Load() != 1 || carrier.sent.Load() != 0 {
			t.Errorf("%d acknowledgements, %d messages sent", s.acks.Load(), carrier.sent.Load())
		}
	})
}

// Further deliveries of a request that is being handled share its fate.
func TestRepetitionsWaitForTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		s := newServer(t, node, "/s", service.Durable("d"))
		var first settlement
		more := make([]settlement, 20)
		carrier.deliver(transport.Delivery{Message: request(1), Settler: &first, Attempt: 1})
		for i := range more {
			carrier.deliver(transport.Delivery{Message: request(1), Settler: &more[i], Attempt: 1})
		}
		r := next(t, s)
		if first.acks.Load() != 0 || more[0].acks.Load() != 0 {
			t.Error("settled before it was answered")
		}
		if err := r.Respond(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if first.acks.Load() != 1 || s.Ready() || carrier.sent.Load() != 1 {
			t.Errorf("%d acknowledgements, ready %v, %d answers", first.acks.Load(), s.Ready(), carrier.sent.Load())
		}
		for i := range more {
			acks, nacks := more[i].acks.Load(), more[i].nacks.Load()
			if held := i < 16; held && acks != 1 || !held && nacks != 1 {
				t.Errorf("repetition %d: acknowledged %d times, to come again %d times", i, acks, nacks)
			}
		}
	})
}

// How long an answer is tried, and what then becomes of the request.
func TestAnswerCannotBeSent(t *testing.T) {
	refused := &transport.SendError{Name: "/s", Outcome: transport.Permanent, Code: 550, Err: transport.ErrUndeliverable}
	for _, c := range []struct {
		name     string
		deadline time.Duration
		answer   func(context.Context) error
		after    time.Duration
		terms    int32
	}{
		{"outage", 0, unreachable, 30 * time.Second, 0},
		{"outage until the deadline", 10 * time.Minute, unreachable, 10 * time.Minute, 0},
		{"outage until after the deadline", time.Second, unreachable, 30 * time.Second, 0},
		{"refused", 0, func(context.Context) error { return refused }, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				carrier, node := newScripted(t)
				carrier.answer = c.answer
				var ran atomic.Int32
				serve(t, node, "/s", func(context.Context, *transport.Message) ([]byte, error) {
					ran.Add(1)
					return nil, nil
				}, service.Group("g"))
				var s settlement
				m := request(1)
				if c.deadline > 0 {
					m.Deadline = time.Now().Add(c.deadline)
				}
				carrier.deliver(transport.Delivery{Message: m, Settler: &s, Attempt: 1})
				if c.after > 0 {
					time.Sleep(c.after - 1)
					synctest.Wait()
					if s.nacks.Load() != 0 {
						t.Error("given up too early")
					}
					time.Sleep(time.Nanosecond)
				}
				synctest.Wait()
				if s.terms.Load() != c.terms || s.nacks.Load() != 1-c.terms || s.acks.Load() != 0 {
					t.Fatalf("acknowledged %d times, to come again %d times, dead %d times", s.acks.Load(), s.nacks.Load(), s.terms.Load())
				}
				// When it comes again the answer is there already.
				carrier.answer = nil
				var again settlement
				carrier.deliver(transport.Delivery{Message: m, Settler: &again, Attempt: 2})
				synctest.Wait()
				if again.acks.Load() != 1 || ran.Load() != 1 {
					t.Errorf("acknowledged %d times, the handler ran %d times", again.acks.Load(), ran.Load())
				}
			})
		})
	}
}

func unreachable(context.Context) error {
	return &transport.SendError{Name: "/s", Outcome: transport.Temporary, Err: errors.New("no network")}
}

// What a durable server or a member of a group has not answered when it is closed goes to the next.
func TestUnansweredRequestsGoToTheNextServer(t *testing.T) {
	for name, options := range kinds {
		if name == "live" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			bus := intraprocess.NewBus()
			node := openNode(t, bus)
			s := newServer(t, node, "/s", options...)
			c := newClient(t, newNode(t, bus), "/s")
			first, second := send(t, c, "1"), send(t, c, "2")
			next(t, s) // and no answer
			if err := node.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			serve(t, newNode(t, bus), "/s", echo, options...)
			for _, seq := range []uint64{first, second} {
				if answer, err := c.Response(t.Context(), seq); err != nil {
					t.Errorf("%v, %v", answer, err)
				}
			}
			if c.Late() != 0 {
				t.Error("there was more than one answer")
			}
		})
	}
}

// A member takes no more than it can work on, so that the others have something to do.
func TestGroupSharesTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		var ran [3]atomic.Int32
		for i := range ran {
			serve(t, newNode(t, bus), "/s", func(context.Context, *transport.Message) ([]byte, error) {
				ran[i].Add(1)
				time.Sleep(time.Second) // of the bubble's clock
				return nil, nil
			}, service.Group("g"), service.Concurrency(2))
		}
		c := newClient(t, newNode(t, bus), "/s")
		for range 12 {
			send(t, c, "")
		}
		begin := time.Now()
		for seq := range uint64(12) {
			if _, err := c.Response(t.Context(), seq+1); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begin); took != 2*time.Second || ran[0].Load() != 4 || ran[1].Load() != 4 || ran[2].Load() != 4 {
			t.Errorf("12 requests of a second, 3 times 2 at once, took %v; %d, %d and %d each", took, ran[0].Load(), ran[1].Load(), ran[2].Load())
		}
	})
}

// A call ends in time although its request can't be sent.
func TestSendingEndsWithTheCall(t *testing.T) {
	for _, outcome := range []transport.Outcome{transport.Temporary, transport.Unknown} {
		synctest.Test(t, func(t *testing.T) {
			carrier, node := newScripted(t)
			carrier.answer = func(context.Context) error {
				return &transport.SendError{Name: "/s", Outcome: outcome, Err: errors.New("no network")}
			}
			c := newClient(t, node, "/s")
			begin := time.Now()
			_, err := c.Call(context.Background(), nil)
			var failed *transport.SendError
			if !errors.Is(err, transport.ErrTimeout) || !errors.As(err, &failed) || time.Since(begin) != service.DefaultTimeout {
				t.Errorf("Call: %v after %v", err, time.Since(begin))
			}
			begin = time.Now()
			seq, err := c.Send(context.Background(), nil)
			if outcome == transport.Unknown && err == nil {
				_, err = c.Response(context.Background(), seq)
			}
			if !errors.Is(err, transport.ErrTimeout) || time.Since(begin) != service.DefaultTimeout {
				t.Errorf("Send: %v after %v", err, time.Since(begin))
			}
			// Close ends the sending, too.
			closed := make(chan error)
			go func() {
				_, err := c.Call(context.Background(), nil)
				closed <- err
			}()
			synctest.Wait()
			c.Close()
			if err := <-closed; !errors.Is(err, transport.ErrClosed) {
				t.Errorf("Call when the client was closed: %v", err)
			}
		})
	}
}

// An answer ends the sending of its request, which must have arrived.
func TestAnswerEndsTheSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		carrier.answer = func(context.Context) error {
			return &transport.SendError{Name: "/s", Outcome: transport.Unknown, Err: errors.New("connection lost")}
		}
		c := newClient(t, node, "/s")
		begin := time.Now()
		go func() {
			time.Sleep(time.Second)
			carrier.deliver(transport.Delivery{Message: &transport.Message{Kind: transport.Response, Name: "/s", Body: []byte("a"),
				Info: transport.Info{ClientGID: c.GID(), RequestSequence: 1}}})
		}()
		answer, err := c.Call(context.Background(), nil)
		if err != nil || string(answer.Body) != "a" || time.Since(begin) != time.Second {
			t.Errorf("%v, %v after %v", answer, err, time.Since(begin))
		}
	})
}
