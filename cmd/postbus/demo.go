package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// The names that the demo uses.
const (
	topicName   = "/chatter"
	adderName   = "/add_two_ints"
	batteryName = "/battery"
)

// How long a single step of the demo may take before it counts as failed: public mail
// providers have been seen to take half a minute.
const (
	localPatience   = 10 * time.Second
	accountPatience = 2 * time.Minute
)

func (a *app) demoCommand() *cobra.Command {
	carrier := ""
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show topics, services and wait sets at work over e-mail",
		Long: `Demo starts a mail server on loopback, and two nodes, robot and peer, with a mailbox each. They talk
over real SMTP and IMAP connections: a talker and a listener on /chatter, a client and a server of
/add_two_ints, and a wait set. Then it shows some of the e-mails that travelled, and a summary. It
takes a few seconds, and fails if anything was lost.

With --config it does the same on the mail account of that file: both nodes share the mailbox, and
write to the account's own address whatever recipients the file names. The mails stay there.

With --carrier nats the same programs talk over a NATS server, which demo starts instead of the mail
server; so they do with --config and a file that says nats.

` + exitCodes,
		Example: `  postbus demo
  postbus demo --carrier nats
  postbus demo --config email.yml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Only the flag counts: a demo sends no mail from an account that just happens
			// to be configured.
			switch {
			case carrier != "mail" && carrier != "nats":
				return usageErrorf("--carrier: %q is neither mail nor nats", carrier)
			case len(a.to) > 0:
				return usageErrorf("--to: the demo writes to its own accounts")
			case a.configPath != "" && cmd.Flags().Changed("carrier"):
				return usageErrorf("--carrier: with --config the configuration says what the carrier is")
			case a.configPath != "":
				return a.configuredDemo(cmd.Context())
			case carrier == "nats":
				return a.natsDemo(cmd.Context())
			}
			return a.localDemo(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&carrier, "carrier", "mail", "`CARRIER` of the messages: mail or nats")
	_ = cmd.RegisterFlagCompletionFunc("carrier", cobra.FixedCompletions([]string{"mail", "nats"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return cmd
}

// localDemo runs the demo on a mail server of its own.
func (a *app) localDemo(ctx context.Context) error {
	server, err := mailserver.Start(mailserver.Config{Logger: a.logger})
	if err != nil {
		return err
	}
	defer server.Close()
	d := newMailDemo(a, localPatience)
	d.taken = func() uint64 { return server.Stats().Accepted }
	accounts := server.Accounts()
	robot, peer := accounts[0], accounts[1]
	d.section("Mail server", "An SMTP and IMAP server in this process; everything goes over its TCP sockets.")
	d.printf("\n   SMTP   %s", server.SMTPURL())
	d.printf("   IMAP   %s", server.IMAPURL())
	d.printf("   robot  %-22s  talker on %s, client of %s", robot.Address, topicName, adderName)
	d.printf("   peer   %-22s  listener on %s, server of %s", peer.Address, topicName, adderName)
	account := func(own, other mailserver.Account) email.Config {
		return email.Config{
			SMTP: server.SMTPURL(), IMAP: server.IMAPURL(),
			Username: own.Address, Password: own.Password, To: []string{other.Address},
		}
	}
	return d.run(ctx, account(robot, peer), account(peer, robot))
}

// configuredDemo runs the demo on the configured account, or the configured servers of NATS.
func (a *app) configuredDemo(ctx context.Context) error {
	config, err := a.config()
	if err != nil {
		return err
	}
	if config.Intraprocess {
		return fmt.Errorf("%s says intraprocess, and the demo shows e-mails: it needs an account", a.configPath)
	}
	if len(config.NATS.Servers) > 0 {
		return a.configuredNATSDemo(ctx, config)
	}
	address := cmp.Or(config.From, config.Username)
	// Only the account: what else the configuration says (marking mails, other forms
	// of mail, routes) is for the programs that it was made for.
	config = email.Config{
		SMTP: config.SMTP, IMAP: config.IMAP, Username: config.Username, Password: config.Password,
		From: config.From, CA: config.CA, PollingPeriod: config.PollingPeriod, To: []string{address},
	}
	d := newMailDemo(a, accountPatience)
	d.section("Mail account", "Both nodes share this account's mailbox and write to its address.")
	d.printf("\n   SMTP   %s", config.SMTP)
	d.printf("   IMAP   %s", config.IMAP)
	d.printf("   robot  %-22s  talker on %s, client of %s", address, topicName, adderName)
	d.printf("   peer   %-22s  listener on %s, server of %s", address, topicName, adderName)
	return d.run(ctx, config, config)
}

// demo is one run of the demo.
type demo struct {
	logger   *slog.Logger
	patience time.Duration
	unit     string        // what travels
	taken    func() uint64 // how many of these the server has taken, if it is ours
	openNode func(context.Context, email.Config) (*transport.Node, error)
	showWire func() error // prints what was recorded; nil if nothing was
	robot    *transport.Node
	peer     *transport.Node
	wire     recorder

	topic   tally // messages on topicName
	adder   tally // calls of adderName
	battery tally // calls of batteryName

	started  time.Time
	mu       sync.Mutex // for what follows
	out      io.Writer
	writeErr error
	sections int
}

// newDemo returns a demo that has no nodes yet. how says how the programs talk.
func newDemo(a *app, patience time.Duration, how string) *demo {
	d := &demo{logger: a.logger, patience: patience, out: a.stdout, started: time.Now()}
	d.topic.name, d.adder.name, d.battery.name = "messages on "+topicName, "calls of "+adderName, "calls of "+batteryName
	d.printf("postbus demo: programs that talk to each other %s", how)
	return d
}

// run opens the nodes, has them talk, and sums up.
func (d *demo) run(ctx context.Context, robot, peer email.Config) error {
	if err := d.open(ctx, robot, peer); err != nil {
		return errors.Join(err, d.close(ctx))
	}
	var err error
	for _, part := range []func(context.Context) error{d.chatter, d.addTwoInts, d.waitSet} {
		if err == nil {
			err = part(ctx)
		}
	}
	err = errors.Join(err, d.close(ctx))
	if err == nil && d.showWire != nil {
		err = d.showWire()
	}
	return errors.Join(err, d.summary())
}

func (d *demo) open(ctx context.Context, robot, peer email.Config) (err error) {
	if d.robot, err = d.openNode(ctx, robot); err != nil {
		return fmt.Errorf("open robot: %w", err)
	}
	if d.peer, err = d.openNode(ctx, peer); err != nil {
		return fmt.Errorf("open peer: %w", err)
	}
	d.printf("")
	d.event("robot", "connected")
	d.event("peer", "connected")
	return nil
}

// close drains and closes the nodes that are open.
func (d *demo) close(ctx context.Context) error {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	var err error
	for _, node := range []*transport.Node{d.robot, d.peer} {
		if node != nil {
			err = errors.Join(err, node.Close(closing))
		}
	}
	return err
}

// step returns a context for a single step.
func (d *demo) step(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.patience)
}

// section begins a part of the output.
func (d *demo) section(title, text string) {
	d.mu.Lock()
	d.sections++
	n := d.sections
	d.mu.Unlock()
	d.printf("\n%d. %s\n   %s", n, title, text)
}

// event prints what somebody does, as it happens.
func (d *demo) event(who, format string, args ...any) {
	d.printf("%9.3f s   %-9s  %s", time.Since(d.started).Seconds(), who, fmt.Sprintf(format, args...))
}

// printf prints a line. The first error is kept for the summary.
func (d *demo) printf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := fmt.Fprintf(d.out, format+"\n", args...); err != nil && d.writeErr == nil {
		d.writeErr = err
	}
}

// both runs two functions at once. It returns the error that comes first, which ends
// the context of the other, when both have returned.
func both(ctx context.Context, f, g func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 2)
	go func() { errs <- f(ctx) }()
	go func() { errs <- g(ctx) }()
	var first error
	for range 2 {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}
