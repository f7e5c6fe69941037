package nats_test

import (
	"context"
	"flag"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/postbus/postbus/transport/nats"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // they wait most of the time; what the command line says still counts
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(leftover))
}

// leftover is a goroutine of nats.go that waits for ever if an object has been put before it begins, as it may be on
// a busy machine: the end of ObjectStore.Put takes from it the channel that it is to read.
const leftover = "github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"

// timeout is how long tests wait for what must happen.
const timeout = 30 * time.Second

// quiet discards the log.
var quiet = slog.New(slog.DiscardHandler)

// startServer starts a server in this process, on loopback, until the test ends. change may alter its options.
func startServer(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stopServer(s) })
	if !s.ReadyForConnections(timeout) {
		t.Fatal("the server does not start")
	}
	return s
}

// stopServer stops a server, unless that has been done.
func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// config returns the configuration of a node of a server.
func config(s *server.Server) nats.Config { return nats.Config{Servers: []string{s.ClientURL()}} }

// open opens a carrier until the test ends.
func open(t testing.TB, c nats.Config) *nats.Carrier {
	t.Helper()
	carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := carrier.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return carrier
}

// connect opens a connection without postbus.
func connect(t testing.TB, s *server.Server) *natsgo.Conn {
	t.Helper()
	conn, err := natsgo.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// limited returns a context for a step of the test.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx
}
