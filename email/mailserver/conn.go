package mailserver

import (
	"net"
	"sync"
	"time"
)

// conn is a client's connection. It knows when its handler is done with it, and
// ends when the client is silent for longer than its service allows.
type conn struct {
	net.Conn
	run    *run
	closed sync.Once

	mu       sync.Mutex
	deadline time.Time // for reading, the protocol's own
}

// Close implements net.Conn. Only the connection's handler calls it, as the
// last thing it does.
func (c *conn) Close() error {
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

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if idle := c.run.service.idle; idle > 0 {
		deadline := time.Now().Add(idle)
		c.mu.Lock()
		if !c.deadline.IsZero() && c.deadline.Before(deadline) {
			deadline = c.deadline
		}
		c.mu.Unlock()
		if err := c.Conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}
