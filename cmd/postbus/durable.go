package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

func (a *app) durableCommand() *cobra.Command {
	file := ""
	cmd := group("durable", "See and change what durable names remember",
		`What is read with a durable name (--durable, pubsub.Durable) goes on where it was. How far that is, is kept in
the state file: the key state of the configuration, or --file. These commands are for one that no
running program has open.

A message that could not be handled is a dead letter: it stays in the file with the reason, and is
not delivered any more until 'retry' says so.

With NATS the server keeps all that. 'list --dead' and 'purge' are for the dead letters of the streams of the
configuration, whoever has made them; they can't be delivered once more. 'nats consumer' is for the rest.`,
		"  postbus durable list\n  postbus durable retry monitor/17\n  postbus durable purge monitor",
		a.durableListCommand(&file), a.durableRetryCommand(&file), a.durablePurgeCommand(&file), a.durableForgetCommand(&file))
	cmd.PersistentFlags().StringVar(&file, "file", "", "the state in `FILE` instead of the configuration's")
	_ = cmd.MarkPersistentFlagFilename("file") // the flag exists
	return cmd
}

// withState opens the state file for f.
func (a *app) withState(path string, f func(*email.State) error) error {
	if path == "" {
		config, err := a.config()
		if err != nil {
			return err
		}
		if len(config.NATS.Servers) > 0 {
			return errKeptByNATS
		}
		if path = config.State; path == "" {
			return errors.New("the configuration has no state file: set state in it, or use --file")
		}
	}
	return withFile(path, email.OpenState, f)
}

