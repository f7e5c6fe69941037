package email

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// security is how a connection is protected.
type security uint8

const (
	implicitTLS security = iota // TLS from the first byte (RFC 8314)
	startTLS                    // TLS after STARTTLS, without which nothing is sent
	insecure                    // plaintext, passwords included
)

// protocol is what a server speaks.
type protocol uint8

const (
	smtpProtocol protocol = iota // RFC 6409
	lmtpProtocol                 // RFC 2033: the server has no queue
	imapProtocol
)

// String returns its name as URLs have it.
func (p protocol) String() string { return [...]string{"smtp", "lmtp", "imap"}[p] }

// scheme is what may stand before "://" in the URL of a server.
type scheme struct {
	name     string
	protocol protocol
	port     string // when the URL names none; empty for a socket, which has a path
	security security
}

// The known schemes for each direction; the first is that of a bare host name.
var (
	smtpSchemes    = []scheme{{"smtps", smtpProtocol, "465", implicitTLS}, {"smtp+starttls", smtpProtocol, "587", startTLS}, {"smtp+insecure", smtpProtocol, "25", insecure}}
	lmtpSchemes    = []scheme{{"lmtp+unix", lmtpProtocol, "", insecure}, {"lmtp+insecure", lmtpProtocol, "24", insecure}}
	imapSchemes    = []scheme{{"imaps", imapProtocol, "993", implicitTLS}, {"imap+starttls", imapProtocol, "143", startTLS}, {"imap+insecure", imapProtocol, "143", insecure}}
	sendSchemes    = slices.Concat(smtpSchemes, lmtpSchemes, imapSchemes)
	receiveSchemes = slices.Concat(imapSchemes, lmtpSchemes, smtpSchemes[2:])
)

const (
	// inbox is the folder that is meant when none is named.
	inbox = "INBOX"
	// maxSocketPath is how long the path of a socket may be, in bytes (unix(7)).
	maxSocketPath = 107
)

// server says where a mail server is and how to talk to it.
type server struct {
	scheme scheme
	host   string // empty for a socket
	port   string
	socket string // its path
	folder string // of the account, for IMAP
}

// network and address return where the server is as package net takes it.
func (s server) network() string {
	if s.socket != "" {
		return "unix"
	}
	return "tcp"
}

func (s server) address() string {
	if s.socket != "" {
		return s.socket
	}
	return net.JoinHostPort(s.host, s.port)
}

// String returns the URL in full, with the port, and the folder if it is not the inbox.
func (s server) String() string {
	folder := ""
	if s.folder != "" && s.folder != inbox {
		folder = "/" + s.folder
	}
	return s.scheme.name + "://" + s.address() + folder
}

// parseServer reads the URL of a server, or a bare host name with or without port.
func parseServer(text string, schemes []scheme) (server, error) {
	if text == "" {
		return server{}, fmt.Errorf("the server is not given")
	}
	full := text
	if !strings.Contains(text, "://") {
		full = schemes[0].name + "://" + text
	}
	u, err := url.Parse(full)
	if err != nil {
		return server{}, fmt.Errorf("%q is neither a host name nor a URL", text)
	}
	known := slices.IndexFunc(schemes, func(s scheme) bool { return s.name == u.Scheme })
	if known < 0 {
		names := make([]string, len(schemes))
		for i, s := range schemes {
			names[i] = s.name
		}
		return server{}, fmt.Errorf("unknown scheme %q; known are %s", u.Scheme, strings.Join(names, ", "))
	}
	s := server{scheme: schemes[known], host: u.Hostname(), port: u.Port()}
	if s.port == "" {
		s.port = s.scheme.port
	}
	switch {
	case s.scheme.port == "":
		return s.atSocket(u)
	case s.scheme.protocol == imapProtocol:
		return s.withFolder(u)
	case s.host == "" || hasMore(u) || strings.Trim(u.Path, "/") != "":
		return server{}, fmt.Errorf("only a scheme, host and port are allowed, as in %s://mail.example.com:%s", s.scheme.name, s.scheme.port)
	}
	return s, nil
}

// hasMore reports whether there is anything in the URL besides scheme, host, port and path. A user
// name would be ignored, or worse, a password be logged.
func hasMore(u *url.URL) bool { return u.User != nil || u.RawQuery+u.Fragment != "" }

// atSocket completes the server at a socket.
func (s server) atSocket(u *url.URL) (server, error) {
	s.socket = u.Path
	switch {
	case u.Host != "" || hasMore(u) || len(s.socket) < 2:
		return server{}, fmt.Errorf("the absolute path of a socket is required, as in %s:///run/mail/lmtp.sock", s.scheme.name)
	case len(s.socket) > maxSocketPath:
		return server{}, fmt.Errorf("the path of a socket has at most %d bytes, this one has %d", maxSocketPath, len(s.socket))
	}
	return s, nil
}

// withFolder completes an IMAP server.
func (s server) withFolder(u *url.URL) (server, error) {
	if s.host == "" || hasMore(u) {
		return server{}, fmt.Errorf("only a scheme, host, port and folder are allowed, as in %s://mail.example.com:%s/INBOX", s.scheme.name, s.scheme.port)
	}
	s.folder = strings.TrimPrefix(u.Path, "/")
	if s.folder == "" || strings.EqualFold(s.folder, inbox) {
		s.folder = inbox
		return s, nil
	}
	if err := validFolder(s.folder); err != nil {
		return server{}, err
	}
	return s, nil
}
