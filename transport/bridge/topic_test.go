package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// TestTopic: a message comes as it was published, and with its way.
func TestTopic(t *testing.T) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	join(t, "a", busA, "b", busB, "topics <-> /x/>")
	nodeA, nodeB := newNode(t, busA), newNode(t, busB)
	here, there := subscribe(t, nodeA, "/x/y"), subscribe(t, nodeB, "/x/y")
	publish(t, publisher(t, nodeA, "/x/y"), "hello", transport.WithHeader("Color", "red"), transport.WithContentType("text/csv"),
		transport.WithFile("a.csv"), func(m *transport.Message) { m.Deadline = time.Now().Add(time.Hour).Round(0) })
	want, got := *next(t, here), *next(t, there)
	if want.From == got.From {
		t.Errorf("both are from %s", want.From)
	}
	want.From, want.Info.ReceivedTime, got.From, got.Info.ReceivedTime = "", time.Time{}, "", time.Time{}
	want.Header.Add(bridge.HeaderWay, "a")
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b transport.ID) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	publish(t, publisher(t, nodeB, "/x/y"), "and back")
	if m := next(t, here); string(m.Body) != "and back" || m.Header.Get(bridge.HeaderWay) != "b" {
		t.Errorf("got %q by %q", m.Body, m.Header.Get(bridge.HeaderWay))
	}
	publish(t, publisher(t, nodeA, "/y"), "not that")
	publish(t, publisher(t, nodeA, "/x/y"), "last")
	if m := next(t, there); string(m.Body) != "and back" {
		t.Errorf("got %q", m.Body)
	}
	if m := next(t, there); string(m.Body) != "last" {
		t.Errorf("got %q", m.Body)
	}
}

// TestNoLoops publishes on every bus of several that are joined in all kinds of ways. No message may come back to
// where it has been, and each must reach every bus: once if there is one way.
func TestNoLoops(t *testing.T) {
	for name, test := range map[string]struct {
		buses   string
		bridges []string // two buses and the direction
		once    bool
	}{
		"two in parallel":            {"ab", []string{"a<->b", "a<->b"}, false},
		"two in opposite directions": {"ab", []string{"a->b", "b->a"}, true},
		"a chain of three":           {"abcd", []string{"a<->b", "b<->c", "c<->d"}, true},
		"a ring of three":            {"abc", []string{"a->b", "b->c", "c->a"}, true},
		"a ring both ways":           {"abc", []string{"a<->b", "b<->c", "c<->a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testNoLoops(t, test.buses, test.bridges, test.once) })
		})
	}
}

func testNoLoops(t *testing.T, names string, bridges []string, once bool) {
	buses := make(map[byte]*intraprocess.Bus)
	subs := make(map[byte]*pubsub.Subscription)
	nodes := make(map[byte]*transport.Node)
	for _, name := range []byte(names) {
		buses[name] = intraprocess.NewBus()
		nodes[name] = newNode(t, buses[name])
		subs[name] = subscribe(t, nodes[name], ">", pubsub.KeepAll())
	}
	for _, b := range bridges {
		from, to := b[0], b[len(b)-1]
		direction := strings.Trim(b, string([]byte{from, to}))
		join(t, string(from), buses[from], string(to), buses[to], "topics "+direction+" >")
	}
	for _, origin := range []byte(names) {
		publish(t, publisher(t, nodes[origin], "/x"), "from "+string(origin))
	}
	synctest.Wait()
	for _, name := range []byte(names) {
		came := make(map[string]int)
		for m, ok := subs[name].TryNext(); ok; m, ok = subs[name].TryNext() {
			came[string(m.Body)]++
		}
		for _, origin := range []byte(names) {
			n := came["from "+string(origin)]
			if n == 0 || n > 1 && (once || origin == name) || n > len(bridges) {
				t.Errorf("what was published on %c came %d times to %c", origin, n, name)
			}
		}
	}
}

