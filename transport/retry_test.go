package transport_test

import (
	"context"
	"errors"
	"sync"
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

// outage is a carrier that takes nothing while it is down. It notes how often each message was tried.
type outage struct {
	carrier
	mu    sync.Mutex
	err   error
	tries map[string]int
}

func (o *outage) Send(_ context.Context, msgs ...*transport.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tries == nil {
		o.tries = make(map[string]int)
	}
	o.tries[msgs[0].Name]++
	return o.err
}

func (o *outage) set(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

// The first message that goes out after an outage takes with it those that wait, but not what
// the next hop has answered with a code of its own.
func TestSendWhenOutageIsOver(t *testing.T) {
	for _, test := range []struct {
		name  string
		down  error
		after time.Duration // that the message goes out, after the other; less than 0: when its time has come
	}{
		{"nobody there", &transport.SendError{Outcome: transport.Temporary, Err: errLost}, 0},
		{"busy with this one", temporary, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &outage{err: test.down}
				n := newNode(t, c, nil)
				sent := make(chan time.Time, 1)
				send := func(name string) {
					if err := n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: name}); err != nil {
						t.Error(err)
					}
				}
				go func() { send("/a"); sent <- time.Now() }()
				time.Sleep(5 * time.Minute)
				tries := 0
				for last := 0; ; last = tries { // until it has just been tried
					c.mu.Lock()
					tries = c.tries["/a"]
					c.mu.Unlock()
					if last != 0 && tries != last {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				c.set(nil)
				send("/b")
				start := time.Now()
				after := (<-sent).Sub(start)
				if test.after == 0 && after != 0 || test.after < 0 && after < 5*time.Second {
					t.Errorf("the waiting message went out after %v", after)
				}
			})
		})
	}
}

// An outage that ends again and again does not make a message be tried all the time.
func TestSendDuringFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := &transport.SendError{Outcome: transport.Temporary, Err: errLost}
		c := &outage{err: lost}
		n := newNode(t, c, nil)
		ctx, cancel := context.WithCancel(t.Context())
		sent := make(chan error, 1)
		go func() {
			sent <- n.Send(ctx, &transport.Message{Kind: transport.TopicMessage, Name: "/a"})
		}()
		time.Sleep(time.Minute)
		c.mu.Lock()
		c.tries["/a"] = 0
		c.mu.Unlock()
		for range 1000 {
			c.set(lost)
			time.Sleep(50 * time.Millisecond)
			c.set(nil)
			if err := n.Send(t.Context(), &transport.Message{Kind: transport.TopicMessage, Name: "/b"}); err != nil {
				t.Error(err)
			}
			c.set(lost)
		}
		cancel()
		<-sent
		if tries := c.tries["/a"]; tries > 51 {
			t.Errorf("it was tried %d times in 50 s", tries)
		}
	})
}
