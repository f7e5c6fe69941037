package main

import (
	"github.com/spf13/cobra"

	"github.com/postbus/postbus/transport"
)

// remembering are the flags of a reader that goes on where another has ended.
type remembering struct{ durable, group string }

// addFlags adds the flags to a command that reads.
func (r *remembering) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.durable, "durable", "", "go on where the last run with this `NAME` has ended")
	cmd.Flags().StringVar(&r.group, "group", "", "share the work with all others of the group `NAME`")
	noValueCompletion(cmd, "durable", "group")
}

// check checks the flags.
func (r *remembering) check() error {
	if r.durable != "" && r.group != "" {
		return usageErrorf("--durable and --group: one of them; a group remembers by itself")
	}
	in := transport.Interest{Kind: transport.TopicMessage, Name: "x", Durable: r.durable, Group: r.group}
	if err := in.Validate(); err != nil {
		return &usageError{err}
	}
	return nil
}