// TestLongWay: a message that has been to too many places, or says so badly, does not cross.
func TestLongWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "topics -> >")
		sub := subscribe(t, newNode(t, busB), ">", pubsub.KeepAll())
		pub := publisher(t, newNode(t, busA), "/x")
		long := strings.TrimSuffix(strings.Repeat("x,", bridge.MaxHops), ",")
		for _, way := range []string{long, long + ",x", "x,b", "x,,y", "x y", "ä", strings.Repeat("x", bridge.MaxSideName+1), ","} {
			publish(t, pub, way, transport.WithHeader(bridge.HeaderWay, way))
		}
		publish(t, pub, "two fields", transport.WithHeader(bridge.HeaderWay, "x"), transport.WithHeader(bridge.HeaderWay, "b"))
		publish(t, pub, "fine", transport.WithHeader(bridge.HeaderWay, long[2:]))
		synctest.Wait()
		m := next(t, sub)
		if string(m.Body) != "fine" || m.Header.Get(bridge.HeaderWay) != long[2:]+",a" || len(m.Header) != 1 {
			t.Errorf("got %q with %v", m.Body, m.Header)
		}
		if s := sum(b); s.Looped != 9 || s.Forwarded != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestRepeatedTopicMessage: what comes twice, by its number or by its ID, crosses once.
func TestRepeatedTopicMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "topics -> /x")
		sub := subscribe(t, newNode(t, busB), ">", pubsub.KeepAll())
		node, gid := newNode(t, busA), transport.NewGID()
		for _, m := range []transport.Message{
			{Info: transport.Info{PublisherGID: gid, Sequence: 2}},
			{Info: transport.Info{PublisherGID: gid, Sequence: 1}},
			{ID: transport.ParseID("foreign@example.org")},
			{},
		} {
			for range 2 {
				again := m
				again.Kind, again.Name = transport.TopicMessage, "/x"
				if err := node.Send(t.Context(), &again); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		n := 0
		for _, ok := sub.TryNext(); ok; _, ok = sub.TryNext() {
			n++
		}
		// Nothing tells the last two apart from others: both have to cross.
		if s := sum(b); n != 5 || s.Repeated != 3 || s.Forwarded != 5 {
			t.Errorf("%d have come; %+v", n, s)
		}
	})
}

// TestExpiredTopicMessage: nobody wants it on the other side.
func TestExpiredTopicMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "topics -> /x")
		pub := publisher(t, newNode(t, busA), "/x")
		publish(t, pub, "late", func(m *transport.Message) { m.Deadline = time.Now() })
		publish(t, pub, "in time", func(m *transport.Message) { m.Deadline = time.Now().Add(1) })
		synctest.Wait()
		if s := sum(b); s.Expired != 1 || s.Forwarded != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// broken is a carrier whose Send can be made to fail.
type broken struct {
	transport.Carrier
	fail func(*transport.Message) error // nil, or what a message fails with
}

func (c *broken) Send(ctx context.Context, msgs ...*transport.Message) error {
	if err := c.fail(msgs[0]); err != nil {
		return err
	}
	return c.Carrier.Send(ctx, msgs...)
}

// breakable returns a node whose messages fail while their body is bad.
func breakable(t testing.TB, bus *intraprocess.Bus, fail func(*transport.Message) error) *transport.Node {
	t.Helper()
	node, err := transport.NewNode(&broken{bus.Attach(), fail}, &transport.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, node)
	return node
}

