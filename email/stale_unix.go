//go:build unix

package email

import (
	"errors"
	"net"
	"syscall"
)

// hasEnded reports whether the other side of an idle connection has closed it, without
// asking it. The client speaks first on an idle connection, so whatever there is to read is
// the end, or the server's word that it comes (421, or TLS's close_notify).
func hasEnded(conn net.Conn) bool {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return !errors.Is(err, errors.ErrUnsupported)
	}
	idle := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		idle = err == syscall.EAGAIN || err == syscall.EINTR
		return true // Go's sockets never block: do not wait until there is something
	})
	return err != nil || !idle
}
