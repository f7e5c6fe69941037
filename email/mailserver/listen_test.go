package mailserver

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
)

// unlucky is a listener that can't accept some connections.
type unlucky struct {
	net.Listener
	errs []error
}

func (u *unlucky) Accept() (net.Conn, error) {
	if len(u.errs) == 0 {
		_, server := net.Pipe()
		return server, nil
	}
	err := u.errs[0]
	u.errs = u.errs[1:]
	return nil, err
}

// TestAcceptFails: a connection that can't be accepted does not end the service, and is logged once in a row.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := 0
		full := &net.OpError{Op: "accept", Err: syscall.EMFILE}
		r := &run{ctx: context.Background(), conns: make(map[*conn]struct{}),
			service: &service{max: 1, stats: new(connStats), failed: func(error) { logged++ }}}
		l := &listener{Listener: &unlucky{errs: []error{full, full, full, full}}, run: r}
		c, err := l.Accept()
		if err != nil || logged != 1 {
			t.Fatalf("%v, logged %d times", err, logged)
		}
		c.Close()
		l.Listener = &unlucky{errs: []error{full, net.ErrClosed}}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the end of the listener: %v", err)
		}
	})
}
