package email

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/transport"
)

// Neither go-imap nor go-smtp knows contexts, and go-imap waits for an answer for
// ever. So every operation runs under one of these limits and ends, when the limit or
// its context does, by closing the connection.
const (
	// connectTimeout is for a connection up to the login: five round trips.
	connectTimeout = 30 * time.Second
	// commandTimeout is for the answer to one command, and for progress within a
	// long one.
	commandTimeout = 30 * time.Second
	// writeTimeout is for a write of up to writeStep bytes to be taken by the network.
	writeTimeout = 30 * time.Second
	writeStep    = 64 << 10
)

// keepAlive notices within half a minute that the other side is gone without a word;
// Go's default takes two and a half.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// account is what both halves of a carrier need to log in to their server.
type account struct {
	server             server
	username, password string
	tls                *tls.Config
	writable           bool // the inbox is opened so that flags can be set and mails moved
}

// link is a network connection to a server: what the client library speaks on, and
// the bare connection below, whose Close never waits for the other side.
type link struct {
	net.Conn
	bare net.Conn
}

// dial connects; ctx bounds it. With startTLS the connection is still plaintext.
func (a *account) dial(ctx context.Context) (link, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	conn, err := dialer.DialContext(ctx, a.server.network(), a.server.address())
	if err != nil {
		return link{}, err
	}
	bare := deadlineConn{conn}
	if a.server.scheme.security != implicitTLS {
		return link{bare, bare}, nil
	}
	secured := tls.Client(bare, a.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return link{}, err
	}
	return link{secured, bare}, nil
}

// deadlineConn is a connection on which no writeStep bytes take longer than
// writeTimeout; a whole mail in one write may, on a slow line. go-smtp sends the body of a mail without any limit.
type deadlineConn struct{ net.Conn }

// SyscallConn implements syscall.Conn, for hasEnded.
func (c deadlineConn) SyscallConn() (syscall.RawConn, error) {
	if conn, ok := c.Conn.(syscall.Conn); ok {
		return conn.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (c deadlineConn) Write(b []byte) (written int, err error) {
	for {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return written, err
		}
		step := b[written:min(written+writeStep, len(b))]
		n, err := c.Conn.Write(step)
		if written += n; err != nil || written == len(b) {
			return written, err
		}
	}
}

// bounded returns a context that ends after limit, for guard.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, noAnswer(limit))
}

// noAnswer is the error of a server that is silent for that long.
type noAnswer time.Duration

func (d noAnswer) Error() string { return fmt.Sprintf("no answer within %v", time.Duration(d)) }

// guard runs f, which uses the connection, and closes the connection when ctx ends, so
// that f returns. If that made f fail, the error says why ctx has ended.
func guard(ctx context.Context, conn io.Closer, f func() error) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := f()
	if stop() || err == nil {
		return err
	}
	return ended(ctx)
}

// errClosing is the cause of the end of what is under way when the carrier is closed.
var errClosing = fmt.Errorf("email carrier is being %w", transport.ErrClosed)

// ended says why ctx has ended.
func ended(ctx context.Context) error {
	if context.Cause(ctx) == errClosing {
		return errClosing
	}
	if silent, ok := context.Cause(ctx).(noAnswer); ok {
		return silent
	}
	return transport.ContextError(ctx)
}

// explain adds to the error of a connection what a person needs to act on it, and to a
// reply that says no for good that it is ErrRefused.
func (a *account) explain(what string, err error) error {
	where := fmt.Sprintf("%s at %s as %s", what, a.server, a.username)
	var (
		unknownCA *tls.CertificateVerificationError
		wrongName x509.HostnameError
		notTLS    tls.RecordHeaderError
		smtpReply *smtp.SMTPError
		imapReply *imap.Error
	)
	switch {
	case errors.As(err, &wrongName):
		return fmt.Errorf("%s: certificate refused: %w: use a host name that it names", where, err)
	case errors.As(err, &unknownCA):
		return fmt.Errorf("%s: certificate refused: %w: if it is the right one, put its authority into email.tls.ca-file", where, err)
	case errors.As(err, &notTLS):
		return fmt.Errorf("%s: the server does not speak TLS on this port: %w: check the port, or the scheme of the URL", where, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: connection refused: is the server running, and on this port? (%w)", where, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no answer in time (%w)", where, err)
	case errors.As(err, &smtpReply) && smtpReply.Code/100 == 5:
		return fmt.Errorf("%s: %w: %w", where, transport.ErrRefused, err)
	case errors.As(err, &imapReply) && imapReply.Type == imap.StatusResponseTypeNo && meansRefused(imapReply.Code):
		return fmt.Errorf("%s: %w: %w", where, transport.ErrRefused, err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: the server has closed the connection (%w)", where, err)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// meansRefused reports whether the code of a NO says that the account is refused, and not
// that the server is busy or in trouble (RFC 5530).
func meansRefused(code imap.ResponseCode) bool {
	switch code {
	case "", imap.ResponseCodeAuthenticationFailed, imap.ResponseCodeAuthorizationFailed, imap.ResponseCodeExpired,
		imap.ResponseCodePrivacyRequired, imap.ResponseCodeContactAdmin, imap.ResponseCodeNoPerm, imap.ResponseCodeNonExistent:
		return true
	}
	return false
}
