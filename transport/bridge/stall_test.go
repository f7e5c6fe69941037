package bridge_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// stalled is a carrier whose Send gets the message through, and does not return before its time is over.
type stalled struct{ transport.Carrier }

func (c *stalled) Send(ctx context.Context, msgs ...*transport.Message) error {
	name := msgs[0].Name
	if err := c.Carrier.Send(ctx, msgs...); err != nil {
		return err
	}
	<-ctx.Done()
	return &transport.SendError{Name: name, Outcome: transport.Unknown, Err: transport.ContextError(ctx)}
}

// TestAnsweredCallIsSoonOver: a call that has been answered does not go on until its deadline because it is still being sent.
func TestAnsweredCallIsSoonOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		out, err := transport.NewNode(&stalled{busB.Attach()}, &transport.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, out)
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}, "services -> /x")
		closeLater(t, b)
		serve(t, newNode(t, busB), "/x", echo)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		client := newClient(t, newNode(t, busA), "/x")
		if _, err := client.Call(ctx, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := sum(b); s.Answered != 1 || s.Waiting != 1 {
			t.Errorf("at once: %+v", s)
		}
		time.Sleep(6 * time.Second)
		if s := sum(b); s.Answered != 1 || s.Waiting != 0 {
			t.Errorf("later: %+v", s)
		}
	})
}

// failing is a carrier that delivers a message before its Receive fails.
type failing struct{ transport.Carrier }

var errFailing = errors.New("the connection was lost")

func (c *failing) Receive(_ transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	deliver(transport.Delivery{Message: &transport.Message{Kind: transport.TopicMessage, Name: "/x"}})
	synctest.Wait() // it is being forwarded
	return nil, errFailing
}

// TestRuleThatCanNotBeStated: a rule whose interest can't be stated leaves nothing behind, also when something has come already and
// the other side is closed.
func TestRuleThatCanNotBeStated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, err := transport.NewNode(&failing{intraprocess.NewBus().Attach()}, &transport.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, in)
		out := openNode(t, intraprocess.NewBus())
		if err := out.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = bridge.New(bridge.Side{Name: "a", Node: in}, bridge.Side{Name: "b", Node: out}, rules(t, "topics -> /x")...)
		if !errors.Is(err, errFailing) {
			t.Errorf("got %v", err)
		}
	})
}