// TestOthersGoOn: a publisher's messages wait for each other, and nobody else's do. The other direction goes on.
func TestOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		until := time.Now().Add(time.Minute)
		out := breakable(t, busB, func(m *transport.Message) error {
			if string(m.Body) == "held" && time.Now().Before(until) {
				return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Code: 451, Err: errors.New("greylisted")}
			}
			return nil
		})
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}, "topics -> /x", "topics <- /y")
		closeLater(t, b)
		nodeA, nodeB := newNode(t, busA), newNode(t, busB)
		forth, back := subscribe(t, nodeB, "/x", pubsub.KeepAll()), subscribe(t, nodeA, "/y")
		slow := publisher(t, nodeA, "/x")
		for _, text := range []string{"first", "held", "behind it"} {
			publish(t, slow, text)
		}
		for range 100 {
			publish(t, publisher(t, nodeA, "/x"), "other")
		}
		publish(t, publisher(t, nodeB, "/y"), "back")
		synctest.Wait()
		came := make(map[string]int)
		for m, ok := forth.TryNext(); ok; m, ok = forth.TryNext() {
			came[string(m.Body)]++
		}
		if diff := cmp.Diff(map[string]int{"first": 1, "other": 100}, came); diff != "" {
			t.Error(diff)
		}
		if m := next(t, back); string(m.Body) != "back" {
			t.Errorf("got %q", m.Body)
		}
		if s := sum(b); s.Waiting != 2 {
			t.Errorf("%+v", s)
		}
		for _, want := range []string{"held", "behind it"} {
			if m := next(t, forth); string(m.Body) != want {
				t.Errorf("got %q, not %q", m.Body, want)
			}
		}
		if now := time.Now(); now.Before(until) || now.After(until.Add(time.Minute)) {
			t.Errorf("they came %v late", now.Sub(until))
		}
	})
}

// TestManyPublishers: there are more of them than are sent for at once, and each one's order is kept.
func TestManyPublishers(t *testing.T) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	join(t, "a", busA, "b", busB, "topics -> /x durable=d")
	sub := subscribe(t, newNode(t, busB), "/x", pubsub.KeepAll())
	node := newNode(t, busA)
	const publishers, each = 100, 20
	for range publishers {
		pub := publisher(t, node, "/x")
		go func() {
			for range each {
				if err := pub.Publish(context.Background(), nil); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	came := make(map[transport.GID]uint64)
	for range publishers * each {
		info := next(t, sub).Info
		if came[info.PublisherGID]++; came[info.PublisherGID] != info.Sequence {
			t.Fatalf("number %d came in place %d", info.Sequence, came[info.PublisherGID])
		}
	}
}

// TestRefusedTopicMessage: what the other side refuses for good is a dead letter, and holds up nothing.
func TestRefusedTopicMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		out := breakable(t, busB, func(m *transport.Message) error {
			if string(m.Body) == "bad" {
				return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Code: 554, Err: transport.ErrRefused}
			}
			return nil
		})
		b := openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}, "topics -> /x durable=d")
		closeLater(t, b)
		sub := subscribe(t, newNode(t, busB), "/x")
		pub := publisher(t, newNode(t, busA), "/x")
		publish(t, pub, "bad")
		publish(t, pub, "good")
		if m := next(t, sub); string(m.Body) != "good" {
			t.Errorf("got %q", m.Body)
		}
		synctest.Wait()
		dead := busA.DeadLetters()
		if len(dead) != 1 || string(dead[0].Message.Body) != "bad" || !strings.Contains(dead[0].Reason, "refused") {
			t.Errorf("dead letters: %+v", dead)
		}
		if s := sum(b); s.Failed != 1 || s.Forwarded != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestFullOutbox: a next hop that has no room for the time being is waited for.
func TestFullOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		until := time.Now().Add(time.Minute)
		out := breakable(t, busB, func(m *transport.Message) error {
			if time.Now().Before(until) {
				return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Err: fmt.Errorf("outbox is %w", transport.ErrFull)}
			}
			return nil
		})
		closeLater(t, openBridge(t, bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}, "topics -> /x"))
		sub := subscribe(t, newNode(t, busB), "/x")
		publish(t, publisher(t, newNode(t, busA), "/x"), "patient")
		if m := next(t, sub); string(m.Body) != "patient" || time.Now().Before(until) {
			t.Errorf("got %q", m.Body)
		}
	})
}

