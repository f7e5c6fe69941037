package service_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// Requests that come again while answers can't be sent, and wait for their turn, do not hold up a server
// that is closed.
func TestCloseDuringAnOutageWithRepetitions(t *testing.T) {
	const requests = 20
	for name, options := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				carrier, node := newScripted(t)
				s := newServer(t, node, "/s", options...)
				settlers := make([]settlement, requests)
				deliver := func(n int, settler transport.Settler) {
					d := transport.Delivery{Message: request(uint64(n + 1))}
					if name != "live" {
						d.Settler, d.Attempt = settler, 1
					}
					carrier.deliver(d)
				}
				for n := range requests {
					deliver(n, new(settlement))
					if err := next(t, s).Respond(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				}
				carrier.answer = func(ctx context.Context) error {
					<-ctx.Done()
					return &transport.SendError{Name: "/s", Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
				}
				for n := range requests {
					deliver(n, &settlers[n])
				}
				synctest.Wait()
				begin := time.Now()
				if err := node.Close(t.Context()); err != nil {
					t.Error(err)
				}
				// The one under way has its half minute. The others share another, or are given back.
				if took := time.Since(begin); took > time.Minute || name != "live" && took > 30*time.Second {
					t.Errorf("Close took %v", took)
				}
				for n := range settlers {
					s := &settlers[n]
					if name != "live" && (s.nacks.Load() != 1 || s.acks.Load()+s.terms.Load() != 0) {
						t.Errorf("request %d: given back %d times, acknowledged %d times, dead %d times",
							n+1, s.nacks.Load(), s.acks.Load(), s.terms.Load())
					}
				}
			})
		})
	}
}

// The requests that nobody handles any more are turned away, and if that is not possible, soon given up.
func TestCloseDuringAnOutageWithRequestsInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		carrier, node := newScripted(t)
		s := newServer(t, node, "/s")
		carrier.answer = func(ctx context.Context) error {
			<-ctx.Done()
			return &transport.SendError{Name: "/s", Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
		}
		for n := range uint64(20) {
			m := request(n + 1)
			m.Deadline = time.Now().Add(time.Hour)
			carrier.deliver(transport.Delivery{Message: m})
		}
		s.Close()
		begin := time.Now()
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("Close took %v, want half a minute", took)
		}
	})
}
