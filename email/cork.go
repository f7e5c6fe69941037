package email

import (
	"net"
	"sync"
)

// cork is a connection that can hold back what is written, to send several commands at once: go-imap sends
// each by itself, and every packet wakes the server.
type cork struct {
	net.Conn

	mu      sync.Mutex
	holding bool
	held    []byte
}

// Write implements net.Conn.
func (c *cork) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holding {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// hold holds back what is written from now on.
func (c *cork) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
}

// release writes what has been held back.
func (c *cork) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held
	c.holding, c.held = false, c.held[:0]
	if len(held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(held)
	return err
}