// TestNewBridgeGoesOn: what a bridge had not forwarded when it ended, the next one does, in order.
func TestNewBridgeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		var down atomic.Bool
		down.Store(true)
		out := breakable(t, busB, func(m *transport.Message) error {
			if down.Load() {
				return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, NextHop: true, Err: errors.New("no route to host")}
			}
			return nil
		})
		from, to := bridge.Side{Name: "a", Node: newNode(t, busA)}, bridge.Side{Name: "b", Node: out}
		first := openBridge(t, from, to, "topics -> /x durable=d", "topics -> /y")
		node, other := newNode(t, busA), newNode(t, busB)
		sub := subscribe(t, other, ">", pubsub.KeepAll())
		pub := publisher(t, node, "/x")
		for i := range 200 {
			publish(t, pub, fmt.Sprint(i))
		}
		publish(t, publisher(t, node, "/y"), "lost")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := first.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		if s := sum(first); s.Forwarded != 0 || s.Dropped != 1 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		for i := range 100 {
			publish(t, pub, fmt.Sprint(200+i))
		}
		down.Store(false)
		closeLater(t, openBridge(t, from, to, "topics -> /x durable=d"))
		for i := range 300 {
			if m := next(t, sub); string(m.Body) != fmt.Sprint(i) {
				t.Fatalf("got %q, not %d", m.Body, i)
			}
		}
	})
}

// TestOtherSideClosed: a rule ends when nothing can cross any more, and keeps what it has.
func TestOtherSideClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		out := openNode(t, busB)
		from := bridge.Side{Name: "a", Node: newNode(t, busA)}
		first := openBridge(t, from, bridge.Side{Name: "b", Node: out}, "topics -> /x durable=d")
		if err := out.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		publish(t, publisher(t, newNode(t, busA), "/x"), "kept")
		synctest.Wait()
		if err := first.Close(t.Context()); err != nil {
			t.Error(err)
		}
		sub := subscribe(t, newNode(t, busB), "/x")
		closeLater(t, openBridge(t, from, bridge.Side{Name: "b", Node: newNode(t, busB)}, "topics -> /x durable=d"))
		if m := next(t, sub); string(m.Body) != "kept" {
			t.Errorf("got %q", m.Body)
		}
	})
}

// TestGroupOfBridges: two bridges that stand in for each other share what crosses, and each message and call crosses once,
// also when one of them ends in between.
func TestGroupOfBridges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		texts := []string{"topics -> /x group=bridges", "services -> /y group=bridges"}
		nodeA := newNode(t, busA)
		first := openBridge(t, bridge.Side{Name: "a", Node: nodeA}, bridge.Side{Name: "b", Node: newNode(t, busB)}, texts...)
		second := join(t, "a", busA, "b", busB, texts...)
		sub := subscribe(t, newNode(t, busB), "/x", pubsub.KeepAll())
		runs := 0
		serve(t, newNode(t, busB), "/y", func(context.Context, *transport.Message) ([]byte, error) {
			runs++
			return nil, nil
		}, service.Concurrency(1))
		node := newNode(t, busA)
		pub, client := publisher(t, node, "/x"), newClient(t, node, "/y")
		const n = 100
		for i := range n {
			publish(t, pub, fmt.Sprint(i))
			if _, err := client.Call(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if i == n/2 {
				if err := first.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		synctest.Wait()
		came := make(map[string]int)
		for m, ok := sub.TryNext(); ok; m, ok = sub.TryNext() {
			came[string(m.Body)]++
		}
		if len(came) != n || runs != n {
			t.Errorf("%d messages have come, and %d requests", len(came), runs)
		}
		for text, count := range came {
			if count != 1 {
				t.Errorf("%s came %d times", text, count)
			}
		}
		if one, other := sum(first), sum(second); one.Forwarded == 0 || other.Forwarded == 0 || one.Forwarded+other.Forwarded != 2*n {
			t.Errorf("one has forwarded %d, the other %d", one.Forwarded, other.Forwarded)
		}
	})
}
