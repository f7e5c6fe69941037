package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/bench/raw"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// Intraprocess is the in-process carrier beside queues in memory.
type Intraprocess struct{}

var _ Bed = Intraprocess{}

// Name implements Bed.
func (Intraprocess) Name() string { return "intraprocess" }

// Start implements Bed.
func (Intraprocess) Start(context.Context) (Ground, error) {
	ours := &Nodes{Word: "memory", New: func(context.Context) (from, to *transport.Node, err error) {
		bus := intraprocess.NewBus()
		if from, err = postbus.New(bus.Attach(), quietly()); err != nil {
			return nil, nil, err
		}
		to, err = postbus.New(bus.Attach(), quietly())
		return from, to, err
	}}
	return Ground{
		Ours: ours, Floor: Memory{}, OpenCaller: ours.OpenCaller, OpenFloorCaller: OpenMemoryCaller,
		OpenIdle: ours.OpenIdle, Close: func(context.Context) error { return nil },
	}, nil
}

// quietly are the options of nodes that log nothing: what goes wrong shows in what arrives.
func quietly() *transport.Options { return &transport.Options{Logger: slog.New(slog.DiscardHandler)} }

// Embedded is the mail carrier on package mailserver's server, in this process, from one account to another.
type Embedded struct {
	// Apart, if set, makes the process that publishes: one that calls ServePublisher with its
	// standard input and output. The CPU time of this process is that of receiving then, and of the server.
	Apart func() *exec.Cmd
	// TLS has the server speak it.
	TLS bool
	// Change, if set, changes the configuration of both nodes.
	Change func(*email.Config)
}

var _ Bed = Embedded{}

// Name implements Bed.
func (Embedded) Name() string { return "embedded" }

// Start implements Bed.
func (b Embedded) Start(context.Context) (Ground, error) {
	server, err := mailserver.Start(mailserver.Config{TLS: b.TLS, MaxMailboxBytes: 8 << 30, MaxMailboxMessages: 8_000_000, MaxConnections: 2048})
	if err != nil {
		return Ground{}, err
	}
	accounts := server.Accounts()
	from := email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), CA: server.CACertPEM(),
		Username: accounts[0].Address, Password: accounts[0].Password, To: []string{accounts[1].Address}}
	to := from
	to.Username, to.Password = accounts[1].Address, accounts[1].Password
	if b.Change != nil {
		b.Change(&from)
		b.Change(&to)
	}
	g := &mailGround{from: from, to: to, word: word(), account: accountOf(to), apart: b.Apart}
	g.close = func(context.Context) error { return server.Close() }
	return g.ground(), nil
}

// Configured is the mail carrier on a configured account, which writes to itself, or the NATS carrier on configured
// servers. What a run has left in the inbox, or in a stream, is deleted.
type Configured struct {
	Config email.Config
	// Apart, if set, makes the process that publishes, as that of Embedded.
	Apart func() *exec.Cmd
}

var _ Bed = Configured{}

// Name implements Bed.
func (Configured) Name() string { return "config" }

// Start implements Bed.
func (b Configured) Start(ctx context.Context) (Ground, error) {
	config := b.Config
	if len(config.NATS.Servers) > 0 {
		return configuredNATS(ctx, config.NATS, b.Apart)
	}
	if config.Intraprocess {
		return Ground{}, errors.New("bench: the configuration says intraprocess: there is no mail server to measure")
	}
	account := accountOf(config)
	config.To, config.Cc, config.Bcc, config.Routes = []string{account.Address}, nil, nil, nil
	config.SMTPFallbacks, config.RMWEmailRoutes, config.People = nil, nil, nil
	config.State, config.Outbox, config.Retention, config.SkippedFlag, config.SkippedFolder = "", email.Outbox{}, email.Retention{}, "", ""
	g := &mailGround{from: config, to: config, word: word(), account: account, apart: b.Apart}
	inbox, err := raw.Parse(account.IMAP, "imaps")
	if err != nil {
		return Ground{}, err
	}
	if inbox.Protocol != "imap" {
		return Ground{}, fmt.Errorf("bench: with %s the mail server delivers to the node itself: there is no floor for that, see the carrier listen", account.IMAP)
	}
	fetcher, err := raw.OpenFetcher(ctx, account)
	if err != nil {
		return Ground{}, err
	}
	first := fetcher.Next()
	if err := fetcher.Close(); err != nil {
		return Ground{}, err
	}
	g.close = func(ctx context.Context) error {
		fetcher, err := raw.OpenFetcher(ctx, account)
		if err != nil {
			return err
		}
		return errors.Join(fetcher.Remove(first, g.word), fetcher.Close())
	}
	return g.ground(), nil
}

// word returns a word that no other run has.
func word() string { return strings.ToLower(rand.Text()[:12]) }

// accountOf returns what the floor needs to know of a configuration.
func accountOf(c email.Config) raw.Account {
	a := raw.Account{SMTP: c.SMTP, IMAP: c.IMAP, Username: c.Username, Password: c.Password, Address: c.From, CA: c.CA}
	if a.Address == "" {
		a.Address = c.Username
	}
	return a
}

// mailGround is a mail account in a run.
type mailGround struct {
	from, to email.Config
	account  raw.Account
	word     string
	counter  *Counter
	apart    func() *exec.Cmd
	close    func(context.Context) error
}

func (g *mailGround) ground() Ground {
	ours := &Nodes{Word: g.word, New: g.open}
	var system System = ours
	if g.apart != nil {
		system = apartGround{g}
	}
	return Ground{
		Ours: system, Floor: Mail{Account: g.account, Word: g.word}, Numbered: true, OpenCaller: ours.OpenCaller, OpenIdle: ours.OpenIdle,
		Counted: g.count,
		Close: func(ctx context.Context) error {
			if g.counter != nil {
				g.counter.Close()
			}
			return g.close(ctx)
		},
	}
}

// apartGround opens what is apart with the configuration of the moment.
type apartGround struct{ *mailGround }

// Open implements System.
func (g apartGround) Open(ctx context.Context, load Load) (Session, error) {
	return apart{from: g.from, to: g.to, word: g.word, command: g.apart}.Open(ctx, load)
}

// open makes the two nodes, with the configuration of the moment.
func (g *mailGround) open(ctx context.Context) (from, to *transport.Node, err error) {
	return openPair(ctx, g.from, g.to)
}

// openPair opens two nodes.
func openPair(ctx context.Context, fromConfig, toConfig email.Config) (from, to *transport.Node, err error) {
	if to, err = postbus.OpenConfig(ctx, toConfig, quietly()); err != nil {
		return nil, nil, err
	}
	if from, err = postbus.OpenConfig(ctx, fromConfig, quietly()); err != nil {
		return nil, nil, errors.Join(err, to.Close(ctx))
	}
	return from, to, nil
}

func (g *mailGround) count() (*Counter, error) {
	counter, err := Count(g.account)
	if err != nil {
		return nil, err
	}
	g.counter = counter
	for _, c := range []*email.Config{&g.from, &g.to} {
		c.SMTP, c.IMAP, c.CA = counter.SMTP, counter.IMAP, nil
	}
	return counter, nil
}