func (a *app) durableListCommand(file *string) *cobra.Command {
	var dead, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the durable names, or the dead letters",
		Long: `List prints a line for each durable name: what it is for, since when, how many messages were read and not
settled, and how many dead letters it has. With --dead it prints a line for each dead letter instead, with
the reason; what stands at its beginning is what 'retry' and 'purge' take. With NATS there are only the dead letters,
and that is the stream and a number. With --json there are all details.

` + exitCodes,
		Example:           "  postbus durable list\n  postbus durable list --dead --json",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config, ok, err := a.onNATS(*file); dead && (ok || err != nil) {
				if err != nil {
					return err
				}
				return a.withNATS(cmd.Context(), config, func(ctx context.Context, carrier *nats.Carrier) error {
					return a.listDeadLetters(natsLetters(ctx, carrier), asJSON)
				})
			}
			return a.withState(*file, func(s *email.State) error {
				if dead {
					return a.listDeadLetters(stateLetters(s), asJSON)
				}
				return a.listDurables(s, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&dead, "dead", false, "the dead letters")
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON object for each, on a line of its own")
	return cmd
}

// durableJSON is what "durable list --json" prints. Its members are part of the command
// line's interface.
type durableJSON struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`
	Pattern string    `json:"pattern"`
	Since   time.Time `json:"since"`
	Current time.Time `json:"current"`
	Open    int       `json:"open"`
	Dead    int       `json:"dead"`
	Again   int       `json:"again,omitempty"`
}

func (a *app) listDurables(s *email.State, asJSON bool) error {
	names, err := s.Durables()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for i, d := range names {
		if asJSON {
			j := durableJSON{d.Name, d.Kind.String(), d.Pattern, d.Since.UTC(), d.Current.UTC(), d.Open, d.Dead, d.Again}
			if err := json.NewEncoder(a.stdout).Encode(j); err != nil {
				return err
			}
			continue
		}
		if i == 0 {
			fmt.Fprintln(table, "NAME\tKIND\tFOR\tSINCE\tOPEN\tDEAD")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\n", d.Name, d.Kind, d.Pattern, d.Since.Local().Format(time.DateTime), d.Open, d.Dead)
	}
	return table.Flush()
}

// deadLetterJSON is what "durable list --dead --json" prints. Its members are part of the command
// line's interface.
type deadLetterJSON struct {
	Letter    string    `json:"letter"`
	For       string    `json:"for,omitempty"` // the durable name or group, where Letter does not say so
	Name      string    `json:"name,omitempty"`
	Kind      string    `json:"kind,omitempty"`
	MessageID string    `json:"message_id,omitempty"`
	From      string    `json:"from,omitempty"`
	Bytes     int       `json:"bytes"`
	Died      time.Time `json:"died,omitzero"`
	Reason    string    `json:"reason"`
	Attempts  int       `json:"attempts"`
}

// describe fills in what the message says, unless it is nil.
func (j *deadLetterJSON) describe(m *transport.Message) {
	if m != nil {
		j.Name, j.Kind, j.MessageID, j.From, j.Bytes = m.Name, m.Kind.String(), m.ID.String(), m.From, len(m.Body)
	}
}

// stateLetters returns the dead letters of a state file.
func stateLetters(s *email.State) iter.Seq2[deadLetterJSON, error] {
	return func(yield func(deadLetterJSON, error) bool) {
		for letter, err := range s.DeadLetters() {
			j := deadLetterJSON{Letter: fmt.Sprintf("%s/%d", letter.Durable, letter.Number), Died: letter.Time.UTC(), Reason: letter.Reason, Attempts: letter.Attempts}
			j.describe(letter.Message)
			if !yield(j, err) {
				return
			}
		}
	}
}

func (a *app) listDeadLetters(letters iter.Seq2[deadLetterJSON, error], asJSON bool) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	lines := 0
	for j, err := range letters {
		if err != nil {
			return err
		}
		if asJSON {
			if err := json.NewEncoder(a.stdout).Encode(j); err != nil {
				return err
			}
			continue
		}
		letter, title := j.Letter, "LETTER"
		if j.For != "" {
			letter, title = letter+"\t"+oneLine(j.For), title+"\tFOR"
		}
		if lines++; lines == 1 {
			fmt.Fprintln(table, title+"\tDIED\tATTEMPTS\tBYTES\tNAME\tREASON")
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", letter, j.Died.Local().Format(time.DateTime), j.Attempts, j.Bytes, j.Name, oneLine(j.Reason))
	}
	return table.Flush()
}

// oneLine returns a text as a line of a table shows it.
func oneLine(s string) string { return strings.Join(strings.Fields(displayable([]byte(s))), " ") }

func (a *app) durableRetryCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "retry [NAME[/NUMBER]]...",
		Short: "Let dead letters be delivered once more",
		Long: `Retry has these dead letters, all of these durable names, or all there are, delivered once more, as if for the
first time, by the next program that uses the durable name. With NATS that is not possible: a stream gives
a message to all who listen, not to one durable name alone.

` + exitCodes,
		Example:           "  postbus durable retry\n  postbus durable retry monitor/17 monitor/18",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			wanted, letters, err := lettersOf(args)
			if err != nil {
				return err
			}
			if _, ok, err := a.onNATS(*file); ok || err != nil {
				return cmp.Or(err, errNoRetry)
			}
			return a.changeDeadLetters(*file, wanted, letters, "to be delivered once more", (*email.State).Retry)
		},
	}
}

func (a *app) durablePurgeCommand(file *string) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "purge NAME[/NUMBER]... | --all",
		Short: "Delete dead letters",
		Long: `Purge deletes these dead letters, those of these durable names, or all there are. With NATS NAME may also be
a group or a stream, and is a stream in front of a NUMBER.

` + exitCodes,
		Example:           "  postbus durable purge monitor/17\n  postbus durable purge --all",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == all {
				return usageErrorf("either dead letters and durable names, or --all is needed")
			}
			wanted, letters, err := lettersOf(args)
			if err != nil {
				return err
			}
			config, ok, err := a.onNATS(*file)
			switch {
			case err != nil:
				return err
			case ok:
				return a.purgeNATS(cmd.Context(), config, wanted, letters)
			}
			return a.changeDeadLetters(*file, wanted, letters, "deleted", (*email.State).Purge)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters")
	return cmd
}

// lettersOf reads the arguments that name dead letters: as they are listed, or all with what stands in front of the
// slash. Nil means all. letters is how many of them are of the first kind.
func lettersOf(args []string) (wanted map[string]bool, letters int, err error) {
	for _, arg := range args {
		if _, number, ok := strings.Cut(arg, "/"); ok {
			if _, err := strconv.ParseUint(number, 10, 64); err != nil {
				return nil, 0, usageErrorf("%q is no dead letter; 'postbus durable list --dead' shows them", arg)
			}
			letters++
		}
		if wanted == nil {
			wanted = make(map[string]bool)
		}
		wanted[arg] = true
	}
	return wanted, letters, nil
}

// changeDeadLetters does something with the dead letters that are wanted.
func (a *app) changeDeadLetters(file string, wanted map[string]bool, letters int, done string, change func(*email.State, func(email.DeadLetter) bool) (int, error)) error {
	var selected func(email.DeadLetter) bool
	if wanted != nil {
		selected = func(l email.DeadLetter) bool {
			return wanted[l.Durable] || wanted[fmt.Sprintf("%s/%d", l.Durable, l.Number)]
		}
	}
	return a.withState(file, func(s *email.State) error {
		n, err := change(s, selected)
		return a.reportCount(n, letters, "dead letter", done, "postbus durable list --dead", err)
	})
}

func (a *app) durableForgetCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "forget NAME...",
		Short: "Delete durable names that are not used any more",
		Long: `Forget deletes durable names with all that is remembered of them, their dead letters too. Who uses
such a name again begins anew.

` + exitCodes,
		Example:           "  postbus durable forget monitor",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageErrorf("the durable names are needed; 'postbus durable list' shows them")
			}
			return a.withState(*file, func(s *email.State) error {
				for _, name := range args {
					if err := s.Forget(name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}
