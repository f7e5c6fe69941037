package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// remote returns the error answer that err is.
func remote(t testing.TB, err error) *transport.RemoteError {
	t.Helper()
	answer, ok := errors.AsType[*transport.RemoteError](err)
	if !ok {
		t.Fatalf("no error answer: %v", err)
	}
	return answer
}

// TestService: a call is answered on the other side, as if there were none.
func TestService(t *testing.T) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	b := join(t, "a", busA, "b", busB, "services -> /up/*", "services <- /down")
	nodeA, nodeB := newNode(t, busA), newNode(t, busB)
	requests := make(chan *transport.Message, 1)
	server := serve(t, nodeB, "/up/x", func(_ context.Context, m *transport.Message) ([]byte, error) {
		requests <- m
		if string(m.Body) == "bad" {
			return nil, &transport.RemoteError{Code: 7, Text: "bad request"}
		}
		return []byte("the answer"), nil
	})
	client := newClient(t, nodeA, "/up/x")
	deadline := time.Now().Add(30 * time.Second)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	answer, err := client.Call(ctx, []byte("question"), transport.WithHeader("Color", "red"), transport.WithContentType("text/csv"), transport.WithFile("a.csv"))
	if err != nil {
		t.Fatal(err)
	}
	request := <-requests
	if request.Info.ClientGID != client.GID() || request.Info.RequestSequence != 1 || request.ContentType != "text/csv" || request.Filename != "a.csv" ||
		request.Header.Get("Color") != "red" || request.Header.Get(bridge.HeaderWay) != "a" || request.Info.PublisherGID != client.GID() || string(request.Body) != "question" {
		t.Errorf("the request is %+v", request)
	}
	if gid, n, ok := request.ID.Origin(); !ok || gid != client.GID() || n != 1 {
		t.Errorf("the request has the ID %s", request.ID)
	}
	if margin := deadline.Sub(request.Deadline); margin < 2*time.Second || margin > 3*time.Second {
		t.Errorf("the answer has %v for the way back", margin)
	}
	if string(answer.Body) != "the answer" || answer.InReplyTo != request.ID || answer.Info.ClientGID != client.GID() || answer.Info.PublisherGID != server.GID() || answer.Info.Sequence != 1 {
		t.Errorf("the answer is %+v", answer)
	}
	if _, err = client.Call(ctx, []byte("bad")); *remote(t, err) != (transport.RemoteError{Code: 7, Text: "bad request"}) {
		t.Errorf("got %v", err)
	}
	serve(t, nodeA, "/down", echo)
	if answer, err := newClient(t, nodeB, "/down").Call(ctx, []byte("back")); err != nil || string(answer.Body) != "back" {
		t.Errorf("got %v, %v", answer, err)
	}
	if s := total(t, b); s.Forwarded != 3 || s.Answered != 3 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestManyCalls: answers find their calls, whatever the order.
