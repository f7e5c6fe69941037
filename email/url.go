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

// scheme is what may stand before "://" in the URL of a server.
type scheme struct {
	name     string
	port     string // when the URL names none
	security security
}

// The known schemes; the first is that of a bare host name.
var (
	smtpSchemes = []scheme{{"smtps", "465", implicitTLS}, {"smtp+starttls", "587", startTLS}, {"smtp+insecure", "25", insecure}}
	imapSchemes = []scheme{{"imaps", "993", implicitTLS}, {"imap+starttls", "143", startTLS}, {"imap+insecure", "143", insecure}}
)

// server says where a mail server is and how to talk to it.
type server struct {
	scheme scheme
	host   string
	port   string
}

// address returns host and port as package net takes them.
func (s server) address() string { return net.JoinHostPort(s.host, s.port) }

// String returns the URL in full, with the port.
func (s server) String() string { return s.scheme.name + "://" + s.address() }

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
	// A user name here would be ignored, or worse, a password be logged.
	if s.host == "" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		return server{}, fmt.Errorf("only a scheme, host and port are allowed, as in %s://mail.example.com:%s", s.scheme.name, s.scheme.port)
	}
	return s, nil
}
