package nats

import (
	"testing"
	"time"
)

// TestReconnectDelay: a server that is there for moments only must be met there.
func TestReconnectDelay(t *testing.T) {
	const longest = 3200 * time.Millisecond
	for failed := range 1000 {
		if d := reconnectDelay(failed); d > longest || failed > 5 && d < longest/2 {
			t.Fatalf("after %d failures it takes %v to the next attempt, want %v to %v in the end", failed, d, longest/2, longest)
		}
	}
}
