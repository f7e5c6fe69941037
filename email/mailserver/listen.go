package mailserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Service is one half of the server.
type Service uint8

// The services of a server.
const (
	SMTP Service = iota + 1
	IMAP
)

// String returns the name of the service.
func (s Service) String() string {
	switch s {
	case SMTP:
		return "SMTP"
	case IMAP:
		return "IMAP"
	}
	return fmt.Sprintf("Service(%d)", uint8(s))
}

// security is how an endpoint protects its connections.
type security uint8

const (
	plaintext security = iota
	implicitTLS
	startTLS
	trusted // plaintext LMTP, without login
)

// endpoint is an address on which a service is available.
type endpoint struct {
	addr     string // with the real port once it has been listened on
	security security
}

// protocol is go-smtp's or imapserver's server. Neither can be used again after
// it was closed, so every time the service starts it gets new ones.
type protocol struct {
	serve func(net.Listener) error
	wait  func() // for what outlives its connections
}

// service listens on its endpoints, and can stop and start again.
type service struct {
	name    Service
	busy    string // what a client is told when there are too many
	max     int
	idle    time.Duration // 0 if the protocol sees to it
	tls     *tls.Config
	stats   *connStats
	failed  func(error)
	newBase func(ctx context.Context, security security) protocol

	mu        sync.Mutex
	endpoints []endpoint
	running   *run // nil when stopped
}

// run is the time from a service's start to its stop.
type run struct {
	service   *service
	ctx       context.Context // ends with it
	cancel    context.CancelFunc
	listeners []net.Listener
	protocols []protocol
	serving   sync.WaitGroup // one per listener
	handlers  sync.WaitGroup // one per connection

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// start makes the service available on all its endpoints, or on none.
func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{service: s, ctx: ctx, cancel: cancel, conns: make(map[*conn]struct{})}
	for i := range s.endpoints {
		e := &s.endpoints[i]
		l, err := net.Listen(networkOf(e.addr), e.addr)
		if err != nil {
			for _, l := range r.listeners {
				l.Close()
			}
			cancel()
			return fmt.Errorf("mailserver: %s: %w", s.name, err)
		}
		e.addr = l.Addr().String()
		r.listeners = append(r.listeners, l)
		r.protocols = append(r.protocols, s.newBase(ctx, e.security))
	}
	for i, l := range r.listeners {
		var wrapped net.Listener = &listener{Listener: l, run: r, security: s.endpoints[i].security}
		if s.endpoints[i].security == implicitTLS {
			wrapped = tls.NewListener(wrapped, s.tls)
		}
		serve := r.protocols[i].serve
		r.serving.Go(func() {
			if err := serve(wrapped); err != nil && !errors.Is(err, net.ErrClosed) {
				s.failed(err)
			}
		})
	}
	s.running = r
	return nil
}

// stop closes listeners and connections and waits for everything they started.
func (s *service) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running
	if r == nil {
		return
	}
	s.running = nil
	r.cancel()
	for _, l := range r.listeners {
		l.Close()
	}
	r.serving.Wait() // from here on there are no new connections
	r.disconnect()
	r.handlers.Wait()
	for _, p := range r.protocols {
		p.wait()
	}
}

// disconnect closes all connections.
func (s *service) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		s.running.disconnect()
	}
}

func (r *run) disconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Conn.Close() // not c.Close, which is for the handler to say that it is done
	}
}

// addr returns the address of the endpoint with that security, "" if there is
// none.
func (s *service) addr(security security) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if e.security == security {
			return e.addr
		}
	}
	return ""
}

// The pauses after a connection that could not be accepted, growing from one to the next.
const (
	shortestAcceptPause = 5 * time.Millisecond
	longestAcceptPause  = time.Second
)

// listener turns away connections that are too many, and outlasts those that can't be accepted: when the
// process has too many open files, or the client has gone again.
type listener struct {
	net.Listener
	run      *run
	security security
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	pause := shortestAcceptPause
	for {
		accepted, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			if pause == shortestAcceptPause {
				l.run.service.failed(err)
			}
			select {
			case <-time.After(pause):
			case <-l.run.ctx.Done():
			}
			pause = min(2*pause, longestAcceptPause)
			continue
		}
		if c := l.run.admit(accepted); c != nil {
			return c, nil
		}
		if l.security != implicitTLS {
			// It fits into the socket's empty buffer, so this cannot block.
			io.WriteString(accepted, l.run.service.busy)
		}
		accepted.Close()
	}
}

// admit returns the connection as the protocol gets it, or nil if it is one too
// many.
func (r *run) admit(accepted net.Conn) *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conns) >= r.service.max {
		r.service.stats.refused.Add(1)
		return nil
	}
	c := &conn{Conn: accepted, run: r}
	if r.service.idle == 0 {
		// imapserver sets no deadline before its greeting, which waits for the TLS handshake.
		c.deadline = time.Now().Add(handshakeTimeout)
	}
	r.conns[c] = struct{}{}
	r.handlers.Add(1)
	r.service.stats.accepted.Add(1)
	r.service.stats.open.Add(1)
	return c
}
