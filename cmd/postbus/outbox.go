package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

func (a *app) outboxCommand() *cobra.Command {
	file := ""
	cmd := group("outbox", "See and change what waits to be sent",
		`An outbox is a file in which messages are kept until the mail server, or NATS, has taken them. It is the key
outbox.file of the configuration, or --file. These commands are for an outbox that no running program
has open: a program with an outbox sends what is in it by itself.

A message that was refused for good, or could not be sent for days, is a dead letter: it stays in the
outbox with the reason, and is not tried any more until 'retry' says so.`,
		"  postbus outbox list\n  postbus outbox retry\n  postbus outbox purge --dead",
		a.outboxListCommand(&file), a.outboxRetryCommand(&file), a.outboxPurgeCommand(&file))
	cmd.PersistentFlags().StringVar(&file, "file", "", "the outbox in `FILE` instead of the configuration's")
	_ = cmd.MarkPersistentFlagFilename("file") // the flag exists
	return cmd
}

// withOutbox opens the outbox for f.
func (a *app) withOutbox(path string, f func(*outbox.File) error) error {
	if path == "" {
		config, err := a.config()
		if err != nil {
			return err
		}
		if path = config.Outbox.File; path == "" {
			return errors.New("the configuration has no outbox: set outbox.file in it, or use --file")
		}
	}
	return withFile(path, outbox.OpenFile, f)
}