func TestManyCalls(t *testing.T) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	b := join(t, "a", busA, "b", busB, "services -> >")
	server := newNode(t, busB)
	node := newNode(t, busA)
	serve(t, server, "/a", echo)
	serve(t, server, "/b", echo)
	const clients, each = 20, 50
	errs := make(chan error, clients)
	for i := range clients {
		client := newClient(t, node, []string{"/a", "/b"}[i%2])
		go func() {
			var err error
			for j := range each {
				body := fmt.Sprint(i, " ", j)
				answer, failed := client.Call(context.Background(), []byte(body))
				if failed != nil {
					err = failed
				} else if string(answer.Body) != body {
					err = fmt.Errorf("%q was answered with %q", body, answer.Body)
				}
			}
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if s := total(t, b); s.Answered != clients*each || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNobodyAnswers: the bridge does, with a code that says why.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		out := breakable(t, busB, func(m *transport.Message) error {
			switch string(m.Body) {
			case "refused":
				return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Code: 550, Err: fmt.Errorf("%w: %s", transport.ErrUndeliverable, strings.Repeat("é", transport.MaxErrorText))}
			case "down":
				return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Err: errors.New("no route to host")}
			case "perhaps":
				return &transport.SendError{Name: m.Name, Outcome: transport.Unknown, Err: errors.New("connection lost")}
			}
			return nil
		})
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}, "services -> /nobody", "services -> /slow")
		closeLater(t, b)
		serve(t, newNode(t, busB), "/slow", func(ctx context.Context, _ *transport.Message) ([]byte, error) {
			time.Sleep(time.Hour)
			return nil, nil
		})
		node := newNode(t, busA)
		nobody, slow := newClient(t, node, "/nobody"), newClient(t, node, "/slow")
		const timeout = 20 * time.Second
		for _, test := range []struct {
			client *service.Client
			body   string
			code   int
			after  time.Duration
			text   string
		}{
			{nobody, "", bridge.CodeNoResponder, 0, "no answer from b: send /nobody: not sent: no responder"},
			{nobody, "refused", bridge.CodeUndeliverable, 0, "undeliverable: é"},
			{slow, "", bridge.CodeDeadline, timeout * 9 / 10, "timeout"},
			{slow, "down", bridge.CodeDeadline, timeout * 9 / 10, "no route to host"},
			{slow, "perhaps", bridge.CodeDeadline, timeout * 9 / 10, "may not have been sent"},
		} {
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			_, err := test.client.Call(ctx, []byte(test.body))
			cancel()
			if answer := remote(t, err); answer.Code != test.code || !strings.Contains(answer.Text, test.text) || len(answer.Text) > transport.MaxErrorText {
				t.Errorf("%s: %+v", test.body, answer)
			}
			if took := time.Since(begin); took != test.after {
				t.Errorf("%s: after %v, not %v", test.body, took, test.after)
			}
		}
		synctest.Wait()
		if s := sum(b); s.Failed != 5 || s.Answered != 5 || s.Forwarded != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Hour) // the slow one's answer is late
		if s := sum(b); s.Answered != 5 {
			t.Errorf("%+v", s)
		}
	})
}

// request is a request as it is sent by hand.
func request(client transport.GID, number uint64, body string) *transport.Message {
	return &transport.Message{Kind: transport.Request, Name: "/x", Body: []byte(body),
		Info: transport.Info{PublisherGID: client, Sequence: number, ClientGID: client, RequestSequence: number}}
}

func send(t testing.TB, node *transport.Node, m *transport.Message) {
	t.Helper()
	if err := node.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// TestExpiredRequest: it is answered, and bothers nobody.
func TestExpiredRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "services -> /x")
		node, gid := newNode(t, busA), transport.NewGID()
		answers := listen(t, node, gid)
		m := request(gid, 1, "")
		m.Deadline = time.Now()
		send(t, node, m)
		if answer := <-answers; answer.Error == nil || answer.Error.Code != bridge.CodeDeadline {
			t.Errorf("got %+v", answer)
		}
		synctest.Wait()
		if s := sum(b); s.Expired != 1 || s.Forwarded != 0 || s.Answered != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// sink passes on what is delivered.
type sink chan *transport.Message

func (s sink) Deliver(d transport.Delivery) {
	s <- d.Message
	_ = d.Ack()
}

func (s sink) Drain(context.Context) error { return nil }

// listen returns the answers to a client.
func listen(t testing.TB, node *transport.Node, client transport.GID) <-chan *transport.Message {
	t.Helper()
	answers := make(sink, 100)
	if _, err := node.Receive(transport.Interest{Kind: transport.Response, Client: client}, answers); err != nil {
		t.Fatal(err)
	}
	return answers
}

// TestRepeatedRequest: one that comes again while it is under way gets the one answer; later, what the server has kept.
func TestRepeatedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "services -> /x")
		var runs atomic.Int64
		serve(t, newNode(t, busB), "/x", func(context.Context, *transport.Message) ([]byte, error) {
			time.Sleep(time.Second)
			return fmt.Appendf(nil, "run %d", runs.Add(1)), nil
		})
		node, gid := newNode(t, busA), transport.NewGID()
		answers := listen(t, node, gid)
		for range 3 {
			send(t, node, request(gid, 1, ""))
		}
		for range 2 {
			time.Sleep(2 * time.Second)
			if got := string((<-answers).Body); got != "run 1" {
				t.Errorf("answer %q", got)
			}
			if len(answers) > 0 {
				t.Errorf("one more answer: %+v", <-answers)
			}
			send(t, node, request(gid, 1, ""))
		}
		synctest.Wait()
		if s := sum(b); s.Repeated != 2 || s.Forwarded != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// TestStranger: a client without an identity, as a person is, has one on the other side, which is always the same.
func TestStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		join(t, "a", busA, "b", busB, "services -> /x")
		requests := make(chan *transport.Message, 10)
		serve(t, newNode(t, busB), "/x", func(_ context.Context, m *transport.Message) ([]byte, error) {
			requests <- m
			return nil, nil
		})
		node := newNode(t, busA)
		short := transport.GID{}.Short()
		short[15] = 9
		foreign := transport.ParseID("abc@example.org")
		for range 2 {
			m := request(short, 3, "")
			m.ID = foreign
			send(t, node, m)
			synctest.Wait()
		}
		first := <-requests
		if client, n, ok := first.ID.Origin(); !ok || client != first.Info.ClientGID || n != first.Info.RequestSequence || client == short || n == 0 {
			t.Errorf("the request is %s of %s", first.ID, first.Info.ClientGID)
		}
		// Without any ID every request is another.
		before := first.Info.ClientGID
		if len(requests) > 0 {
			t.Errorf("the repetition is %+v", <-requests)
		}
		m := request(transport.GID{}, 0, "")
		send(t, node, m)
		synctest.Wait()
		if other := <-requests; other.Info.ClientGID == before || other.Info.ClientGID.IsZero() {
			t.Errorf("the request is of %s", other.Info.ClientGID)
		}
		// A client that has an identity keeps it, whatever the ID.
		gid := transport.NewGID()
		m = request(gid, 4, "")
		m.ID = transport.ParseID("def@example.org")
		send(t, node, m)
		synctest.Wait()
		other := <-requests
		if client, n, ok := other.ID.Origin(); !ok || client != gid || n != 4 || other.Info.ClientGID != gid || other.Info.RequestSequence != 4 {
			t.Errorf("the request is %s of %s", other.ID, other.Info.ClientGID)
		}
	})
}

// TestServiceBothWays: calls of the same services may go both ways. The bridge does not call itself.
func TestServiceBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "services <-> >")
		nodeA, nodeB := newNode(t, busA), newNode(t, busB)
		serve(t, nodeA, "/a", echo)
		serve(t, nodeB, "/b", echo)
		for _, client := range []*service.Client{newClient(t, nodeA, "/b"), newClient(t, nodeB, "/a")} {
			if _, err := client.Call(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if s := sum(b); s.Looped != 2 || s.Answered != 2 {
			t.Errorf("%+v", s)
		}
		// A server next to the caller has nearly all of the time, and whether there is one nobody knows before.
		serve(t, nodeA, "/near", func(context.Context, *transport.Message) ([]byte, error) {
			time.Sleep(8 * time.Second)
			return nil, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := newClient(t, nodeA, "/near").Call(ctx, nil); err != nil {
			t.Error(err)
		}
		begin := time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := newClient(t, nodeA, "/nobody").Call(ctx, nil)
		if answer, took := remote(t, err), time.Since(begin); answer.Code != bridge.CodeDeadline || took != 9*time.Second {
			t.Errorf("got %+v after %v", answer, took)
		}
	})
}

// TestCallIsTakenOver: a request of a durable rule that a bridge had not answered when it ended is answered by
// the next one. The handler runs once.
func TestCallIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		from, to := bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: newNode(t, busB)}
		first := openBridge(t, from, to, "services -> /x durable=d")
		var runs atomic.Int64
		serve(t, newNode(t, busB), "/x", func(context.Context, *transport.Message) ([]byte, error) {
			time.Sleep(10 * time.Second)
			return fmt.Appendf(nil, "run %d", runs.Add(1)), nil
		})
		client := newClient(t, newNode(t, busA), "/x")
		sequence, err := client.Send(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := first.Close(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
		if err := first.Close(t.Context()); err != nil {
			t.Errorf("close once more: %v", err)
		}
		time.Sleep(20 * time.Second) // the answer finds nobody
		closeLater(t, openBridge(t, from, to, "services -> /x durable=d"))
		answer, err := client.Response(t.Context(), sequence)
		if err != nil || string(answer.Body) != "run 1" {
			t.Errorf("got %+v, %v", answer, err)
		}
	})
}

