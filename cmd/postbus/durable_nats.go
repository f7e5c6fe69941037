package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// The errors of what can't be done here with what a NATS server keeps.
var (
	errKeptByNATS = errors.New("with NATS the server keeps durable names and groups, as consumers of its streams: see 'nats consumer'. Dead letters are shown by 'postbus durable list --dead', and deleted by 'purge'")
	errNoRetry    = errors.New("with NATS a dead letter can't be delivered once more: a stream gives a message to all who listen, not to one durable name alone. What is in the letter STREAM/NUMBER is shown by 'nats stream get STREAM_DEAD NUMBER', and can be published anew")
)

// onNATS returns the configuration if it says NATS, unless a state file is named.
func (a *app) onNATS(file string) (config email.Config, ok bool, err error) {
	if file != "" {
		return config, false, nil
	}
	config, err = a.config()
	return config, len(config.NATS.Servers) > 0, err
}

// withNATS opens the NATS carrier for f.
func (a *app) withNATS(ctx context.Context, config email.Config, f func(context.Context, *nats.Carrier) error) error {
	config.Outbox = email.Outbox{} // which a program may have open
	return a.withNode(ctx, config, func(node *transport.Node) error {
		carrier, ok := node.Carrier().(*nats.Carrier)
		if !ok {
			return fmt.Errorf("the carrier is %T", node.Carrier())
		}
		return f(ctx, carrier)
	})
}

// natsLetters returns the dead letters of a carrier as "durable list --dead" shows them.
func natsLetters(ctx context.Context, carrier *nats.Carrier) iter.Seq2[deadLetterJSON, error] {
	return func(yield func(deadLetterJSON, error) bool) {
		for letter, err := range carrier.DeadLetters(ctx) {
			j := deadLetterJSON{Letter: natsLetterName(letter), For: letter.For, Died: letter.Time.UTC(), Reason: letter.Reason, Attempts: letter.Attempts}
			j.describe(letter.Message)
			if !yield(j, err) {
				return
			}
		}
	}
}

func natsLetterName(l nats.DeadLetter) string { return fmt.Sprintf("%s/%d", l.Stream, l.Number) }

// natsLetterFor returns the durable name or group of a dead letter, without the word that says which it is.
func natsLetterFor(l nats.DeadLetter) string {
	if at := strings.IndexByte(l.For, '"'); at >= 0 {
		if name, err := strconv.Unquote(l.For[at:]); err == nil {
			return name
		}
	}
	return l.For
}

// purgeNATS deletes the dead letters that are wanted (see lettersOf): those of a durable name or group, or of a stream, or
// single ones.
func (a *app) purgeNATS(ctx context.Context, config email.Config, wanted map[string]bool, letters int) error {
	var selected func(nats.DeadLetter) bool
	if wanted != nil {
		selected = func(l nats.DeadLetter) bool {
			return wanted[natsLetterFor(l)] || wanted[l.Stream] || wanted[natsLetterName(l)]
		}
	}
	return a.withNATS(ctx, config, func(ctx context.Context, carrier *nats.Carrier) error {
		n, err := carrier.PurgeDeadLetters(ctx, selected)
		return a.reportCount(n, letters, "dead letter", "deleted", "postbus durable list --dead", err)
	})
}
