package nats_test

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

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
