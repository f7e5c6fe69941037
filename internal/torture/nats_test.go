package torture_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/internal/torture"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/natsserver"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// startNATS starts a NATS server in a process of its own until the test ends.
func startNATS(t *testing.T, config natsserver.Config) *torture.NATS {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config.Dir = t.TempDir()
	server, err := torture.StartNATS([]string{binary}, []string{natsServerEnv + "=1"}, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// TestNATSThatDoesNotStart: the error says how the process has ended, and what it had to say.
func TestNATSThatDoesNotStart(t *testing.T) {
	t.Parallel()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, err = torture.StartNATS([]string{binary}, []string{natsServerEnv + "=1"}, natsserver.Config{Dir: filepath.Join(binary, "nowhere")})
	if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("error %v", err)
	}
}

// TestShortNATS: over NATS, too, nothing goes wrong when nothing is broken.
func TestShortNATS(t *testing.T) {
	t.Parallel()
	o := options(t, startNATS(t, natsserver.Config{}))
	o.Load = torture.Load{Messages: 200, Calls: 20, Publishers: 2, Plains: 1, Durables: 1, Members: 2, Clients: 1, Servers: 1,
		ServerMode: history.Durable, NackEvery: 50, MaxBody: 2000}
	report := run(t, o)
	if report != nil && (report.Acked != 200 || report.Answered != 20 || report.Handled != 600) {
		t.Errorf("not everything was done")
	}
}

// TestShortFaultsNATS: nor when connections break, the server is stopped and killed, and so are all others.
func TestShortFaultsNATS(t *testing.T) {
	t.Parallel()
	o := options(t, startNATS(t, natsserver.Config{}))
	o.Load = torture.Load{Messages: 200, Calls: 10, Publishers: 1, Outboxes: 1, Plains: 1, Durables: 1, Members: 2, Clients: 1, Servers: 1,
		ServerMode: history.Durable, Lease: 3 * time.Second, NackEvery: 50, MaxBody: 2000, Every: 5 * time.Millisecond, Timeout: 5 * time.Second}
	o.Faults = []string{"all"}
	o.FaultEvery = 100 * time.Millisecond
	run(t, o)
}

// TestSweepNATS: the connection of a publisher, or of a durable subscription, is cut at any byte, in either direction.
func TestSweepNATS(t *testing.T) {
	t.Parallel()
	server := startNATS(t, natsserver.Config{})
	sweepNATS(t, server, false, 2, 197, 197)
	sweepNATS(t, server, true, 4, 797, 3331)
}

// sweepNATS cuts after every so many bytes to the server and to the client. When a subscription loses what was on its way, it waits
// until its lease has ended.
func sweepNATS(t *testing.T, server *torture.NATS, subscription bool, lanes int, strides ...int64) {
	name := "publisher"
	if subscription {
		name = "subscription"
	}
	for d, stride := range strides {
		sweepLanes(t, name, proxy.Direction(d), lanes, stride, func(t testing.TB) *lane { return newNATSLane(t, server, subscription) })
	}
}

var natsLanes atomic.Int64

// newNATSLane makes a lane over NATS whose proxy is in front of the publisher or of the subscription.
func newNATSLane(t testing.TB, server *torture.NATS, subscription bool) *lane {
	n := natsLanes.Add(1)
	l := &lane{TB: t, topic: fmt.Sprintf("/torture/lane-%d", n), anew: subscription, checker: history.NewChecker()}
	var straight, through *nats.Config
	straight, l.proxy, through = behindProxy(t, server)
	from, to := through, straight
	if subscription {
		from, to = straight, through
	}
	l.closeFirst = subscription
	l.options = []pubsub.SubscriptionOption{pubsub.Durable(fmt.Sprintf("lane-%d", n))}
	l.open = func() (*transport.Node, error) { return openNATS(l.Context(), to) }
	node, err := openNATS(l.Context(), from)
	l.begin(node, err, 1)
	return l
}

// behindProxy returns how to reach a server, and how through a proxy.
func behindProxy(t testing.TB, server *torture.NATS) (straight *nats.Config, p *proxy.Proxy, through *nats.Config) {
	t.Helper()
	account, _, err := server.Accounts()
	if err != nil {
		t.Fatal(err)
	}
	if p, err = proxy.Listen(strings.TrimPrefix(account.NATS.Servers[0], "nats://")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	detour := *account.NATS
	detour.Servers = []string{"nats://" + p.Addr()}
	return account.NATS, p, &detour
}

func openNATS(ctx context.Context, config *nats.Config) (*transport.Node, error) {
	quiet := slog.New(slog.DiscardHandler)
	carrier, err := nats.Open(ctx, *config, nats.Options{Logger: quiet})
	if err != nil {
		return nil, err
	}
	return postbus.New(carrier, &transport.Options{Logger: quiet})
}

// TestSlowConsumerNATS: a plain subscription does not read until the server gives it up. It goes on when it reads again, with what
// comes then, and a durable subscription behind the same proxy gets all.
func TestSlowConsumerNATS(t *testing.T) {
	t.Parallel()
	server := startNATS(t, natsserver.Config{MaxPending: 16 << 20})
	straight, p, through := behindProxy(t, server)
	node := func(config *nats.Config) *transport.Node {
		n, err := openNATS(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(context.Background()) })
		return n
	}
	slow := node(through)
	subscribe := func(options ...pubsub.SubscriptionOption) *pubsub.Subscription {
		sub, err := pubsub.NewSubscription(slow, "/torture/slow", options...)
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	plain, durable := subscribe(pubsub.KeepAll()), subscribe(pubsub.Durable("slow"))
	pub, err := pubsub.NewPublisher(node(straight), "/torture/slow")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	last := uint64(0)
	publish := func() {
		last++
		body := append(binary.BigEndian.AppendUint64(nil, last), bytes.Repeat([]byte("x"), 200_000)...)
		if err := pub.Publish(ctx, body); err != nil {
			t.Fatal(err)
		}
	}
	number := func(m *transport.Message) uint64 { return binary.BigEndian.Uint64(m.Body) }

	p.Set(proxy.ToClient, proxy.Rule{Hold: true})
	for given := false; !given; {
		publish()
		log, err := server.Log()
		if err != nil {
			t.Fatal(err)
		}
		given = strings.Contains(log, "Slow Consumer")
	}
	p.Heal()
	for want := uint64(1); want <= last; want++ {
		d, err := durable.Take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := number(d.Message); n != want {
			t.Fatalf("the durable subscription got message %d, want %d", n, want)
		}
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
	}
	publish() // both have their connection back: it is the same
	for before := uint64(0); before < last; {
		m, err := plain.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := number(m); n <= before {
			t.Fatalf("the plain subscription got message %d after %d", n, before)
		} else {
			before = n
		}
	}
}
