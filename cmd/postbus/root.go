package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/mail"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
)

// configEnv names the configuration file of the command alone; email.ConfigEnv is that
// of every program on the library.
const configEnv = "POSTBUS_CONFIG"

// drainTimeout is app.drain outside tests: enough for answers that are being
// worked on and messages that are being sent.
const drainTimeout = 10 * time.Second

// quietDrain is how long an orderly end may take before the user is told why.
const quietDrain = 500 * time.Millisecond

// app is one run of the command: its streams and what the global flags say.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	logger         *slog.Logger
	drain          time.Duration // how long an orderly end may take

	configPath string
	to         []string
	logLevel   string
	logFile    string

	running bool     // the command line was understood
	log     *os.File // what --log-file named, or nil
}

// run is the command as a function: it returns the exit code. The end of ctx is Ctrl-C.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: &lockedWriter{w: stderr}, drain: drainTimeout}
	root := a.rootCommand()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err != nil && !a.running {
		err = &usageError{err} // cobra has no type for those
	}
	report(a.stderr, command.CommandPath(), err)
	if a.log != nil {
		err = errors.Join(err, a.log.Close())
	}
	return exitCode(err)
}

// lockedWriter lets messages, the log and the output of commands share stderr.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "postbus",
		Short: "Topics and services over ordinary e-mail",
		Long: `postbus sends messages between programs as e-mails: topics that anybody can publish to and
listen on, and services that answer requests. All it needs is a mail account with SMTP and
IMAP, or 'postbus mailserver' for tests on one machine. With the key nats in the configuration
everything goes over NATS instead: 'postbus nats' is a server of that for tests.

The account, or NATS, is described in a configuration file, email.yml. It is the first of these:
  --config FILE, $POSTBUS_CONFIG, $EMAIL_CONFIG_FILE, ./email.yml, ~/email.yml

` + exitCodes,
		Example: `  postbus demo                               # see it work, in a few seconds

  postbus mailserver --write .               # a mail server on this machine; then, elsewhere:
  export POSTBUS_CONFIG=email-robot.yml
  postbus topic echo /chatter
  postbus topic pub /chatter hello
  postbus service serve /upper --exec 'tr a-z A-Z'
  postbus service call /upper hello`,
		Version:           versionText(),
		Args:              noArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.start() },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:      true,
		SilenceErrors:     true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(helpCommand())

	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&a.configPath, "config", "", "configuration `FILE` of the mail account, or of NATS")
	flags.StringArrayVar(&a.to, "to", nil, "send to this `ADDRESS` instead of the configuration's recipients (repeatable)")
	flags.StringVar(&a.logLevel, "log-level", "warn", "log from this `LEVEL` on: debug, info, warn or error")
	flags.StringVar(&a.logFile, "log-file", "", "append the log to `FILE` instead of writing it to stderr")
	// The flags exist, so there is no error.
	_ = root.MarkPersistentFlagFilename("config", "yml", "yaml")
	_ = root.MarkPersistentFlagFilename("log-file")
	_ = root.RegisterFlagCompletionFunc("to", cobra.NoFileCompletions)
	_ = root.RegisterFlagCompletionFunc("log-level",
		cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))

	root.AddCommand(a.demoCommand(), a.mailserverCommand(), a.natsCommand(), a.topicCommand(), a.serviceCommand(), a.bridgeCommand(), a.outboxCommand(), a.durableCommand(), a.soakCommand(), a.benchCommand(), a.versionCommand())
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		asGroup(completion)
	}
	return root
}

// helpCommand is cobra's, but that of an unknown command is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Show the help of a command",
		Long:  "Help shows what a command does, its flags and examples.",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageErrorf("there is no command %q to help with", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// noArgs is cobra.NoArgs with suggestions: what is there too much may be a misspelt command.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasAvailableSubCommands() {
		return fmt.Errorf("%s takes no arguments, not %q", cmd.CommandPath(), args[0])
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2 // cobra's own default
	}
	text := fmt.Sprintf("unknown command %q for %s", args[0], cmd.CommandPath())
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		text += "; did you mean " + strings.Join(similar, " or ") + "?"
	}
	return errors.New(text)
}

