package torture_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/internal/torture"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/natsserver"
	"github.com/postbus/postbus/internal/torture/worker"
)

// workerEnv makes the test binary a worker, and natsServerEnv a NATS server.
const (
	workerEnv     = "POSTBUS_TORTURE_WORKER"
	natsServerEnv = "POSTBUS_TORTURE_NATS_SERVER"
)

func TestMain(m *testing.M) {
	if os.Getenv(natsServerEnv) != "" {
		os.Exit(natsserver.Main(os.Stdin, os.Stdout, os.Stderr))
	}
	if os.Getenv(workerEnv) != "" {
		os.Exit(worker.Main(os.Stdin, os.Stderr, plant(os.Getenv(plantEnv))))
	}
	_ = flag.Set("test.parallel", "8") // they wait most of the time; what the command line says still counts
	goleak.VerifyTestMain(m)
}

// options returns those that all runs have in common. The history is shown if the test fails.
func options(t *testing.T, server torture.Server) torture.Options {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return torture.Options{
		Worker: []string{binary}, Env: []string{workerEnv + "=1"},
		Server: server, Dir: t.TempDir(), Seed: seed,
		Patience: 20 * time.Second,
	}
}

func embedded(t *testing.T) torture.Embedded {
	t.Helper()
	server, err := torture.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

// run runs, shows the report, and wants no violation.
func run(t *testing.T, o torture.Options) *history.Report {
	t.Helper()
	report, err := torture.Run(t.Context(), o)
	if err != nil {
		t.Error(err)
	}
	if report != nil {
		t.Logf("\n%v", report)
		if !report.OK() {
			t.Error("promises were broken")
		}
	}
	if t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(o.Dir, "*.log"))
		for _, name := range logs {
			if text, err := os.ReadFile(name); err == nil && len(text) > 0 {
				t.Logf("%s:\n%s", filepath.Base(name), text[max(0, len(text)-2000):])
			}
		}
	}
	return report
}

// TestShort: nothing goes wrong when nothing is broken.
func TestShort(t *testing.T) {
	t.Parallel()
	o := options(t, embedded(t))
	o.Load = torture.Load{Messages: 100, Calls: 20, Publishers: 2, Plains: 1, Clients: 1, Servers: 1, MaxBody: 2000}
	report := run(t, o)
	if report != nil && (report.Acked != 100 || report.Answered != 20 || report.Handled != 100) {
		t.Errorf("not everything was done")
	}
}

// TestShortBatches: nor when messages travel together.
func TestShortBatches(t *testing.T) {
	t.Parallel()
	server := embedded(t)
	o := options(t, server)
	o.Load = torture.Load{Messages: 800, Calls: 10, Publishers: 1, Outboxes: 1, Plains: 1, Durables: 1, Members: 2, Clients: 1, Servers: 1, Batch: true,
		ServerMode: history.Durable, Lease: 3 * time.Second, NackEvery: 50, MaxBody: 2000, Every: 2 * time.Millisecond}
	o.Faults = []string{"all"}
	o.FaultEvery = 100 * time.Millisecond
	run(t, o)
	mails, err := server.Messages(server.Server.Accounts()[1].Address)
	if err != nil {
		t.Fatal(err)
	}
	batches := 0
	for _, mail := range mails {
		if _, err := wire.Decode(mail); err == wire.ErrBatch {
			batches++
		}
	}
	t.Logf("%d mails, %d of several messages", len(mails), batches)
	if batches == 0 || len(mails) >= 800 {
		t.Error("no messages travelled together")
	}
}

// TestShortFaults: nor when connections break, servers go away and publishers are killed.
func TestShortFaults(t *testing.T) {
	t.Parallel()
	o := options(t, embedded(t))
	o.Load = torture.Load{Messages: 200, Calls: 10, Publishers: 1, Outboxes: 1, Plains: 1, Durables: 1, Members: 2, Clients: 1, Servers: 1,
		ServerMode: history.Durable, Lease: 3 * time.Second, NackEvery: 50, MaxBody: 2000, Every: 5 * time.Millisecond}
	o.Faults = []string{"all"}
	o.FaultEvery = 100 * time.Millisecond
	run(t, o)
}
