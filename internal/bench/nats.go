package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// NATS is the NATS carrier on a server in this process, over TCP, beside nats.go alone on the same server.
type NATS struct {
	// Kept has a stream of JetStream keep all messages, on disk.
	Kept bool
	// Apart, if set, makes the process that publishes, as that of Embedded.
	Apart func() *exec.Cmd
}

var _ Bed = NATS{}

// Name implements Bed.
func (b NATS) Name() string {
	if b.Kept {
		return "jetstream"
	}
	return "nats"
}

// Start implements Bed.
func (b NATS) Start(ctx context.Context) (Ground, error) {
	dir, err := os.MkdirTemp("", "postbus-bench-")
	if err != nil {
		return Ground{}, err
	}
	s, err := startNATS(b.Kept, dir)
	if err != nil {
		return Ground{}, errors.Join(err, os.RemoveAll(dir))
	}
	config := email.NATS{Servers: []string{s.ClientURL()}}
	if b.Kept {
		config.Streams = []email.NATSStream{{Name: "BENCH", Names: []string{"/bench/>"}}}
	}
	g := natsGround{config: config, word: word(), apart: b.Apart}
	g.close = func(context.Context) error {
		s.Shutdown()
		s.WaitForShutdown()
		return os.RemoveAll(dir)
	}
	if err := g.prepare(ctx); err != nil {
		return Ground{}, errors.Join(err, g.close(ctx))
	}
	return g.ground(), nil
}

// startNATS starts a server on a free port, which may keep streams in dir.
func startNATS(keeps bool, dir string) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: keeps, StoreDir: dir,
		MaxPending: 2 * transport.KeepAllBytes, // a subscriber is never ahead of by more than half of that
	})
	if err != nil {
		return nil, fmt.Errorf("bench: NATS server: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(closeTimeout) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("bench: the NATS server is not ready after %v", closeTimeout)
	}
	return s, nil
}

// natsGround are servers of NATS in a run.
type natsGround struct {
	config email.NATS
	word   string
	apart  func() *exec.Cmd
	close  func(context.Context) error
}

func (g natsGround) ground() Ground {
	config := email.Config{NATS: g.config}
	ours := &Nodes{Word: g.word, New: func(ctx context.Context) (from, to *transport.Node, err error) { return openPair(ctx, config, config) }}
	var system System = ours
	if g.apart != nil {
		system = apart{from: config, to: config, word: g.word, command: g.apart}
	}
	raw := rawNATS{connect: g.connect, name: ours.name, kept: g.streamOf(ours.name()) != ""}
	return Ground{
		Ours: system, Floor: raw, OpenCaller: ours.OpenCaller, OpenFloorCaller: raw.openCaller, OpenIdle: ours.OpenIdle,
		FloorName: "nats.go, same header", Close: g.close,
	}
}

// streamOf returns the name of the stream that keeps the messages of a name, or "".
func (g natsGround) streamOf(name string) string {
	i := slices.IndexFunc(g.config.Streams, func(s email.NATSStream) bool {
		return slices.ContainsFunc(s.Names, func(pattern string) bool { return transport.MatchName(pattern, name) })
	})
	if i < 0 {
		return ""
	}
	return g.config.Streams[i].Name
}

// connect opens a connection of nats.go to the servers of the configuration.
func (g natsGround) connect() (*natsgo.Conn, error) {
	c := g.config
	options := []natsgo.Option{natsgo.NoReconnect()}
	if c.InboxPrefix != "" {
		options = append(options, natsgo.CustomInboxPrefix(c.InboxPrefix))
	}
	if c.User != "" {
		options = append(options, natsgo.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		options = append(options, natsgo.Token(c.Token))
	}
	if c.Credentials != "" {
		options = append(options, natsgo.UserCredentials(c.Credentials))
	}
	if c.NKey != "" {
		nkey, err := natsgo.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, err
		}
		options = append(options, nkey)
	}
	if len(c.CA)+len(c.Certificate) > 0 {
		config, err := tlsConfig(c)
		if err != nil {
			return nil, err
		}
		options = append(options, natsgo.Secure(config))
	}
	return natsgo.Connect(strings.Join(c.Servers, ","), options...)
}

// tlsConfig returns what is to be known about certificates.
func tlsConfig(c email.NATS) (*tls.Config, error) {
	config := new(tls.Config)
	if len(c.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("bench: there is no certificate (PEM) in the file of the authorities")
		}
	}
	if len(c.Certificate) > 0 {
		pair, err := tls.X509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// configuredNATS is the ground on the servers of a configuration.
func configuredNATS(ctx context.Context, config email.NATS, apart func() *exec.Cmd) (Ground, error) {
	g := natsGround{config: config, word: word(), apart: apart}
	g.close = g.purge
	return g.ground(), g.prepare(ctx)
}

// prepare makes the streams, for the floor may come first.
func (g natsGround) prepare(ctx context.Context) error {
	if len(g.config.Streams) == 0 {
		return nil
	}
	node, err := postbus.OpenConfig(ctx, email.Config{NATS: g.config}, quietly())
	if err != nil {
		return err
	}
	return node.Close(ctx)
}

// purge removes what the run has left in a stream.
func (g natsGround) purge(ctx context.Context) error {
	name := g.streamOf("/bench/" + g.word + "/x")
	if name == "" {
		return nil
	}
	conn, err := g.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	return stream.Purge(ctx, jetstream.WithPurgeSubject(nats.Subject("/bench/"+g.word+"/>")))
}
