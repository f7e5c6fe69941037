package nats

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// checkServer checks the URL of a server.
func checkServer(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("servers: a URL is not valid") // which may hold a password
	}
	switch u.Scheme {
	case "nats", "tls", "ws", "wss":
	default:
		return fmt.Errorf("servers: %q does not begin with nats://, tls://, ws:// or wss://", shown(s))
	}
	if u.Hostname() == "" {
		return fmt.Errorf("servers: %q has no host", shown(s))
	}
	return nil
}

// shown returns the URL of a server as people may see it. It has no user: NATS writes a token in its place.
func shown(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return "a URL that is not valid"
	}
	u.User = nil
	return u.String()
}

// where names the servers for people, without passwords and tokens.
func (c Config) where() string {
	if len(c.Servers) == 0 {
		return "the server in this process"
	}
	list := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		list[i] = shown(s)
	}
	return strings.Join(list, ", ")
}

// checkIdentity checks how the node shows who it is. The servers are valid.
func (c Config) checkIdentity(inProcess bool) error {
	ways := 0
	for _, way := range []bool{c.User != "", c.Token != "", c.Credentials != "", c.NKey != "", c.urlsHaveSecret()} {
		if way {
			ways++
		}
	}
	switch {
	case ways > 1:
		return errors.New("user, token, credentials, nkey, and a user or token in the URL of a server: at most one of them is possible")
	case c.Password != "" && c.User == "":
		return errors.New("password: there is no user")
	case inProcess || c.Insecure || !c.hasSecret():
		return nil
	}
	for _, s := range c.Servers {
		if u, err := url.Parse(s); err == nil && u.Scheme != "tls" && u.Scheme != "wss" && !isLoopback(u) && (u.Scheme == "ws" || !c.hasTLS()) {
			return fmt.Errorf("servers: by %s the password or token might go through the network without encryption: use tls:// or wss://, or say insecure if that is what you want", shown(s))
		}
	}
	return nil
}

// hasSecret reports whether the node tells a server a secret. With credentials and nkeys it only signs.
func (c Config) hasSecret() bool { return c.User != "" || c.Token != "" || c.urlsHaveSecret() }

func (c Config) urlsHaveSecret() bool {
	for _, s := range c.Servers {
		if u, err := url.Parse(s); err == nil && u.User != nil {
			return true
		}
	}
	return false
}

// hasTLS reports whether there is something that makes encryption a must with all servers.
func (c Config) hasTLS() bool { return len(c.CA) > 0 || len(c.Certificate) > 0 || len(c.Key) > 0 }

// isLocal reports whether one of the servers is on this computer and not by an encrypted connection.
func (c Config) isLocal() bool {
	for _, s := range c.Servers {
		if u, err := url.Parse(s); err == nil && u.Scheme != "tls" && u.Scheme != "wss" && isLoopback(u) {
			return true
		}
	}
	return false
}

func isLoopback(u *url.URL) bool {
	return u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
}
