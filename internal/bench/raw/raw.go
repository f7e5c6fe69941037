// Package raw is a mail client with nothing in it: SMTP submission with everything in as few flights
// as the server allows, and an IMAP client that fetches without pause. It is the floor that the mail
// carrier is measured against, and is neither careful nor complete: it trusts the server.
package raw

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// Account is an account on a mail server.
type Account struct {
	// SMTP and IMAP are URLs as in the configuration file of package email.
	SMTP, IMAP string
	// Username and Password are those of both, and Address is where its mail goes.
	Username, Password, Address string
	// CA holds certificates (PEM) of authorities to trust besides the system's.
	CA []byte
}

// timeout is how long a server may take for anything.
const timeout = 30 * time.Second

// Endpoint is a server as a URL says it.
type Endpoint struct {
	Protocol string // smtp, lmtp or imap
	TLS      bool   // from the first byte
	StartTLS bool
	Host     string
	Address  string // host:port, or the path of a unix socket
	Network  string // tcp or unix
	Folder   string // of an IMAP URL
}

// ports are those of URLs without one.
var ports = map[string]string{
	"smtps": "465", "smtp+starttls": "587", "smtp+insecure": "25", "lmtp+insecure": "24",
	"imaps": "993", "imap+starttls": "143", "imap+insecure": "143",
}

// Parse reads the URL of a server; bare is the scheme of one that has none.
func Parse(text, bare string) (Endpoint, error) {
	if !strings.Contains(text, "://") {
		text = bare + "://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return Endpoint{}, fmt.Errorf("bench: server: %w", err)
	}
	e := Endpoint{Network: "tcp", Host: u.Hostname(), Folder: strings.Trim(u.Path, "/")}
	if u.Scheme == "lmtp+unix" {
		return Endpoint{Protocol: "lmtp", Network: "unix", Address: u.Path, Host: "localhost"}, nil
	}
	port, ok := ports[u.Scheme]
	if !ok {
		return Endpoint{}, fmt.Errorf("bench: server %s: there is no floor for the scheme %q", text, u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	e.Address = net.JoinHostPort(e.Host, port)
	e.Protocol, _, e.StartTLS = strings.Cut(u.Scheme, "+")
	e.StartTLS = strings.HasSuffix(u.Scheme, "+starttls")
	if e.TLS = strings.HasSuffix(e.Protocol, "s"); e.TLS {
		e.Protocol = strings.TrimSuffix(e.Protocol, "s")
	}
	return e, nil
}

// Conn is a connection to a server whose greeting has been read.
type Conn struct {
	net.Conn
	*bufio.Reader
	Greeting string // with its CRLF
}

// Read implements io.Reader; what is buffered comes first.
func (c *Conn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

// Dial connects to a server, with TLS as its URL says.
func (e Endpoint) Dial(ctx context.Context, ca []byte) (*Conn, error) {
	conn, err := e.dial(ctx, ca)
	if err != nil {
		return nil, fmt.Errorf("bench: %s at %s: %w", e.Protocol, e.Address, err)
	}
	return conn, nil
}

func (e Endpoint) dial(ctx context.Context, ca []byte) (*Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	bare, err := dialer.DialContext(ctx, e.Network, e.Address)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: bare}
	if err := c.greet(ctx, e, ca); err != nil {
		bare.Close()
		return nil, err
	}
	return c, nil
}

// greet brings a fresh connection to behind the greeting, and behind STARTTLS.
func (c *Conn) greet(ctx context.Context, e Endpoint, ca []byte) error {
	secure := func() error {
		config, err := tlsConfig(e.Host, ca)
		if err != nil {
			return err
		}
		secured := tls.Client(c.Conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return err
		}
		c.Conn, c.Reader = secured, bufio.NewReaderSize(secured, 64<<10)
		return nil
	}
	c.Reader = bufio.NewReaderSize(c.Conn, 64<<10)
	if e.TLS {
		if err := secure(); err != nil {
			return err
		}
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	var err error
	if c.Greeting, err = c.ReadString('\n'); err != nil {
		return err
	}
	for c.Greeting[3:4] == "-" { // SMTP; only the last line is shown
		if c.Greeting, err = c.ReadString('\n'); err != nil {
			return err
		}
	}
	if e.StartTLS {
		if err := c.startTLS(e); err != nil {
			return err
		}
		if err := secure(); err != nil {
			return err
		}
	}
	return c.SetDeadline(time.Time{})
}

func (c *Conn) startTLS(e Endpoint) error {
	if e.Protocol == "imap" {
		_, err := c.command("s STARTTLS")
		return err
	}
	if _, err := c.say("EHLO localhost"); err != nil {
		return err
	}
	_, err := c.say("STARTTLS")
	return err
}

func tlsConfig(host string, ca []byte) (*tls.Config, error) {
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if len(ca) == 0 {
		return config, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the authority's certificate can't be read")
	}
	config.RootCAs = pool
	return config, nil
}

// write writes all of b.
func (c *Conn) write(b []byte) error {
	_, err := c.Conn.Write(b)
	return err
}

// line reads a line without its end.
func (c *Conn) line() ([]byte, error) {
	line, err := c.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		var rest []byte
		line = bytes.Clone(line)
		rest, err = c.ReadBytes('\n')
		line = append(line, rest...)
	}
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line, nil
}
