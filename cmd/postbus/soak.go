package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/internal/torture"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/natsserver"
	"github.com/postbus/postbus/internal/torture/worker"
)

// errBroken is what a soak ends with that has found something.
var errBroken = errors.New("promises were broken; the report says which")

// soakOptions are the flags of postbus soak.
type soakOptions struct {
	torture.Options
	server, carrier string
}

func (a *app) soakCommand() *cobra.Command {
	o := new(soakOptions)
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Prove that nothing is lost, while processes are killed and servers go away",
		Long: `Soak runs publishers, subscriptions, clients and servers in processes of their own. Meanwhile it kills
processes, takes the servers away and breaks connections, at random. At the end it checks the history
of every message: nothing that was accepted may be lost, nothing handled twice, nothing come out
of its publisher's order, and each call must have one outcome.

It runs on a mail server of its own; with --carrier nats on a NATS server of its own, with its streams on
disk, in a process that is killed as well; or with --server config on the account of the configuration
file, whose mailbox then gets all the messages. Servers that scripts/mailserver.sh has started, with its
variables set, are stopped, killed and started again.

Kinds of --faults are kill, cut, cut-at-byte, hold, hold-and-cut, delay, throttle, half-close, refuse, smtp and
imap or else nats, all for all of these and none for none. By mail one more is expunge: then another mail client
removes new mails, and the messages in them need not come. Over NATS nobody keeps for a plain subscription what
comes while it has no connection, so that it owes nothing.

The history and the logs of the processes are kept if something was found, or with --dir.

` + exitCodes,
		Example: `  postbus soak
  postbus soak --messages 100000 --seed 7
  postbus soak --carrier nats --duration 5m --messages 1000000
  postbus soak --server config --config email.yml --messages 10000 --faults kill,imap`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.soak(cmd, o) },
	}
	o.flags(cmd)
	cmd.AddCommand(a.soakCheckCommand(), a.soakWorkerCommand(), a.soakNATSCommand())
	return cmd
}

func (o *soakOptions) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.server, "server", "embedded", "the server: `embedded` or config")
	flags.StringVar(&o.carrier, "carrier", "mail", "`CARRIER` of the messages: mail or nats")
	flags.IntVar(&o.Load.Messages, "messages", 2000, "how many messages to publish")
	flags.IntVar(&o.Load.Calls, "calls", 200, "how many calls to make")
	flags.DurationVar(&o.Duration, "duration", 0, "stop publishing after this `TIME`, if it is not 0")
	flags.Uint64Var(&o.Seed, "seed", 0, "what is done at random is determined by this number; 0 chooses one")
	flags.StringSliceVar(&o.Faults, "faults", []string{"all"}, "kinds of faults to cause")
	flags.DurationVar(&o.FaultEvery, "fault-every", time.Second, "mean `TIME` from one fault to the next")
	flags.IntVar(&o.Load.Publishers, "publishers", 1, "publishers without an outbox")
	flags.IntVar(&o.Load.Outboxes, "outboxes", 1, "publishers with an outbox")
	flags.IntVar(&o.Load.Plains, "plain", 1, "subscriptions that remember nothing")
	flags.IntVar(&o.Load.Durables, "durables", 1, "durable subscriptions")
	flags.IntVar(&o.Load.Members, "members", 2, "members of a group of subscriptions")
	flags.IntVar(&o.Load.Clients, "clients", 1, "clients of a service")
	flags.IntVar(&o.Load.Servers, "servers", 1, "servers of it")
	flags.StringVar(&o.Load.ServerMode, "server-mode", history.Durable, "servers are `MODE`: plain, durable or group")
	flags.BoolVar(&o.Load.Batch, "batch", false, "by mail, let messages that are sent at the same time travel as one")
	flags.DurationVar(&o.Load.Every, "every", 10*time.Millisecond, "`TIME` from one message of a publisher to the next")
	flags.DurationVar(&o.Load.Work, "work", 0, "the longest `TIME` that handling a message takes")
	flags.DurationVar(&o.Load.Lease, "lease", 5*time.Second, "the lease of the members")
	flags.DurationVar(&o.Load.GapWait, "gap-wait", 0, "how long subscriptions wait for a missing message, if it is not 0")
	flags.IntVar(&o.Load.NackEvery, "nack-every", 0, "about one in so `MANY` messages is given back first, if it is not 0")
	flags.IntVar(&o.Load.MaxBody, "max-body", 4000, "the largest body, in bytes")
	flags.DurationVar(&o.Patience, "patience", time.Minute, "what has not come when nothing has got through for this `TIME` is lost")
	flags.StringVar(&o.Dir, "dir", "", "keep history and logs in this empty `DIR`")
	_ = cmd.MarkFlagDirname("dir") // the flag exists
}

