package service_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// A call that another sender takes over while the handler runs, as a bridge that has been started again does, is answered to both, and
// the handler runs once.
func TestCallThatIsTakenOverIsAnsweredToBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := intraprocess.NewBus()
		runs := 0
		serve(t, newNode(t, bus), "/s", func(_ context.Context, m *transport.Message) ([]byte, error) {
			runs++
			time.Sleep(time.Minute) // of the bubble's clock
			return []byte("a"), nil
		})
		first := newCaller(t, newNode(t, bus))
		second := &caller{node: newNode(t, bus), gid: first.gid}
		first.request(t, 1)
		synctest.Wait()
		for range 2 {
			second.request(t, 1)
			first.request(t, 1)
		}
		time.Sleep(2 * time.Minute)
		var to []string
		for _, m := range first.got() {
			if string(m.Body) != "a" {
				t.Errorf("got %+v", m)
			}
			to = append(to, m.To[0])
		}
		if len(to) != 2 || to[0] == to[1] || runs != 1 {
			t.Errorf("answers to %q, and the handler ran %d times", to, runs)
		}
	})
}
