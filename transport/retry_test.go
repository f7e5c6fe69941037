package transport_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// failing is a carrier whose Sends fail with these errors, one after the other, and then
// succeed. It notes when they came.
type failing struct {
	carrier
	errs []error
	at   []time.Time
	ids  map[transport.ID]bool
}

func (f *failing) Send(_ context.Context, msgs ...*transport.Message) error {
	if f.ids == nil {
		f.ids = make(map[transport.ID]bool)
	}
	f.ids[msgs[0].ID] = true
	f.at = append(f.at, time.Now())
	if n := len(f.at) - 1; n < len(f.errs) {
		return f.errs[n]
	}
	return nil
}

func fail(outcome transport.Outcome, err error) error {
	return &transport.SendError{Name: "/t", Outcome: outcome, Code: 450, Err: err}
}

var (
	errBusy    = errors.New("busy")
	errLost    = errors.New("lost")
	errRefused = transport.ErrRefused
	temporary  = fail(transport.Temporary, errBusy)
	unknown    = fail(transport.Unknown, errLost)
	permanent  = fail(transport.Permanent, errRefused)
)

func TestNodeSendTriesAgain(t *testing.T) {
	for _, test := range []struct {
		name     string
		errs     []error
		attempts int
		want     []error           // that the error wraps
		outcome  transport.Outcome // 0 if there is no *SendError
	}{
		{"at once", nil, 1, nil, 0},
		{"busy", []error{temporary, temporary}, 3, nil, 0},
		{"lost", []error{unknown, temporary}, 3, nil, 0},
		{"refused", []error{permanent}, 1, []error{transport.ErrRefused}, transport.Permanent},
		{"refused later", []error{temporary, permanent}, 2, []error{transport.ErrRefused}, transport.Permanent},
		{"refused what may have been taken", []error{unknown, permanent}, 2, []error{transport.ErrRefused}, transport.Unknown},
		{"full", []error{fail(transport.Temporary, transport.ErrFull)}, 1, []error{transport.ErrFull}, transport.Temporary},
		{"closed", []error{transport.ErrClosed}, 1, []error{transport.ErrClosed}, 0},
		{"closed when it may have been taken", []error{unknown, transport.ErrClosed}, 2, []error{transport.ErrClosed}, transport.Unknown},
		{"busy for ever", forever(temporary), 0, []error{errBusy, transport.ErrTimeout, context.DeadlineExceeded}, transport.Temporary},
		{"lost, then busy for ever", append([]error{unknown}, forever(temporary)...), 0, []error{errBusy, transport.ErrTimeout}, transport.Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &failing{errs: test.errs}
				n := newNode(t, c, nil)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				err := n.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "/t"})
				if (err == nil) != (len(test.want) == 0) {
					t.Fatalf("Send: %v", err)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("%v does not wrap %v", err, want)
					}
				}
				failure, ok := errors.AsType[*transport.SendError](err)
				if ok != (test.outcome != 0) || ok && failure.Outcome != test.outcome {
					t.Errorf("%v, want the outcome %v", err, test.outcome)
				}
				if test.attempts != 0 && len(c.at) != test.attempts {
					t.Errorf("%d attempts, want %d", len(c.at), test.attempts)
				}
				if len(c.ids) != 1 {
					t.Errorf("the attempts had the IDs %v", c.ids)
				}
				for i := 1; i < len(c.at); i++ {
					longest := min(100*time.Millisecond<<(min(i, 20)-1), 30*time.Second)
					if wait := c.at[i].Sub(c.at[i-1]); wait < longest/2 || wait > longest {
						t.Errorf("attempt %d came after %v, want %v to %v", i+1, wait, longest/2, longest)
					}
				}
			})
		})
	}
}

func forever(err error) []error {
	errs := make([]error, 1000)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// Close waits for a message that is being tried again, and when it waits no longer the
// Send ends.
func TestCloseEndsTryingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &failing{errs: forever(temporary)}, nil)
		sent := make(chan error)
		go func() {
			sent <- n.Send(context.Background(), &transport.Message{Kind: transport.TopicMessage, Name: "/t"})
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := n.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		if err := <-sent; !errors.Is(err, transport.ErrClosed) || !errors.Is(err, errBusy) {
			t.Errorf("Send: %v", err)
		}
	})
}
