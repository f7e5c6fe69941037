package backoff

import (
	"testing"
	"time"
)

func TestDelay(t *testing.T) {
	for _, test := range []struct {
		failed int
		want   time.Duration
	}{{-1, 0}, {0, 0}, {1, 100 * time.Millisecond}, {4, 800 * time.Millisecond}, {9, 25600 * time.Millisecond}, {10, Longest}, {1000, Longest}} {
		if longest, shortest := delay(test.failed, 0), delay(test.failed, 1); longest != test.want || shortest != test.want/2 {
			t.Errorf("after %d failures %v to %v, want %v to %v", test.failed, shortest, longest, test.want/2, test.want)
		}
	}
}
