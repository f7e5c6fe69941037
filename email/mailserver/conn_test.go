package mailserver

import (
	"net"
	"testing"
	"time"
)

// deadlines is a connection that notes for how long the next Read may last.
type deadlines struct {
	net.Conn
	allowed time.Duration
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.allowed = 0
	if !t.IsZero() {
		d.allowed = time.Until(t)
	}
	return nil
}

func (d *deadlines) Read([]byte) (int, error) { return 0, nil }

// TestReadDeadlines: silence is limited per read, not per connection, and the
// protocol's own deadline holds where it comes first.
func TestReadDeadlines(t *testing.T) {
	for _, test := range []struct {
		idle, own, want time.Duration
	}{
		{0, 0, handshakeTimeout}, // imapserver sets its own before it reads
		{0, time.Hour, time.Hour},
		{5 * time.Minute, 0, 5 * time.Minute},
		{5 * time.Minute, time.Hour, 5 * time.Minute},
		{5 * time.Minute, time.Minute, time.Minute},
	} {
		r := &run{conns: make(map[*conn]struct{}), service: &service{max: 1, idle: test.idle, stats: new(connStats)}}
		network := new(deadlines)
		c := r.admit(network)
		if test.own > 0 {
			c.SetReadDeadline(time.Now().Add(test.own))
		}
		c.Read(nil)
		if network.allowed > test.want || network.allowed < test.want/2 {
			t.Errorf("%+v: %v", test, network.allowed)
		}
	}
}
