// Package worker has the programs that the torture harness runs, and kills: a publisher, a
// subscription, a client, a server. They use nothing but what postbus offers to everybody, and
// write into a history what they do.
package worker

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
	"github.com/postbus/postbus/transport/outbox"
)

// Role says which program a worker is.
type Role string

// The roles.
const (
	Publisher    Role = "publisher"
	Subscription Role = "subscription"
	Client       Role = "client"
	Server       Role = "server"
)

// Account is how a worker reaches the servers.
type Account struct {
	// Mail is a mail account. NATS, if it is not nil, are servers of NATS, which are used instead.
	Mail email.Config
	NATS *nats.Config
}

// Config is all that a worker is told.
type Config struct {
	Role Role
	// Process is the name of this process in the history, History the file.
	Process, History string
	Account
	// Outbox is the file of its outbox, empty for none.
	Outbox string
	// Topic is the name of the topic or service.
	Topic string

	// Mode is history.Plain, Live, Durable or Group; Receiver the name in the history, and of
	// the durable subscription or group.
	Mode, Receiver string
	// Lease, GapWait and Keep are the options of package pubsub of these names; zero means none.
	Lease, GapWait time.Duration
	Keep           int
	// Work is how long the handling of a message takes at most.
	Work time.Duration
	// NackEvery has about one in so many messages given back; zero none.
	NackEvery int

	// Count is how many messages or calls there are to be, and Every how long from one to the
	// next. Timeout bounds each of them.
	Count          uint64
	Every, Timeout time.Duration
	// Parallel is how many publishers there are, which share the Count; zero means one.
	Parallel int
	// MaxBody is the size of the largest body.
	MaxBody int
	// Seed makes bodies, and what is done at random.
	Seed uint64
}

// closing bounds the orderly end of a worker.
const closing = 20 * time.Second

// Run is a worker until its work is done and ctx ends. wrap, if it is not nil, may put
// something between the carrier and the node.
func Run(ctx context.Context, c Config, logger *slog.Logger, wrap func(transport.Carrier) transport.Carrier) (err error) {
	log, err := history.OpenLog(c.History, c.Process)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	node, err := open(ctx, c, logger, wrap)
	if ctx.Err() != nil && err != nil {
		return nil // it was to end before it had begun
	}
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		err = errors.Join(err, node.Close(ending))
	}()
	w := &worker{Config: c, node: node, log: log, random: newRandom(c.Seed, c.Process)}
	switch c.Role {
	case Publisher:
		return w.publish(ctx)
	case Subscription:
		return w.subscribe(ctx)
	case Client:
		return w.call(ctx)
	case Server:
		return w.serve(ctx)
	}
	return fmt.Errorf("worker: no such role: %q", c.Role)
}

// open opens the node, as often as it takes: the servers may be down.
func open(ctx context.Context, c Config, logger *slog.Logger, wrap func(transport.Carrier) transport.Carrier) (*transport.Node, error) {
	for failed := 1; ; failed++ {
		node, err := openOnce(ctx, c, logger, wrap)
		if err == nil || errors.Is(err, transport.ErrInUse) {
			return node, err
		}
		logger.Debug("the node can't be opened", "error", err)
		if !backoff.Sleep(ctx, min(backoff.Delay(failed), time.Second)) {
			return nil, ctx.Err()
		}
	}
}

func openOnce(ctx context.Context, c Config, logger *slog.Logger, wrap func(transport.Carrier) transport.Carrier) (*transport.Node, error) {
	carrier, err := c.carrier(ctx, logger)
	if err != nil {
		return nil, err
	}
	if wrap != nil {
		carrier = wrap(carrier)
	}
	if c.Outbox != "" {
		options := outbox.Options{File: c.Outbox, Logger: logger}
		if c.Mail.Batch.On {
			options.Batch = cmp.Or(c.Mail.Batch.Messages, email.DefaultBatchMessages) // as postbus.Open does
		}
		if carrier, err = outbox.Open(carrier, options); err != nil {
			return nil, err
		}
	}
	return postbus.New(carrier, &transport.Options{Logger: logger})
}

func (a Account) carrier(ctx context.Context, logger *slog.Logger) (transport.Carrier, error) {
	if a.NATS != nil {
		return nats.Open(ctx, *a.NATS, nats.Options{Logger: logger})
	}
	return email.Open(ctx, a.Mail, email.Options{Logger: logger})
}

// Main is a worker as a program: it reads its configuration, a line of JSON, from stdin, and ends
// in order when stdin does, which it also does when whoever has started it is gone. It
// returns the exit code. Ctrl-C is for whoever has started it.
func Main(stdin io.Reader, stderr io.Writer, wrap func(transport.Carrier) transport.Carrier) int {
	signal.Ignore(os.Interrupt)
	lines := bufio.NewReader(stdin)
	line, err := lines.ReadBytes('\n')
	var c Config
	if err == nil {
		err = json.Unmarshal(line, &c)
	}
	if err == nil {
		ctx, stop := context.WithCancel(context.Background())
		go func() {
			_, _ = io.Copy(io.Discard, lines) // whatever ends it ends the worker
			stop()
		}()
		logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelInfo})).With("process", c.Process)
		err = Run(ctx, c, logger, wrap)
	}
	if err != nil {
		fmt.Fprintf(stderr, "worker %s: %v\n", c.Process, err)
		return 1
	}
	return 0
}

// worker is a running worker.
type worker struct {
	Config
	node   *transport.Node
	log    *history.Log
	random *random
}
