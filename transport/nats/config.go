package nats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"
)

// Config is what a node needs to know of the servers and of itself.
type Config struct {
	// Servers are the URLs of one or more servers of a cluster: nats://, tls://, ws:// or wss://, with the
	// port if it is not 4222. As everywhere in NATS, a connection by nats:// is encrypted if the
	// server demands it; by tls:// it is in any case. See Insecure.
	Servers []string
	// Name is the program's, for the monitoring of NATS: of the connection, and of the service whose endpoints the
	// node's servers are. A-Z a-z 0-9 _ - are allowed. Empty means "postbus".
	Name string
	// Version is the program's, as SemVer; empty means "0.0.0". Description says what it does.
	Version, Description string

	// How the node shows who it is: by at most one of a name and password, a token, a file with credentials (a JWT
	// and its seed), a file with the seed of an nkey, and what is in the URLs of the servers (user:password@ or
	// token@). None of them if the server wants none, or the certificate is enough.
	User, Password    string
	Token             string
	Credentials, NKey string
	// Insecure lets a password or token go through a network without encryption. Without it there must be a
	// connection by tls:// or wss://, by nats:// with a CA or Certificate, or within this computer (localhost, 127.0.0.1).
	Insecure bool

	// CA holds certificates (PEM) of authorities to trust besides the system's. Certificate and Key are
	// those of the node itself (PEM), if the server wants one.
	CA, Certificate, Key []byte

	// InboxPrefix is where the subjects begin at which the node gets answers; empty means "_INBOX". An account
	// whose users may not read each other's answers gives each its own. It has 256 bytes at most.
	InboxPrefix string

	// MaxPayload is how many bytes a message may have, header included; zero means what the server says (max_payload). A
	// server ends the connection of whoever sends more than it takes, for good, and may take less than it has said: it tells what an
	// account is allowed after the login, if at all, and not that a limit has been lowered. 1024 is the least, and 65,536 with streams or buckets.
	MaxPayload int64

	// Streams are the streams of JetStream that keep messages, for interests with Durable, Group or Last. Objects says where
	// bodies are kept that are too large for the server.
	Streams []Stream
	Objects Objects
	// Cache is where the servers of a service share results.
	Cache Cache
}

// Options are the options of a carrier that only a program can give. The zero value is useful.
type Options struct {
	// Logger hears what happens in the background. Nil means slog.Default().
	Logger *slog.Logger
	// InProcess, if set, is a server in this process, and Config.Servers are not used. A *server.Server of
	// nats-server is one.
	InProcess interface{ InProcessConn() (net.Conn, error) }
	// Offline lets Open return though no server can be reached: the carrier goes on trying in the
	// background, and until it gets through sending fails with an error that says Temporary. What a server
	// refuses, as a wrong password, is an error all the same.
	Offline bool
}

const (
	defaultName    = "postbus"
	defaultVersion = "0.0.0"
	defaultInbox   = "_INBOX"
	// maxInboxPrefix leaves room for the rest of a reply subject within maxReply.
	maxInboxPrefix = 256
	// leastPayload is what messages need for their headers, and leastKept what is written down about those of streams.
	leastPayload, leastKept = 1 << 10, 1 << 16
)

// The time limits of a connection.
const (
	// dialTimeout bounds each attempt to connect to a server, with TLS and login.
	dialTimeout = 5 * time.Second
	// writeTimeout bounds each write, and so how long a call outlasts its context when the network stalls.
	writeTimeout = 2 * time.Second
	// pingInterval is how often a silent server is asked if it is there; after the second
	// question without an answer it is not.
	pingInterval = 20 * time.Second
	// roundTrip bounds the wait for a server to have heard of an interest.
	roundTrip = 2 * time.Second
)

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	semVer      = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	inboxPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// complete returns the configuration with its defaults, or says what is wrong with it.
func (c Config) complete(inProcess bool) (Config, error) {
	if len(c.Servers) == 0 && !inProcess {
		return c, errors.New("servers: there are none; one looks like nats://localhost:4222")
	}
	for _, s := range c.Servers {
		if err := checkServer(s); err != nil {
			return c, err
		}
	}
	for _, d := range []struct {
		value       *string
		fallback    string
		form        *regexp.Regexp
		field, want string
	}{
		{&c.Name, defaultName, serviceName, "name", "letters, digits, _ and -"},
		{&c.Version, defaultVersion, semVer, "version", "three numbers as in 1.0.0 (SemVer)"},
		{&c.InboxPrefix, defaultInbox, inboxPrefix, "inbox-prefix", "tokens of letters, digits, _ and -"},
	} {
		if *d.value == "" {
			*d.value = d.fallback
		}
		if !d.form.MatchString(*d.value) {
			return c, fmt.Errorf("%s: %.80q is not allowed, but %s", d.field, *d.value, d.want)
		}
	}
	if len(c.InboxPrefix) > maxInboxPrefix {
		return c, fmt.Errorf("inbox-prefix: it has %d bytes, %d are allowed", len(c.InboxPrefix), maxInboxPrefix)
	}
	if err := c.checkPayload(); err != nil {
		return c, err
	}
	if err := c.checkIdentity(inProcess); err != nil {
		return c, err
	}
	return c.completeStreams()
}

func (c Config) checkPayload() error {
	least := int64(leastPayload)
	if len(c.Streams) > 0 || c.Objects.Bucket != "" || c.Cache.Bucket != "" {
		least = leastKept
	}
	if c.MaxPayload != 0 && c.MaxPayload < least {
		return fmt.Errorf("max-payload: %d; %d is the least: %d, or %d with streams or buckets", c.MaxPayload, least, leastPayload, leastKept)
	}
	return nil
}

// options returns what nats.go is to know. The configuration is complete.
func (c Config) options(o Options) ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(c.Name),
		nats.Timeout(dialTimeout),
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(),
		nats.PingInterval(pingInterval),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // for ever means also until a password has been put right
		nats.ReconnectBufSize(-1),   // who sends is to know, and tries again or has an outbox
		nats.CustomInboxPrefix(c.InboxPrefix),
	}
	if o.InProcess != nil {
		opts = append(opts, nats.InProcessServer(o.InProcess))
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.Credentials != "" {
		opts = append(opts, nats.UserCredentials(c.Credentials))
	}
	if c.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("nkey: %w", err)
		}
		opts = append(opts, nkey)
	}
	return c.tlsOptions(o, opts)
}

// tlsOptions adds what is to be known about certificates.
func (c Config) tlsOptions(o Options, opts []nats.Option) ([]nats.Option, error) {
	if !c.hasTLS() {
		switch {
		case !c.hasSecret() || c.Insecure || o.InProcess != nil:
		case c.isLocal():
			opts = append(opts, nats.IgnoreDiscoveredServers()) // they may be elsewhere
		default:
			opts = append(opts, nats.Secure()) // with those, too, that a server names
		}
		return opts, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(c.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("ca: there is no certificate (PEM) in it")
		}
		t.RootCAs = pool
	}
	if len(c.Certificate) > 0 || len(c.Key) > 0 {
		pair, err := tls.X509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate, key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return append(opts, nats.Secure(t)), nil
}
