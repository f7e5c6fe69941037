package bridge_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
	"github.com/postbus/postbus/transport/nats"
)

// journal is what has been logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

// logging returns a node that logs to the journal.
func (j *journal) logging(t testing.TB, carrier transport.Carrier) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(carrier, &transport.Options{Logger: slog.New(slog.NewTextHandler(j, nil))})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, node)
	return node
}

// TestTwoNetworksOfOneName: nothing crosses between them, and that is said. What a bridge hears of itself is not worth a word.
func TestTwoNetworksOfOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const warning = "need different names"
		var first, second journal
		busA, busN, busB := intraprocess.NewBus(), intraprocess.NewBus(), intraprocess.NewBus()
		for _, end := range []struct {
			bus *intraprocess.Bus
			log *journal
		}{{busA, &first}, {busB, &second}} {
			from, to := end.log.logging(t, end.bus.Attach()), end.log.logging(t, busN.Attach())
			closeLater(t, openBridge(t, bridge.Side{Name: "mail", Node: from}, bridge.Side{Name: "nats", Node: to}, "topics <-> >"))
		}
		sub := subscribe(t, newNode(t, busB), ">")
		pub := publisher(t, newNode(t, busA), "/x")
		for range 3 {
			publish(t, pub, "hello")
		}
		synctest.Wait()
		if m, ok := sub.TryNext(); ok {
			t.Errorf("got %+v", m)
		}
		if own, other := first.count(warning), second.count(warning); own != 0 || other != 1 {
			t.Errorf("the first bridge warns %d times, the second %d", own, other)
		}
	})
}

// TestGroupWithoutStream: a group that only shares is told so, once.
func TestGroupWithoutStream(t *testing.T) {
	s := startNATS(t, server.RANDOM_PORT, "")
	t.Cleanup(func() { stopNATS(s) })
	config := nats.Config{Servers: []string{s.ClientURL()}}
	carrier, err := nats.Open(t.Context(), config, nats.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	var log journal
	bus := intraprocess.NewBus()
	b := openBridge(t, bridge.Side{Name: "nats", Node: log.logging(t, carrier)}, bridge.Side{Name: "bus", Node: newNode(t, bus)}, "topics -> /x group=g")
	sub := subscribe(t, newNode(t, bus), "/x")
	pub := publisher(t, natsNode(t, config), "/x")
	for range 3 {
		publish(t, pub, "hello")
		next(t, sub)
	}
	if s := total(t, b); s.Forwarded != 3 || log.count("shares its messages, and no more") != 1 {
		t.Errorf("%+v, and the warning %d times", s, log.count("no more"))
	}
}
