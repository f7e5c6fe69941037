package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

func (a *app) bridgeCommand() *cobra.Command {
	var texts []string
	cmd := &cobra.Command{
		Use:   "bridge [NAME=]FILE [NAME=]FILE --rule RULE...",
		Short: "Let topics and calls cross from one means of transport to another",
		Long: `Bridge joins two sides, each with its configuration file: mail and NATS, or two mail servers. It
forwards what its rules say, until Ctrl-C. A rule is

  topics|services  ->|<-|<->  PATTERN  [durable=NAME] [group=NAME]

Arrows go from the first file to the second. With "topics", what is published on the one side is published
on the other. With "services", a call that is made on the one side is answered on the other, and the
answer goes back. PATTERN is a name, or a pattern as in 'topic echo'; the first rule that fits counts.

With durable=NAME nothing is lost while the bridge is not there, or one side is away: a message is
done with when the other side has taken it. With group=NAME several bridges share the messages, and nothing is lost
while one is left. For that a side on mail needs a mailbox, and durable=NAME the key "state"; a side on NATS needs a stream that
keeps the names (key "streams"). In a group without a stream, what a bridge has taken is lost when it dies.

Messages keep their ID, publisher, number, time and header fields. Bridges note where a message has been in its header
field Bridge-Way, so that it goes nowhere twice. The NAME of a side stands there: bridges to the same
network must give it the same name, and networks that are joined in any way need different names: two sites with a mailbox
each, on one NATS, are not both "mail". Without one it is that of the file, without its ending.

When it forwards, bridge says so on stderr; at the end it prints what has become of each rule.

` + exitCodes,
		Example: `  postbus bridge mail.yml nats.yml --rule 'topics <-> /robot/>' --rule 'services <- /plan'
  postbus bridge mail=a.yml nats=b.yml --rule 'services -> kiam.> durable=kiam'`,
		Args: twoSides,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.configPath != "" || len(a.to) > 0 {
				return usageErrorf("--config and --to are not for a bridge: each side has its own configuration file")
			}
			rules, err := parseRules(texts)
			if err != nil {
				return err
			}
			var sides [2]sideOfBridge
			for i, arg := range args {
				if sides[i], err = parseSide(arg); err != nil {
					return err
				}
			}
			if name := sides[0].name; name == sides[1].name {
				return usageErrorf("both sides are %s: a bridge joins two networks, with a name for each; write NAME=FILE", name)
			}
			return a.bridge(cmd.Context(), sides, rules)
		},
	}
	cmd.Flags().StringArrayVar(&texts, "rule", nil, "forward by this `RULE` (repeatable)")
	noValueCompletion(cmd, "rule")
	return cmd
}

func twoSides(_ *cobra.Command, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("a bridge has two sides, with a configuration FILE for each; there are %d", len(args))
	}
	return nil
}

func parseRules(texts []string) ([]bridge.Rule, error) {
	if len(texts) == 0 {
		return nil, usageErrorf("--rule is required: what is to cross, such as 'topics <-> /robot/>'")
	}
	rules := make([]bridge.Rule, len(texts))
	for i, text := range texts {
		var err error
		if rules[i], err = bridge.ParseRule(text); err != nil {
			return nil, &usageError{fmt.Errorf("--rule: %w", err)}
		}
	}
	return rules, nil
}

// sideOfBridge is one side as the command line has it.
type sideOfBridge struct {
	name   string
	config email.Config
}

// parseSide reads [NAME=]FILE, and the file.
func parseSide(arg string) (side sideOfBridge, err error) {
	name, path, ok := strings.Cut(arg, "=")
	if !ok {
		path = arg
		name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	if !bridge.ValidSideName(name) {
		return side, usageErrorf("%q: %q is no name of a side (A-Z a-z 0-9 _ - . and at most %d bytes); write NAME=%s", arg, name, bridge.MaxSideName, path)
	}
	side.name = name
	side.config, err = email.LoadConfig(path)
	return side, err
}

// bridge joins the sides until ctx ends. The bridge and its nodes share the time of an orderly end.
func (a *app) bridge(ctx context.Context, sides [2]sideOfBridge, rules []bridge.Rule) (err error) {
	var open []interface{ Close(context.Context) error }
	defer func() {
		closing, cancel := a.closing(ctx)
		defer cancel()
		for _, part := range slices.Backward(open) {
			err = errors.Join(err, part.Close(closing))
		}
	}()
	var ends [2]bridge.Side
	for i, side := range sides {
		node, err := postbus.OpenConfig(ctx, side.config, &transport.Options{Logger: a.logger})
		if err != nil {
			return err
		}
		open = append(open, node)
		ends[i] = bridge.Side{Name: side.name, Node: node}
	}
	b, err := bridge.New(ends[0], ends[1], rules...)
	if err != nil {
		return err
	}
	open = append(open, &printed{b, a.stdout})
	fmt.Fprintf(a.stderr, "bridge between %s (%s) and %s (%s)\n", ends[0].Name, ends[0].Node.Address(), ends[1].Name, ends[1].Node.Address())
	<-ctx.Done()
	return nil
}

// printed is a bridge of which is printed, when it has been closed, what has become of each rule.
type printed struct {
	bridge *bridge.Bridge
	out    io.Writer
}

func (p *printed) Close(ctx context.Context) error {
	return errors.Join(p.bridge.Close(ctx), printCrossings(p.out, p.bridge.Stats()))
}

// printCrossings writes what has become of each rule.
func printCrossings(w io.Writer, all []bridge.Stats) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RULE\tFORWARDED\tANSWERED\tLOOPED\tREPEATED\tEXPIRED\tFAILED\tDROPPED")
	for _, s := range all {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n",
			s.Rule, s.Forwarded, s.Answered, s.Looped, s.Repeated, s.Expired, s.Failed, s.Dropped)
	}
	return table.Flush()
}