// named wants the name of a topic or service, and at most so many arguments after it.
func named(most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("the NAME of the %s is missing", cmd.Parent().Name())
		}
		if len(args) > 1+most {
			return fmt.Errorf("%q is one argument too many; words that belong together go into quotes", args[1+most])
		}
		return nil
	}
}

// group is a command that only has others below it.
func group(use, short, long, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Example: example}
	cmd.AddCommand(commands...)
	return asGroup(cmd)
}

// asGroup makes the lack of a command below cmd, or one that does not exist, an error.
func asGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return usageErrorf("%s what? Known are %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}

// start applies the global flags that concern every command.
func (a *app) start() error {
	a.running = true
	for _, address := range a.to {
		if parsed, err := mail.ParseAddress(address); err != nil || parsed.Address != address {
			return usageErrorf("--to: %q is not a mail address", address)
		}
	}
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[a.logLevel]
	if !ok {
		return usageErrorf("--log-level: %q is not one of debug, info, warn and error", a.logLevel)
	}
	out := a.stderr
	if a.logFile != "" {
		file, err := os.OpenFile(a.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("--log-file: %w", err)
		}
		a.log, out = file, file
	}
	a.logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	return nil
}

// config reads the configuration file and applies --to.
func (a *app) config() (email.Config, error) {
	path := a.configPath
	if path == "" {
		path = os.Getenv(configEnv)
	}
	if path == "" {
		var err error
		if path, err = email.FindConfig(); err != nil {
			return email.Config{}, &missingConfigError{err}
		}
	}
	config, err := email.LoadConfig(path)
	if _, missing := os.Stat(path); errors.Is(missing, fs.ErrNotExist) {
		return email.Config{}, &missingConfigError{err}
	}
	if err != nil {
		return email.Config{}, err
	}
	if len(a.to) > 0 {
		if len(config.NATS.Servers) > 0 {
			return email.Config{}, usageErrorf("--to: %s says NATS, where messages have no recipients but go to whoever listens", path)
		}
		config.To, config.Cc, config.Bcc, config.Routes = a.to, nil, nil, nil
	}
	return config, nil
}

// withNode opens a node, runs f with it, and drains and closes it, whether ctx has
// ended meanwhile or not.
func (a *app) withNode(ctx context.Context, config email.Config, f func(*transport.Node) error) error {
	node, err := postbus.OpenConfig(ctx, config, &transport.Options{Logger: a.logger})
	if err != nil {
		return err
	}
	err = f(node)
	closing, cancel := a.closing(ctx)
	defer cancel()
	return errors.Join(err, node.Close(closing))
}

// closing returns the context of an orderly end. When Ctrl-C has begun it and it takes a while, the user is told why.
func (a *app) closing(ctx context.Context) (context.Context, context.CancelFunc) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.drain)
	if !errors.Is(ctx.Err(), context.Canceled) { // but a --timeout
		return closing, cancel
	}
	patience := time.AfterFunc(quietDrain, func() {
		fmt.Fprintf(a.stderr, "postbus: finishing what is under way, for %v at most; Ctrl-C ends it at once\n", a.drain)
	})
	return closing, func() {
		patience.Stop()
		cancel()
	}
}

// outlasting returns a context that ends drainTimeout after ctx does: for what Ctrl-C
// should not tear in two.
func outlasting(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		expired := time.NewTimer(drainTimeout)
		defer expired.Stop()
		select {
		case <-expired.C:
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel() }
}

// maxBody returns the largest body that a node of the configuration sends.
func maxBody(config email.Config) int {
	if config.MaxBody > 0 {
		return config.MaxBody
	}
	return transport.DefaultMaxBody
}
