package queue_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// As many handlers run as may, whatever happened to the goroutines of earlier ones.
func TestMishapsCostNoConcurrency(t *testing.T) {
	const concurrency, mishaps = 3, 10
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &transport.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		in := attach(t, n, transport.QoS{KeepAll: true})
		var running atomic.Int32
		handle(t, in, concurrency, func(_ context.Context, d transport.Delivery) {
			switch seq := d.Message.Info.Sequence; {
			case seq > mishaps:
				running.Add(1)
				time.Sleep(time.Second)
				running.Add(-1)
			case seq%2 == 0:
				panic("on purpose")
			default:
				runtime.Goexit()
			}
		})
		publish(t, n, 1, mishaps)
		synctest.Wait()
		publish(t, n, mishaps+1, mishaps+concurrency+1)
		for _, want := range []int32{concurrency, 1, 0} {
			synctest.Wait()
			if got := running.Load(); got != want {
				t.Errorf("%d handlers are running, want %d", got, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// A goroutine handles many messages, and only a few are left when there is nothing to do.
func TestWorkersAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		in := attach(t, n, transport.QoS{KeepAll: true})
		check := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			if got := bytes.Count(stacks, []byte("(*workers).run(")); got != want {
				t.Errorf("%s: %d goroutines, want %d", when, got, want)
			}
		}
		handle(t, in, 20, func(_ context.Context, d transport.Delivery) {
			if d.Message.Info.Sequence > 10 {
				time.Sleep(time.Second)
			}
		})
		check("at the beginning", 1)
		for seq := range uint64(10) {
			publish(t, n, seq+1, seq+1)
			synctest.Wait()
		}
		check("after 10 messages, one by one", 2)
		publish(t, n, 11, 40)
		check("with 30 messages at once", 20)
		time.Sleep(3 * time.Second)
		check("after them", 2)
		in.Close()
		check("after Close", 0)
	})
}
