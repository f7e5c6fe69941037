// Package proxy is a TCP proxy that breaks connections in all the ways a network can: it
// cuts them, at any byte, closes one direction, slows them down, or holds everything
// back as a black hole does.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Direction is one of the two directions of a connection.
type Direction int

const (
	// ToServer is from the client to the server.
	ToServer Direction = iota
	// ToClient is from the server to the client.
	ToClient
)

// never is no byte at all, in either direction.
var never = [2]int64{-1, -1}

// Rule says how bytes are passed on. The zero value does so at once.
type Rule struct {
	// Hold passes on nothing, until another rule comes or the connection is cut. As with
	// packets that are lost, what was sent meanwhile comes then.
	Hold bool
	// Delay is how long each piece waits before it is passed on.
	Delay time.Duration
	// Piece is how many bytes are passed on at once, if it is not zero.
	Piece int
	// Rate is how many bytes pass in a second, if it is not zero.
	Rate int
}

// Proxy is a listening proxy. All methods may be called concurrently.
type Proxy struct {
	listener net.Listener
	target   string
	done     context.CancelFunc
	ctx      context.Context
	running  sync.WaitGroup

	mu      sync.Mutex
	rules   [2]Rule
	changed chan struct{} // closed when the rules are others
	passed  [2]int64
	cuts    [2]int64 // cut when so many bytes have passed; negative for never
	holds   [2]int64 // hold then
	refuse  bool
	open    map[*pair]struct{}
	total   int               // connections accepted
	whole   func(string) bool // of CountFlights
	flown   []*flights        // what it counts
}

// pair is a connection through the proxy.
type pair struct {
	client, server net.Conn
	cut            chan struct{} // closed by reset
	once           sync.Once
	flights        flights
}

// Listen starts a proxy for the server at target (host:port), on a free port of loopback.
func Listen(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{listener: listener, target: target, changed: make(chan struct{}), open: make(map[*pair]struct{}), cuts: never, holds: never}
	p.ctx, p.done = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p, nil
}

// Addr returns the host:port where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close cuts every connection and returns when all goroutines have ended.
func (p *Proxy) Close() error {
	p.done()
	err := p.listener.Close()
	p.Cut()
	p.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Set has a rule apply to a direction of all connections, those that are open and those
// to come.
func (p *Proxy) Set(d Direction, rule Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules[d] = rule
	p.change()
}

// change wakes whoever waits under the old rules. p.mu is held.
func (p *Proxy) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Refuse has new connections closed at once, or accepted again.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Heal ends whatever Set, Refuse, CutAfter and HoldAfter have begun.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.refuse, p.cuts, p.holds = [2]Rule{}, false, never, never
	p.change()
}

// CutAfter cuts the connection that passes byte n in a direction, counted from now
// on over all connections, once: exactly n bytes are passed on.
func (p *Proxy) CutAfter(d Direction, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts[d] = p.passed[d] + n
}

// HoldAfter has a direction held (see Rule.Hold) from byte n on, counted as for CutAfter.
func (p *Proxy) HoldAfter(d Direction, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds[d] = p.passed[d] + n
}

// Passed returns how many bytes have been passed on in a direction.
func (p *Proxy) Passed(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed[d]
}

// Connections returns how many connections are open, and how many there have been.
func (p *Proxy) Connections() (open, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open), p.total
}

// Cut resets all open connections, as a router that has lost its state does.
func (p *Proxy) Cut() {
	for _, c := range p.pairs() {
		c.reset()
	}
}

// HalfClose ends one direction of all open connections: its receiver sees the end of
// the stream, and can still send.
func (p *Proxy) HalfClose(d Direction) {
	for _, c := range p.pairs() {
		to := c.server
		if d == ToClient {
			to = c.client
		}
		// It may be closed already, and that is as good.
		_ = to.(*net.TCPConn).CloseWrite()
	}
}

func (p *Proxy) pairs() []*pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	pairs := make([]*pair, 0, len(p.open))
	for c := range p.open {
		pairs = append(pairs, c)
	}
	return pairs
}

// reset breaks both sides without a farewell.
func (c *pair) reset() {
	c.once.Do(func() {
		close(c.cut)
		for _, conn := range []net.Conn{c.client, c.server} {
			// What has not been sent is thrown away, and the other side gets a RST.
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	})
}