func (a *app) soak(cmd *cobra.Command, o *soakOptions) (err error) {
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if !slices.Contains([]string{history.Plain, history.Durable, history.Group}, o.Load.ServerMode) {
		return usageErrorf("--server-mode: %q is none of plain, durable and group", o.Load.ServerMode)
	}
	if err := a.checkServer(o); err != nil {
		return err
	}
	if len(o.Faults) == 1 && o.Faults[0] == "none" {
		o.Faults = nil
	}
	// The name counts, not the file: tests give one file several names.
	binary, err := exec.LookPath(os.Args[0])
	if err != nil {
		return err
	}
	o.Worker = []string{binary, "soak", "worker"}
	o.Progress = a.stderr
	keep := o.Dir != ""
	if !keep {
		if o.Dir, err = os.MkdirTemp("", "postbus-soak-"); err != nil {
			return err
		}
	}
	remove := func() error {
		if keep {
			return nil
		}
		return os.RemoveAll(o.Dir)
	}
	stop, err := startServer(o, binary)
	if err != nil {
		return errors.Join(err, remove())
	}
	fmt.Fprintf(a.stdout, "seed %d\n", o.Seed)
	report, err := torture.Run(cmd.Context(), o.Options)
	stop()
	if report == nil { // it has not begun
		return errors.Join(err, remove())
	}
	fmt.Fprint(a.stdout, report)
	if !report.OK() {
		err = errors.Join(err, errBroken)
	}
	if err == nil && !keep {
		return remove()
	}
	fmt.Fprintf(a.stdout, "\nThe history is in %s, and the logs are beside it.\n", filepath.Join(o.Dir, "history"))
	return err
}

// checkServer checks the flags that choose the server.
func (a *app) checkServer(o *soakOptions) error {
	switch {
	case o.carrier != "mail" && o.carrier != "nats":
		return usageErrorf("--carrier: %q is neither mail nor nats", o.carrier)
	case o.server != "embedded" && o.server != "config":
		return usageErrorf("--server: %q is neither embedded nor config", o.server)
	case o.carrier == "nats" && o.Load.Batch:
		return usageErrorf("--batch: only mails have several messages")
	case o.server == "embedded" && a.configPath != "":
		return usageErrorf("--config: only --server config runs on the account of a configuration")
	case o.server == "embedded":
		return nil
	case o.carrier == "nats":
		return usageErrorf("--server: a soak over NATS runs on no server but its own")
	}
	config, err := a.config()
	switch {
	case err != nil:
		return err
	case len(config.NATS.Servers) > 0:
		return usageErrorf("--server: the configuration says NATS, and a soak runs on no NATS server but its own (--carrier nats)")
	case config.Intraprocess:
		return usageErrorf("--server: the configuration says intraprocess, and the processes of a soak can't hear each other then")
	}
	o.Server = torture.NewStock(config)
	return nil
}

// startServer starts the server of a soak, unless it is there.
func startServer(o *soakOptions, binary string) (stop func(), err error) {
	switch {
	case o.Server != nil:
		return func() {}, nil
	case o.carrier == "nats":
		server, err := torture.StartNATS([]string{binary, "soak", "nats-server"}, nil, natsserver.Config{Dir: filepath.Join(o.Dir, "nats")})
		if err != nil {
			return nil, err
		}
		o.Server = server
		o.Load.Timeout = natsTimeout
		return func() { _ = server.Close() }, nil // it may be dead, which the report says
	}
	server, err := torture.StartEmbedded()
	if err != nil {
		return nil, err
	}
	o.Server = server
	return func() { _ = server.Close() }, nil // always nil
}

// natsTimeout bounds a publish or call over NATS, by which an answer that was on its way when a connection broke does not come again.
const natsTimeout = 10 * time.Second

func (a *app) soakCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Check recorded histories",
		Long: `Check reads the history of a soak, or the histories of its parts from several machines, and prints the
report on it.

` + exitCodes,
		Example: "  postbus soak check history",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("the FILE of the history is missing")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			report, err := history.CheckFiles(args...)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprint(a.stdout, report); err != nil {
				return err
			}
			if !report.OK() {
				return errBroken
			}
			return nil
		},
	}
}

// soakWorkerCommand is what the processes of a soak run.
func (a *app) soakWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "Be one of the processes of a soak",
		Hidden: true,
		Args:   noArgs,
		RunE: func(*cobra.Command, []string) error {
			if worker.Main(a.stdin, a.stderr, nil) != 0 {
				return errors.New("the worker has failed")
			}
			return nil
		},
	}
}

// soakNATSCommand is the NATS server of a soak.
func (a *app) soakNATSCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "nats-server",
		Short:  "Be the NATS server of a soak",
		Hidden: true,
		Args:   noArgs,
		RunE: func(*cobra.Command, []string) error {
			if natsserver.Main(a.stdin, a.stdout, a.stderr) != 0 {
				return errors.New("the server has failed")
			}
			return nil
		},
	}
}
