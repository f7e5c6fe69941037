package mailserver

import (
	"net"
	"sync"
	"time"
)

// flushBytes is how much a connection collects before it writes although its
// handler has not come to its next Read.
const flushBytes = 32 << 10

// conn is a client's connection. It knows when its handler is done with it, and
// ends when the client is silent for longer than its service allows.
//
// What the handler writes is collected until the handler reads again, which is
// when the client has to know: imapserver and go-smtp flush every line, and so
// the answer to a FETCH, or to pipelined commands, would be a dozen packets that
// wake the client a dozen times.
type conn struct {
	net.Conn
	run    *run
	closed sync.Once

	mu            sync.Mutex // of what follows, and of writing
	pending       []byte
	reading       bool
	broken        bool      // nothing more comes
	deadline      time.Time // for reading, the protocol's own
	writeDeadline time.Time // for writing, the protocol's own
}

// Close implements net.Conn. Only the connection's handler calls it, as the
// last thing it does.
func (c *conn) Close() error {
	c.mu.Lock()
	_ = c.flush(nil) // if it fails the client is gone
	c.mu.Unlock()
	err := c.Conn.Close()
	c.closed.Do(func() {
		c.run.mu.Lock()
		delete(c.run.conns, c)
		c.run.mu.Unlock()
		c.run.service.stats.open.Add(-1)
		c.run.handlers.Done()
	})
	return err
}

// SetReadDeadline implements net.Conn. The deadline is for the next Read.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.reading {
		return c.Conn.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements net.Conn. The deadline is for the next Write that
// does write.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeDeadline = t
	return nil
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetWriteDeadline(t) // never fails
	return c.SetReadDeadline(t)
}

// Read implements net.Conn. It writes what has been collected first.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.beginRead(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	c.broken = c.broken || err != nil
	return n, err
}

// isBroken reports whether more was wanted from the client than there is.
func (c *conn) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

func (c *conn) beginRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.flush(nil); err != nil {
		return err
	}
	deadline := c.deadline
	if idle := c.run.service.idle; idle > 0 {
		if limit := time.Now().Add(idle); deadline.IsZero() || limit.Before(deadline) {
			deadline = limit
		}
	}
	c.reading = true
	return c.Conn.SetReadDeadline(deadline)
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reading && len(c.pending)+len(p) < flushBytes {
		c.pending = append(c.pending, p...)
		return len(p), nil
	}
	if err := c.flush(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush writes what has been collected, and p. The caller holds mu.
func (c *conn) flush(p []byte) error {
	if len(c.pending) == 0 && len(p) == 0 {
		return nil
	}
	deadline := c.writeDeadline
	if deadline.IsZero() {
		deadline = time.Now().Add(updateTimeout)
	}
	if err := c.Conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	both := net.Buffers{c.pending, p}
	_, err := both.WriteTo(c.Conn)
	c.pending = c.pending[:0]
	return err
}
