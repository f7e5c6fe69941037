//go:build integration

package torture_test

import (
	"testing"
	"time"

	"github.com/postbus/postbus/internal/torture"
	"github.com/postbus/postbus/internal/torture/history"
)

// stock returns the server of scripts/mailserver.sh, and sees to it that it runs in the end.
func stock(t *testing.T) torture.Stock {
	t.Helper()
	server, err := torture.StockFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, o := range server.Outages() {
			if o.End != nil {
				if err := o.End(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	return server
}

// TestRealFaults: Postfix and Dovecot are stopped, killed and kicked, and everything else
// goes wrong as well.
func TestRealFaults(t *testing.T) {
	o := options(t, stock(t))
	o.Load = torture.Load{Messages: 600, Calls: 50, Publishers: 1, Outboxes: 1, Plains: 1, Durables: 1, Members: 2, Clients: 1, Servers: 1,
		ServerMode: history.Durable, Lease: 5 * time.Second, MaxBody: 4000, Every: 20 * time.Millisecond,
		// Postfix tries again after five to ten seconds what Dovecot could not take, and lets later mail pass.
		GapWait: time.Minute}
	o.Faults = []string{"all"}
	o.FaultEvery = 2 * time.Second
	o.Duration = time.Minute
	o.Patience = 100 * time.Second
	run(t, o)
}
