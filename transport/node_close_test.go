package transport_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/transport"
)

// Close goes on step by step: interests end, handlers finish and may send, clients
// are drained after them, messages under way are waited for, the carrier is closed.
func TestNodeCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &carrier{}
		slowSend := make(chan struct{})
		n := newNode(t, c, nil)
		inFlight := make(chan error)
		c.send = func(context.Context) error { <-slowSend; return nil }
		go func() {
			inFlight <- n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/slow"})
		}()
		synctest.Wait()
		c.send = nil

		work := make(chan struct{})
		receive(t, n, topic("/t"), sink{drain: func(ctx context.Context) error {
			c.note("handler begins")
			<-work
			err := n.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "/answer"})
			c.note("handler ends")
			return err
		}})
		receive(t, n, transport.Interest{Kind: transport.Response, Client: transport.NewGID()}, sink{drain: func(context.Context) error {
			c.note("client drains")
			return nil
		}})
		closed := make(chan error)
		go func() { closed <- n.Close(t.Context()) }()

		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if diff := cmp.Diff(want, c.log); diff != "" {
				t.Errorf("the log: want -, got +:\n%s", diff)
			}
		}
		steps := []string{"stop topic message", "handler begins"}
		expect(steps...)
		if _, err := n.Receive(topic("/t"), sink{}); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("Receive while the node drains: %v, want ErrClosed", err)
		}
		close(work)
		steps = append(steps, "handler ends", "stop response", "client drains")
		expect(steps...)
		if err := n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/t"}); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("Send when handlers have finished: %v, want ErrClosed", err)
		}
		close(slowSend)
		expect(append(steps, "close")...)
		if err := <-inFlight; err != nil {
			t.Errorf("the message under way: %v", err)
		}
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func receive(t *testing.T, n *transport.Node, interest transport.Interest, s transport.Sink) (stop func()) {
	t.Helper()
	stop, err := n.Receive(interest, s)
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// The sink of an interest that has been stopped may still be at work: Close waits for
// it, until it is done.
func TestNodeCloseDrainsStoppedInterests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &carrier{}
		n := newNode(t, c, nil)
		work := make(chan struct{})
		busy := sink{drain: func(context.Context) error { <-work; return nil }}
		idle := sink{drain: func(context.Context) error { return nil }}
		stop := receive(t, n, topic("/t"), busy)
		stopIdle := receive(t, n, topic("/idle"), idle)
		stop()
		stop()
		stopIdle()
		closed := make(chan error, 1)
		go func() { closed <- n.Close(context.Background()) }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("Close did not wait for the sink of a stopped interest")
		}
		close(work)
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		if want := []string{"stop topic message", "stop topic message", "close"}; !cmp.Equal(c.log, want) {
			t.Errorf("the carrier heard %q, want %q", c.log, want)
		}
	})
}

func TestNodeCloseGivesUpWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &carrier{}
		resume := make(chan struct{})
		c.send = func(context.Context) error { <-resume; return nil }
		n := newNode(t, c, nil)
		go n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/slow"})
		synctest.Wait()
		receive(t, n, topic("/t"), sink{drain: func(ctx context.Context) error {
			<-ctx.Done() // a handler that does not come to an end
			return errors.New("handler is at work")
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		err := n.Close(ctx)
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("Close took %v, want a minute", d)
		}
		for _, want := range []string{"handler is at work", "messages are still being sent"} {
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
				t.Errorf("Close: %v, want the context's error and %q", err, want)
			}
		}
		if want := []string{"stop topic message", "close"}; !cmp.Equal(c.log, want) {
			t.Errorf("the carrier heard %q, want %q", c.log, want)
		}
		close(resume)
	})
}

func TestNodeSecondCloseWaitsForFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closeErr := errors.New("close failed")
		resume := make(chan struct{})
		n := newNode(t, &carrier{close: func(context.Context) error { <-resume; return closeErr }}, nil)
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- n.Close(t.Context()) }()
		synctest.Wait()
		go func() { second <- n.Close(t.Context()) }()
		synctest.Wait()
		if len(second) > 0 {
			t.Errorf("the second Close returned before the first: %v", <-second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a Close whose context ends first: %v", err)
		}
		close(resume)
		if one, two := <-first, <-second; !errors.Is(one, closeErr) || two != one {
			t.Errorf("the results are %v and %v, want both %v", one, two, closeErr)
		}
	})
}

// Once a node is closed its Close has one result, even when the context has ended.
func TestNodeSecondCloseWithEndedContext(t *testing.T) {
	n := newNode(t, &carrier{}, nil)
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := n.Close(ctx); err != nil {
			t.Fatalf("a later Close: %v", err)
		}
	}
}

// A carrier that has to ask its server about an interest holds up neither another interest nor, beyond its context, Close. The interest is
// not stated then.
func TestReceiveHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &carrier{}
		answer := make(chan struct{})
		c.receive = func(in transport.Interest) error {
			if in.Name == "/slow" {
				<-answer
			}
			return nil
		}
		n := newNode(t, c, nil)
		stated := make(chan error)
		drained := false
		go func() {
			_, err := n.Receive(topic("/slow"), sink{drain: func(ctx context.Context) error { drained = ctx.Err() != nil; return nil }})
			stated <- err
		}()
		synctest.Wait()
		stop, err := n.Receive(topic("/t"), sink{})
		if err != nil {
			t.Fatal(err)
		}
		stop()

		closed := make(chan error)
		go func() { closed <- n.Close(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatalf("Close did not wait for an interest that is being stated: %v", err)
		default:
		}
		close(answer)
		if err := <-stated; !errors.Is(err, transport.ErrClosed) || !drained {
			t.Errorf("the interest: %v, drained %v", err, drained)
		}
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
		if diff := cmp.Diff([]string{"stop topic message", "stop topic message", "close"}, c.log); diff != "" {
			t.Errorf("the log: want -, got +:\n%s", diff)
		}
	})
}

func TestCloseWhileReceiveHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &carrier{}
		answer := make(chan struct{})
		c.receive = func(transport.Interest) error { <-answer; return nil }
		n := newNode(t, c, nil)
		stated := make(chan error)
		go func() {
			_, err := n.Receive(topic("/slow"), sink{})
			stated <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "interests stated") {
			t.Errorf("close: %v", err)
		}
		close(answer)
		if err := <-stated; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("the interest: %v", err)
		}
	})
}
