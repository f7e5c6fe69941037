package proxy

import (
	"net"
	"sync"
	"time"
)

// dialTimeout bounds the connecting to the server.
const dialTimeout = 10 * time.Second

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve passes bytes on between a client and the server until both directions have ended.
func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	refuse := p.refuse
	p.mu.Unlock()
	var server net.Conn
	err := net.ErrClosed
	if !refuse {
		dialer := net.Dialer{Timeout: dialTimeout}
		server, err = dialer.DialContext(p.ctx, "tcp", p.target)
	}
	if err != nil {
		// As a port that nobody listens on.
		_ = client.(*net.TCPConn).SetLinger(0)
		_ = client.Close()
		return
	}
	c := &pair{client: client, server: server, cut: make(chan struct{})}
	p.mu.Lock()
	p.open[c] = struct{}{}
	p.total++
	if p.whole != nil {
		c.flights.count(p.whole)
		p.flown = append(p.flown, &c.flights)
	}
	p.mu.Unlock()
	if p.ctx.Err() != nil {
		c.reset() // Close has come in between
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(c, ToServer, client, server) })
	both.Go(func() { p.pump(c, ToClient, server, client) })
	both.Wait()
	c.flights.stop()
	_ = client.Close()
	_ = server.Close()
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

// pump passes on one direction of a connection, and then its end.
func (p *Proxy) pump(c *pair, d Direction, from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && d == ToServer {
			c.flights.sent(buffer[:n])
		}
		if n > 0 && !p.pass(c, d, buffer[:n], to) {
			// The receiver has gone: the sender shall notice, as it would without a proxy.
			c.reset()
			return
		}
		if err != nil {
			if p.admit(c, d) {
				_ = to.(*net.TCPConn).CloseWrite() // it may be closed already
			}
			return
		}
	}
}

// pass passes on what has been read, by the rules in force.
func (p *Proxy) pass(c *pair, d Direction, data []byte, to net.Conn) bool {
	for len(data) > 0 {
		if !p.admit(c, d) {
			return false
		}
		p.mu.Lock()
		rule := p.rules[d]
		p.mu.Unlock()
		piece := len(data)
		if rule.Piece > 0 {
			piece = min(piece, rule.Piece)
		}
		if rule.Rate > 0 {
			piece = min(piece, max(1, rule.Rate/20)) // in steps of 50 ms
			if !p.wait(c, time.Duration(piece)*time.Second/time.Duration(rule.Rate)) {
				return false
			}
		}
		if rule.Delay > 0 && !p.wait(c, rule.Delay) {
			return false
		}
		if d == ToClient && !c.flights.answer(c.cut) {
			return false
		}
		n, ok := p.write(c, d, data[:piece], to)
		if !ok {
			return false
		}
		data = data[n:]
	}
	return true
}

// write writes a piece, up to the byte at which the connection is to be cut or held. It returns how
// much it has written.
func (p *Proxy) write(c *pair, d Direction, piece []byte, to net.Conn) (n int, ok bool) {
	p.mu.Lock()
	hold := reached(p.holds[d], p.passed[d], &piece)
	cut := reached(p.cuts[d], p.passed[d], &piece)
	if hold {
		p.holds[d] = -1
		p.rules[d].Hold = true
	}
	if cut {
		p.cuts[d] = -1
	}
	p.passed[d] += int64(len(piece))
	p.mu.Unlock()
	if _, err := to.Write(piece); err != nil {
		return 0, false
	}
	if cut {
		// The bytes before the cut are to arrive: a reset may overtake them, an end of
		// the stream can't.
		c.end()
	}
	return len(piece), !cut
}

// reached reports whether a piece reaches a limit, and cuts it short there.
func reached(limit, passed int64, piece *[]byte) bool {
	if limit < 0 || passed+int64(len(*piece)) < limit {
		return false
	}
	*piece = (*piece)[:max(0, limit-passed)]
	return true
}

// end breaks both sides in an orderly way: what was passed on before still arrives.
func (c *pair) end() {
	c.once.Do(func() {
		close(c.cut)
		_ = c.client.Close()
		_ = c.server.Close()
	})
}

// admit waits while the direction is held. It returns false when the connection is cut.
func (p *Proxy) admit(c *pair, d Direction) bool {
	for {
		p.mu.Lock()
		held, changed := p.rules[d].Hold, p.changed
		p.mu.Unlock()
		if !held {
			return true
		}
		select {
		case <-changed:
		case <-c.cut:
			return false
		}
	}
}

// wait waits for a time, or until the rules change. It returns false when the connection
// is cut.
func (p *Proxy) wait(c *pair, d time.Duration) bool {
	p.mu.Lock()
	changed := p.changed
	p.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-c.cut:
		return false
	}
	return true
}