// TestCloseWaits: calls under way are answered before the bridge is closed.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: newNode(t, busB)}, "services -> /x")
		serve(t, newNode(t, busB), "/x", func(_ context.Context, m *transport.Message) ([]byte, error) {
			time.Sleep(10 * time.Second)
			return m.Body, nil
		})
		client := newClient(t, newNode(t, busA), "/x")
		sequence, err := client.Send(t.Context(), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if !client.HasResponse(sequence) {
			t.Error("there is no answer")
		}
		if s := sum(b); s.Answered != 1 || s.Dropped != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestServersSideClosed: callers hear of it at once, and what is durable waits for the next bridge.
func TestServersSideClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		out := openNode(t, busB)
		from := bridge.Side{Name: "a", Node: newNode(t, busA)}
		first := openBridge(t, from, bridge.Side{Name: "b", Node: out}, "services -> /x", "services -> /y durable=d")
		closeLater(t, first)
		hold := func(_ context.Context, m *transport.Message) ([]byte, error) {
			time.Sleep(time.Second)
			return m.Body, nil
		}
		servers := newNode(t, busB)
		serve(t, servers, "/x", hold)
		serve(t, servers, "/y", hold)
		node := newNode(t, busA)
		plain, durable := newClient(t, node, "/x"), newClient(t, node, "/y")
		first1, err := plain.Send(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		second, err := durable.Send(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := out.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := plain.Response(t.Context(), first1); remote(t, err).Code != bridge.CodeNoResponder {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if _, err := plain.Call(t.Context(), nil); !errors.Is(err, transport.ErrNoResponder) {
			t.Errorf("got %v, although the rule has ended", err)
		}
		closeLater(t, openBridge(t, from, bridge.Side{Name: "b", Node: newNode(t, busB)}, "services -> /y durable=d"))
		if _, err := durable.Response(t.Context(), second); err != nil {
			t.Error(err)
		}
	})
}

// TestAnswerCanNotBeSent: the answer to a request of a durable rule waits until it can be sent, however long that takes.
func TestAnswerCanNotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		until := time.Now().Add(2 * time.Hour)
		in := breakable(t, busA, func(m *transport.Message) error {
			if time.Now().Before(until) {
				return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Err: errors.New("no route to host")}
			}
			return nil
		})
		closeLater(t, openBridge(t, bridge.Side{Name: "a", Node: in}, bridge.Side{Name: "b", Node: newNode(t, busB)}, "services -> /x durable=d"))
		var runs atomic.Int64
		serve(t, newNode(t, busB), "/x", func(context.Context, *transport.Message) ([]byte, error) {
			return fmt.Appendf(nil, "run %d", runs.Add(1)), nil
		})
		node, gid := newNode(t, busA), transport.NewGID()
		answers := listen(t, node, gid)
		send(t, node, request(gid, 1, ""))
		if got := string((<-answers).Body); got != "run 1" || time.Now().Before(until) {
			t.Errorf("answer %q", got)
		}
	})
}

// TestAnswerTooLarge: an answer that the caller's side can't take is an error there.
func TestAnswerTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		in, err := transport.NewNode(busA.Attach(), &transport.Options{Logger: quiet, MaxBody: 10})
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, in)
		b := openBridge(t, bridge.Side{Name: "a", Node: in}, bridge.Side{Name: "b", Node: newNode(t, busB)}, "services -> /x", "services -> /y durable=d")
		closeLater(t, b)
		servers, node := newNode(t, busB), newNode(t, busA)
		for _, name := range []string{"/x", "/y"} {
			serve(t, servers, name, func(context.Context, *transport.Message) ([]byte, error) { return make([]byte, 11), nil })
			_, err = newClient(t, node, name).Call(t.Context(), nil)
			if e := remote(t, err); e.Code != bridge.CodeUndeliverable || !strings.Contains(e.Text, "too large") {
				t.Errorf("%s: got %v", name, e)
			}
		}
		synctest.Wait()
		if s := sum(b); s.Failed != 2 || s.Answered != 2 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}
