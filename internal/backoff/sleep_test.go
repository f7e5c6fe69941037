package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/internal/backoff"
)

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, test := range []struct {
			d, took time.Duration
			want    bool
		}{{0, 0, true}, {-1, 0, true}, {time.Second, time.Second, true}, {time.Hour, 59 * time.Second, false}, {0, 0, false}, {time.Hour, 0, false}} {
			began := time.Now()
			if got := backoff.Sleep(ctx, test.d); got != test.want || time.Since(began) != test.took {
				t.Errorf("%v: %v after %v, want %v after %v", test.d, got, time.Since(began), test.want, test.took)
			}
		}
	})
}
