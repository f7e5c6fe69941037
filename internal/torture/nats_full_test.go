//go:build integration

package torture_test

import (
	"testing"
	"time"

	"github.com/postbus/postbus/internal/torture"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/natsserver"
)

// TestFullSweepNATS cuts connections to NATS at many more bytes.
func TestFullSweepNATS(t *testing.T) {
	server := startNATS(t, natsserver.Config{})
	sweepNATS(t, server, false, lanes, 7, 7)
	sweepNATS(t, server, true, lanes, 41, 307)
}

// TestFaultsNATS: everything goes wrong over NATS for a minute.
func TestFaultsNATS(t *testing.T) {
	o := options(t, startNATS(t, natsserver.Config{}))
	o.Load = torture.Load{Messages: 20_000, Calls: 1000, Publishers: 2, Outboxes: 2, Plains: 1, Durables: 1, Members: 3, Clients: 1, Servers: 2,
		ServerMode: history.Group, Lease: 5 * time.Second, NackEvery: 100, MaxBody: 4000, Work: time.Millisecond, Every: 10 * time.Millisecond, Timeout: 10 * time.Second}
	o.Faults = []string{"all"}
	o.Duration = time.Minute
	o.Patience = time.Minute
	run(t, o)
}
