package bridge_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// TestServiceNextToCaller: a rule with a pattern also stands for names that are served on the callers' side. There the bridge leaves
// the answer to the server.
func TestServiceNextToCaller(t *testing.T) {
	for _, text := range []string{"services -> >", "services -> /x/* durable=d"} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
				b := join(t, "a", busA, "b", busB, text)
				node := newNode(t, busA)
				serve(t, node, "/x/near", func(context.Context, *transport.Message) ([]byte, error) {
					time.Sleep(9 * time.Second)
					return []byte("near"), nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				answer, err := newClient(t, node, "/x/near").Call(ctx, nil)
				if err != nil || string(answer.Body) != "near" {
					t.Errorf("got %+v, %v", answer, err)
				}
				if _, err := newClient(t, node, "/x/nobody").Call(ctx, nil); !errors.Is(err, transport.ErrTimeout) {
					t.Errorf("got %v", err)
				}
				if s := sum(b); s.Failed != 2 || s.Answered != 0 || s.Waiting != 0 || len(busA.DeadLetters()) != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// lingering is a carrier whose Send returns a while after the message has got through.
type lingering struct{ transport.Carrier }

func (c *lingering) Send(ctx context.Context, msgs ...*transport.Message) error {
	name := msgs[0].Name
	if err := c.Carrier.Send(ctx, msgs...); err != nil {
		return err
	}
	select {
	case <-time.After(100 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return &transport.SendError{Name: name, Outcome: transport.Unknown, Err: transport.ContextError(ctx)}
	}
}

// TestEarlyAnswer: an answer that comes while the request is still being sent goes back at once, and the sending is not cut off.
func TestEarlyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		out, err := transport.NewNode(&lingering{busB.Attach()}, &transport.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, out)
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}, "services -> /x")
		serve(t, newNode(t, busB), "/x", echo)
		client, begin := newClient(t, newNode(t, busA), "/x"), time.Now()
		const calls = 10
		for range calls {
			if _, err := client.Call(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the answers took %v", took)
		}
		if s := total(t, b); s.Forwarded != calls || s.Answered != calls {
			t.Errorf("%+v", s)
		}
	})
}

// TestRepeatedRequestOfDurableRule: one that comes again when it has been answered is answered again, as long as its client may wait for it.
func TestRepeatedRequestOfDurableRule(t *testing.T) {
	for _, text := range []string{"services -> /x durable=d", "services -> /x group=g"} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
				b := join(t, "a", busA, "b", busB, text)
				runs := 0
				serve(t, newNode(t, busB), "/x", func(context.Context, *transport.Message) ([]byte, error) {
					runs++
					return nil, nil
				}, service.Concurrency(1))
				node, gid := newNode(t, busA), transport.NewGID()
				answers := listen(t, node, gid)
				first, limited := request(gid, 1, ""), request(gid, 2, "")
				first.Info.SourceTime = time.Now()
				limited.Info.SourceTime, limited.Deadline = time.Now(), time.Now().Add(time.Hour)
				again := func(want int) {
					t.Helper()
					for _, m := range []*transport.Message{first, limited} {
						repetition := *m
						send(t, node, &repetition)
					}
					synctest.Wait()
					if n := len(answers); n != want {
						t.Errorf("%d answers, not %d", n, want)
					}
				}
				again(2)
				again(4)
				time.Sleep(bridge.DefaultTimeout)
				again(5)
				time.Sleep(time.Hour)
				again(5)
				if s := sum(b); runs != 2 || s.Repeated != 3 {
					t.Errorf("the handler ran %d times; %+v", runs, s)
				}
			})
		})
	}
}

// TestCloseWithoutTime: calls that a bridge without a durable name has not begun with when its time is over are counted as lost.
func TestCloseWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: newNode(t, busB)}, "services -> /x")
		serve(t, newNode(t, busB), "/x", func(ctx context.Context, m *transport.Message) ([]byte, error) {
			time.Sleep(time.Minute)
			return nil, nil
		})
		client := newClient(t, newNode(t, busA), "/x")
		const calls = bridge.MaxCalls + 100
		for range calls {
			if _, err := client.Send(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if s := sum(b); s.Waiting != calls {
			t.Errorf("%+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		if s := sum(b); s.Dropped != calls || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}