// withFile opens a file that programs keep, for f.
func withFile[F io.Closer](path string, open func(string) (F, error), f func(F) error) error {
	file, err := open(path)
	switch {
	case errors.Is(err, transport.ErrInUse):
		return fmt.Errorf("%w; end that program first", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: no program has used it yet", err)
	case err != nil:
		return err
	}
	return errors.Join(f(file), file.Close())
}

func (a *app) outboxListCommand(file *string) *cobra.Command {
	var dead, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the messages in the outbox",
		Long: `List prints a line for each message that waits, and for each dead letter with the reason. The number
at its beginning is what 'retry' and 'purge' take. With --json there are all details: number, state
("waiting" or "dead"), name, kind, message_id, to, bytes, accepted, deadline and, of dead letters, died,
code, reason and attempts.

` + exitCodes,
		Example:           "  postbus outbox list\n  postbus outbox list --dead --json",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			return a.withOutbox(*file, func(f *outbox.File) error {
				sequences := []iter.Seq2[outbox.Entry, error]{f.Dead()}
				if !dead {
					sequences = append([]iter.Seq2[outbox.Entry, error]{f.Waiting()}, sequences...)
				}
				return a.listOutbox(sequences, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&dead, "dead", false, "dead letters only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON object for each message, on a line of its own")
	return cmd
}

func (a *app) listOutbox(sequences []iter.Seq2[outbox.Entry, error], asJSON bool) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	lines := 0
	for _, sequence := range sequences {
		for e, err := range sequence {
			if err != nil {
				return err
			}
			if asJSON {
				if err := json.NewEncoder(a.stdout).Encode(entryOf(e)); err != nil {
					return err
				}
				continue
			}
			if lines++; lines == 1 {
				fmt.Fprintln(table, "NUMBER\tSTATE\tACCEPTED\tBYTES\tNAME\tREASON")
			}
			j := entryOf(e)
			fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%s\t%s\n", e.Number, j.State, e.Accepted.Local().Format(time.DateTime), j.Bytes,
				j.Name, strings.Join(strings.Fields(displayable([]byte(j.Reason))), " "))
		}
	}
	return table.Flush()
}

// entryJSON is what "outbox list --json" prints. Its members are part of the command
// line's interface.
type entryJSON struct {
	Number    uint64    `json:"number"`
	State     string    `json:"state"`
	Name      string    `json:"name,omitempty"`
	Kind      string    `json:"kind,omitempty"`
	MessageID string    `json:"message_id,omitempty"`
	To        []string  `json:"to,omitempty"`
	Bytes     int       `json:"bytes"`
	Accepted  time.Time `json:"accepted,omitzero"`
	Deadline  time.Time `json:"deadline,omitzero"`
	Died      time.Time `json:"died,omitzero"`
	Code      int       `json:"code,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Attempts  int       `json:"attempts,omitempty"`
}

func entryOf(e outbox.Entry) entryJSON {
	j := entryJSON{Number: e.Number, State: "waiting", Bytes: e.Size, Accepted: e.Accepted.UTC()}
	if m := e.Message; m != nil {
		j.Name, j.Kind, j.MessageID, j.To = m.Name, m.Kind.String(), m.ID.String(), m.To
		j.Bytes, j.Deadline = len(m.Body), m.Deadline.UTC()
	} else {
		j.Reason = "what is in the file has been damaged"
	}
	if d := e.Dead; d != nil {
		j.State, j.Died, j.Code, j.Reason, j.Attempts = "dead", d.Time.UTC(), d.Code, d.Reason, d.Attempts
	}
	return j
}

func (a *app) outboxRetryCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "retry [NUMBER]...",
		Short: "Let dead letters be sent once more",
		Long: `Retry makes the dead letters with these numbers, or all, wait once more, behind what waits already.
They are sent by the next program that opens the outbox.

` + exitCodes,
		Example:           "  postbus outbox retry\n  postbus outbox retry 17 18",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			selected, err := numbered(args)
			if err != nil {
				return err
			}
			return a.withOutbox(*file, func(f *outbox.File) error {
				n, err := f.Retry(selected)
				return a.reportCount(n, len(args), "dead letter", "to be sent once more", "postbus outbox list", err)
			})
		},
	}
}

func (a *app) outboxPurgeCommand(file *string) *cobra.Command {
	var dead, waiting bool
	cmd := &cobra.Command{
		Use:   "purge NUMBER... | --dead | --waiting",
		Short: "Delete messages from the outbox",
		Long: `Purge deletes the messages with these numbers, all dead letters, all messages that wait, or both. They
are never sent.

` + exitCodes,
		Example:           "  postbus outbox purge 17 18\n  postbus outbox purge --dead",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			if (len(args) > 0) == (dead || waiting) {
				return usageErrorf("either numbers of messages, or --dead, --waiting or both are needed")
			}
			selected, err := numbered(args)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				selected = func(e outbox.Entry) bool { return e.Dead != nil && dead || e.Dead == nil && waiting }
			}
			return a.withOutbox(*file, func(f *outbox.File) error {
				n, err := f.Purge(selected)
				return a.reportCount(n, len(args), "message", "deleted", "postbus outbox list", err)
			})
		},
	}
	cmd.Flags().BoolVar(&dead, "dead", false, "all dead letters")
	cmd.Flags().BoolVar(&waiting, "waiting", false, "all messages that wait to be sent")
	return cmd
}

// numbered selects the entries with these numbers, or all if there are none.
func numbered(args []string) (func(outbox.Entry) bool, error) {
	if len(args) == 0 {
		return nil, nil
	}
	numbers := make(map[uint64]bool)
	for _, arg := range args {
		number, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			return nil, usageErrorf("%q is not a number of a message; 'postbus outbox list' shows them", arg)
		}
		numbers[number] = true
	}
	return func(e outbox.Entry) bool { return numbers[e.Number] }, nil
}

// reportCount says how many messages something was done with. It is an error if that are
// less than were named.
func (a *app) reportCount(n, named int, what, done, list string, err error) error {
	if err != nil {
		return err
	}
	if n < named {
		err = fmt.Errorf("%d of the %d numbers are not there: '%s' shows those that are", named-n, named, list)
	}
	if n != 1 {
		what += "s"
	}
	_, written := fmt.Fprintf(a.stdout, "%d %s %s\n", n, what, done)
	return errors.Join(written, err)
}
