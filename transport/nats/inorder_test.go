package nats_test

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// breaking is a server in the process at which a connection breaks in the next write when it is told to.
type breaking struct {
	*server.Server
	next atomic.Bool
}

func (b *breaking) InProcessConn() (net.Conn, error) {
	conn, err := b.Server.InProcessConn()
	return breakingConn{conn, b}, err
}

type breakingConn struct {
	net.Conn
	of *breaking
}

func (c breakingConn) Write(p []byte) (int, error) {
	if c.of.next.CompareAndSwap(true, false) {
		return 0, errors.Join(io.ErrClosedPipe, c.Conn.Close())
	}
	return c.Conn.Write(p)
}

// A connection breaks while many messages of one Send are written, and there is another one at once. Those that come after what
// was lost must not overtake it.
func TestOrderAcrossConnections(t *testing.T) {
	t.Parallel()
	s := &breaking{Server: startServer(t, withJetStream(t))}
	reader := openNode(t, kept(s.Server))
	got, _ := receive(t, reader, durable())
	carrier, err := nats.Open(limited(t), nats.Config{Streams: kept(s.Server).Streams}, nats.Options{InProcess: s, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := carrier.Close(limited(t)); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	pub := newPublisher(reader)
	want := uint64(0)
	for range 10 {
		var msgs []*transport.Message
		for range 100 {
			m := pub.message()
			m.ID = transport.NewID(pub.gid, m.Info.Sequence, "host")
			msgs = append(msgs, m)
		}
		s.next.Store(true)
		for ctx := limited(t); len(msgs) > 0 && ctx.Err() == nil; {
			failed, ok := errors.AsType[*transport.SendError](carrier.Send(ctx, msgs...))
			if !ok {
				break
			}
			msgs = msgs[failed.Taken:]
		}
		for range 100 {
			want++
			ack(t, got.wants(want))
		}
		if t.Failed() {
			return
		}
	}
}

// The connection breaks while a reader gives messages back: what is published then does not overtake them, though the server has not heard
// of it.
func TestOrderWhenGivingBackIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	p, c := through(t, s)
	node := openNode(t, c)
	got, _ := receive(t, node, durable())
	pub := newPublisher(openNode(t, kept(s)))
	pub.publish(t, 4)
	var back []transport.Delivery
	for want := uint64(1); want <= 4; want++ {
		back = append(back, got.wants(want))
	}
	p.CutAfter(proxy.ToServer, 0)
	for _, d := range back {
		d.Nack(-1, "")
	}
	pub.publish(t, 2)
	for want := uint64(1); want <= 6; want++ {
		ack(t, got.wants(want))
	}
}
