package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/internal/bench"
)

// natsInProcess is NATS core over pipes to a server in this process.
func natsInProcess(context.Context) (bench.Ground, error) { return startNATS(true) }

// natsTCP is the same over TCP.
func natsTCP(context.Context) (bench.Ground, error) { return startNATS(false) }

func startNATS(inProcess bool) (bench.Ground, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, DontListen: inProcess, NoLog: true, NoSigs: true})
	if err != nil {
		return bench.Ground{}, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return bench.Ground{}, errors.New("the server does not start")
	}
	n := natsSystem{func() (*nats.Conn, error) {
		if inProcess {
			return nats.Connect("", nats.InProcessServer(s))
		}
		return nats.Connect(s.ClientURL())
	}}
	return bench.Ground{Ours: n, OpenCaller: n.openCaller, Close: func(context.Context) error {
		s.Shutdown()
		s.WaitForShutdown()
		return nil
	}}, nil
}

// natsSystem has a connection for those who send and one for those who receive.
type natsSystem struct{ connect func() (*nats.Conn, error) }

func (n natsSystem) pair() (from, to *nats.Conn, err error) {
	if from, err = n.connect(); err != nil {
		return nil, nil, err
	}
	if to, err = n.connect(); err != nil {
		from.Close()
		return nil, nil, err
	}
	return from, to, nil
}

type natsSession struct {
	from, to *nats.Conn
	bodies   [][]byte // of each publisher; Publish copies
	subs     []*nats.Subscription
}

// Open implements bench.System.
func (n natsSystem) Open(_ context.Context, load bench.Load) (bench.Session, error) {
	from, to, err := n.pair()
	if err != nil {
		return nil, err
	}
	s := &natsSession{from: from, to: to, bodies: make([][]byte, load.Publishers)}
	for range load.Subscribers {
		sub, err := to.SubscribeSync("bench")
		if err == nil {
			err = sub.SetPendingLimits(-1, -1)
		}
		if err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		s.subs = append(s.subs, sub)
	}
	if err := to.Flush(); err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	return s, nil
}

// Publish implements bench.Session.
func (s *natsSession) Publish(_ context.Context, publisher int, number uint64, body []byte) error {
	b := s.bodies[publisher]
	if len(b) != len(body) {
		b = append([]byte(nil), body...)
		s.bodies[publisher] = b
	}
	mark(b, publisher, number)
	return s.from.Publish("bench", b)
}

// Next implements bench.Session.
func (s *natsSession) Next(ctx context.Context, subscriber int) (bench.Arrival, error) {
	m, err := s.subs[subscriber].NextMsgWithContext(ctx)
	if err != nil {
		return bench.Arrival{}, err
	}
	return arrival(m.Data)
}

// Close implements bench.Session.
func (s *natsSession) Close(context.Context) error {
	s.from.Close()
	s.to.Close()
	return nil
}

type natsCaller struct{ from, to *nats.Conn }

func (n natsSystem) openCaller(context.Context, bench.Load) (bench.Caller, error) {
	from, to, err := n.pair()
	if err != nil {
		return nil, err
	}
	c := natsCaller{from, to}
	if _, err = to.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err == nil {
		err = to.Flush()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close(context.Background()))
	}
	return c, nil
}

// Call implements bench.Caller.
func (c natsCaller) Call(ctx context.Context, _ int, body []byte) ([]byte, error) {
	m, err := c.from.RequestWithContext(ctx, "echo", body)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// Close implements bench.Caller.
func (c natsCaller) Close(context.Context) error {
	c.from.Close()
	c.to.Close()
	return nil
}
