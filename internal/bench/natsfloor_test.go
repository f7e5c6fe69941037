package bench

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// natsServer starts a server that keeps streams, and returns a ground on it.
func natsServer(t *testing.T, streams ...email.NATSStream) natsGround {
	t.Helper()
	s, err := startNATS(true, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return natsGround{config: email.NATS{Servers: []string{s.ClientURL()}, Streams: streams}, word: word()}
}

// connection opens a connection of nats.go for a test.
func (g natsGround) connection(t *testing.T) *natsgo.Conn {
	t.Helper()
	conn, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// jetStream is connection for the streams.
func (g natsGround) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(g.connection(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// natsStreamOfAll keeps what the bench sends.
var natsStreamOfAll = email.NATSStream{Name: "ALL", Names: []string{"u1.>", "/bench/>"}}

// shape is what a message looks like: its fields, with the lengths of their values.
func shape(m *natsgo.Msg) map[string]int {
	shape := map[string]int{"": len(m.Data)}
	for field, values := range m.Header {
		shape[field] = len(strings.Join(values, "\n"))
	}
	return shape
}

// The floor sends what postbus sends: the same fields, of the same length.
func TestNATSFloorIsAlike(t *testing.T) {
	load := Load{Publishers: 1, Subscribers: 1, InFlight: 1, Count: 1, Payload: 10}
	type half func(context.Context, Ground) error
	call := func(f func(Ground) func(context.Context, Load) (Caller, error)) half {
		return func(ctx context.Context, g Ground) error { _, err := Calls(ctx, f(g), load); return err }
	}
	stream := func(f func(Ground) System) half {
		return func(ctx context.Context, g Ground) error { _, err := Stream(ctx, f(g), load); return err }
	}
	ours, floor := stream(func(g Ground) System { return g.Ours }), stream(func(g Ground) System { return g.Floor })
	ahead := func(ctx context.Context, g Ground) error {
		l := load
		l.InFlight = 2
		_, err := Stream(ctx, g.Floor, l)
		return err
	}
	ourCalls := call(func(g Ground) func(context.Context, Load) (Caller, error) { return g.OpenCaller })
	floorCalls := call(func(g Ground) func(context.Context, Load) (Caller, error) { return g.OpenFloorCaller })
	for name, c := range map[string]struct {
		streams  []email.NATSStream
		halves   []half
		messages int
	}{
		"topic":            {nil, []half{ours, floor, ahead}, 1},
		"call":             {nil, []half{ourCalls, floorCalls}, 2},
		"topic, JetStream": {[]email.NATSStream{natsStreamOfAll}, []half{ours, floor, ahead}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := natsServer(t, c.streams...)
			conn := g.connection(t)
			all, err := conn.SubscribeSync(">")
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			var wants []map[string]int
			if err := g.prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i, half := range c.halves {
				if err := half(t.Context(), g.ground()); err != nil {
					t.Fatal(err)
				}
				for n := range c.messages {
					got := shape(nextMessage(t, all))
					if i == 0 {
						wants = append(wants, got)
					} else if !maps.Equal(got, wants[n]) {
						t.Errorf("half %d, message %d: %v, want as of postbus %v", i, n, got, wants[n])
					}
				}
			}
		})
	}
}

// nextMessage waits for the next message that has the fields of postbus.
func nextMessage(t *testing.T, sub *natsgo.Subscription) *natsgo.Msg {
	t.Helper()
	for {
		m, err := sub.NextMsg(closeTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get(transport.HeaderPublisherGID) != "" {
			return m
		}
	}
}

// A run on configured servers uses their stream, and leaves nothing behind in it but what was there.
func TestConfiguredNATS(t *testing.T) {
	g := natsServer(t, natsStreamOfAll)
	js := g.jetStream(t)
	run := func() {
		bed := Configured{Config: email.Config{NATS: g.config}}
		load := Load{Publishers: 2, Subscribers: 1, InFlight: 4, Count: 40, WarmUp: 4, Payload: 10}
		r, err := Run(t.Context(), Plan{Measure: Throughput, Bed: bed, Load: load, Runs: 1})
		if err != nil || r.Ours.Received != 40 || r.Floor.Received != 40 || r.Traffic != nil {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	run()
	if _, err := js.Publish(t.Context(), "u1.kept", nil); err != nil {
		t.Fatal(err)
	}
	run()
	stream, err := js.Stream(t.Context(), natsStreamOfAll.Name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	if subjects := slices.Collect(maps.Keys(info.State.Subjects)); !slices.Equal(subjects, []string{"u1.kept"}) || info.State.LastSeq < 4*44 {
		t.Errorf("left behind: %v, of %d", subjects, info.State.LastSeq)
	}
}

// What a stream does not take ends the load.
func TestNATSFloorNotices(t *testing.T) {
	g := natsServer(t, natsStreamOfAll)
	js := g.jetStream(t)
	full := jetstream.StreamConfig{Name: natsStreamOfAll.Name, Subjects: []string{nats.Subject("/bench/>")}, MaxMsgs: 3, Discard: jetstream.DiscardNew}
	if _, err := js.CreateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	for _, inFlight := range []int{1, 2} {
		load := Load{Publishers: 1, Subscribers: 1, InFlight: inFlight, Count: 100, Payload: 10}
		if _, err := Stream(t.Context(), g.ground().Floor, load); err == nil || !strings.Contains(err.Error(), "maximum messages exceeded") {
			t.Errorf("%d in flight: error %v", inFlight, err)
		}
	}
}
