package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

func (a *app) topicCommand() *cobra.Command {
	return group("topic", "Publish to topics and listen on them",
		"A topic is a name, such as /chatter, that anybody can publish messages to. All who listen on it at\nthe time get them.",
		"  postbus topic echo /chatter\n  postbus topic pub /chatter hello",
		a.topicPubCommand(), a.topicEchoCommand())
}

// publication is what "topic pub" is to publish, and how often.
type publication struct {
	rate    float64
	count   int
	headers []string

	body    []byte
	options []transport.MessageOption
}

func (a *app) topicPubCommand() *cobra.Command {
	p := &publication{}
	cmd := &cobra.Command{
		Use:   "pub NAME [PAYLOAD | -]",
		Short: "Publish messages to a topic",
		Long: `Pub publishes PAYLOAD to the topic NAME: byte for byte, without a newline at its end. The payload
"-" is all of stdin, and without one the message is empty. What begins with a dash goes behind
"--", as in 'postbus topic pub /level -- -3'.

It returns when the mail server has taken the message, whether anybody listens or not; over NATS
when the stream that keeps the name has, or without one when the message is out. With
--rate it goes on until --count messages are published or Ctrl-C is pressed; a message that is
being sent then is still sent. All messages of a run come from one publisher, numbered from 1.

` + exitCodes,
		Example: `  postbus topic pub /chatter hello
  postbus topic pub /chatter --rate 2 --count 10 'hello again'
  postbus topic pub /camera/image --header 'Camera: left' - < image.jpg
  postbus topic pub /chatter hello --to friend@example.org`,
		Args:              named(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("count") && p.rate == 0 {
				p.count = 1
			}
			if err := p.check(args[0], cmd.Flags().Changed("rate")); err != nil {
				return err
			}
			config, err := a.config()
			if err != nil {
				return err
			}
			if p.body, err = a.payload(args[1:], maxBody(config)); err != nil {
				return err
			}
			return a.publish(cmd.Context(), config, args[0], p)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.Float64Var(&p.rate, "rate", 0, "publish again and again, `HZ` times a second")
	flags.IntVar(&p.count, "count", 0, "publish `N` messages, 0 for no end (default 1, or 0 with --rate)")
	flags.StringArrayVar(&p.headers, "header", nil, "add the header field `'NAME: VALUE'` (repeatable)")
	noValueCompletion(cmd, "rate", "count", "header")
	return cmd
}

// noValueCompletion keeps the shell from offering files for values that are none.
func noValueCompletion(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions) // the flag exists
	}
}

// check checks what can be known to be wrong before anything is opened.
func (p *publication) check(name string, rated bool) error {
	if err := transport.ValidateName(name); err != nil {
		return err
	}
	if rated && (!(p.rate > 0) || math.IsInf(p.rate, 0) || 1/p.rate > math.MaxInt32) {
		return usageErrorf("--rate: %v messages a second is not a rate", p.rate)
	}
	if p.count < 0 {
		return usageErrorf("--count: %d is negative", p.count)
	}
	var header transport.Header
	for _, field := range p.headers {
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return usageErrorf("--header: %q has no colon; the form is 'Name: value'", field)
		}
		header.Add(name, strings.Trim(value, " "))
	}
	if err := header.Validate(); err != nil {
		return &usageError{fmt.Errorf("--header: %w", err)}
	}
	for _, f := range header {
		p.options = append(p.options, transport.WithHeader(f.Name, f.Value))
	}
	return nil
}

// payload returns the body of a message: the argument, or stdin if that is "-".
func (a *app) payload(args []string, limit int) ([]byte, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if args[0] != "-" {
		return []byte(args[0]), nil
	}
	body, err := io.ReadAll(io.LimitReader(a.stdin, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("stdin: %w: more than %d bytes", transport.ErrTooLarge, limit)
	}
	return body, nil
}

func (a *app) publish(ctx context.Context, config email.Config, name string, p *publication) error {
	return a.withNode(ctx, config, func(node *transport.Node) error {
		publisher, err := pubsub.NewPublisher(node, name)
		if err != nil {
			return err
		}
		return p.run(ctx, publisher)
	})
}

// run publishes at the given pace until it has published enough or ctx ends.
func (p *publication) run(ctx context.Context, publisher *pubsub.Publisher) error {
	sending, cancel := outlasting(ctx)
	defer cancel()
	var tick <-chan time.Time
	if p.rate > 0 {
		ticker := time.NewTicker(max(time.Duration(float64(time.Second)/p.rate), 1))
		defer ticker.Stop()
		tick = ticker.C
	}
	for n := 1; ctx.Err() == nil; n++ {
		if err := publisher.Publish(sending, p.body, p.options...); err != nil {
			return err
		}
		if n == p.count {
			return nil
		}
		if tick == nil {
			continue
		}
		select {
		case <-tick:
		case <-ctx.Done():
		}
	}
	return nil
}

// listener is how "topic echo" listens.
type listener struct {
	remembering
	last    int
	count   int
	timeout time.Duration
	json    bool
}

func (a *app) topicEchoCommand() *cobra.Command {
	l := &listener{}
	cmd := &cobra.Command{
		Use:   "echo NAME",
		Short: "Print the messages of a topic",
		Long: `Echo prints the messages that are published to the topic NAME from now on, until Ctrl-C. NAME can
be a pattern: a "*" stands for one part of a name, and a ">" at its end for one or more.

A message is printed as text, with a newline at its end if it has none. One that is not text, or
holds characters that could upset a terminal, is printed as a quoted string with escapes. With
--json each message is one JSON object on a line, with the members

  topic, body (or body_base64 if it is not UTF-8), content_type, header, publisher_gid,
  sequence, source_time, received_time, from, message_id

of which those that are not known are left out. When it listens, echo says so on stderr.

With --last the newest messages from before are printed first, as far as the mailbox has them. With
--durable echo remembers what it has printed, in the file that the configuration names as "state":
the next run with the same name begins with what has come since. With --group each message is printed by one
of all that use the name of the group, topic and mailbox; what one has taken and not printed goes
to another. Over NATS all three need a stream that keeps the topic (key "streams") instead of a mailbox and "state"; --group without
one shares the messages, and one that a member has taken when it dies is lost.

` + exitCodes,
		Example: `  postbus topic echo /chatter
  postbus topic echo -n 1 --timeout 30s /status
  postbus topic echo --json '/robots/*/status' | jq .body
  postbus topic echo --last 1 /map
  postbus topic echo --durable audit '/robots/>' >> audit.log
  postbus topic echo '>'                     # everything`,
		Args:              named(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := transport.ValidatePattern(args[0]); err != nil {
				return err
			}
			if l.count < 0 {
				return usageErrorf("--count: %d is negative", l.count)
			}
			if l.timeout < 0 {
				return usageErrorf("--timeout: %v is negative", l.timeout)
			}
			if l.last < 0 || l.last > transport.MaxLast {
				return usageErrorf("--last: %d is not one of 0 to %d", l.last, transport.MaxLast)
			}
			if err := l.check(); err != nil {
				return err
			}
			config, err := a.config()
			if err != nil {
				return err
			}
			return a.echo(cmd.Context(), config, args[0], l)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVarP(&l.count, "count", "n", 0, "stop after `N` messages, 0 for no end")
	flags.DurationVar(&l.timeout, "timeout", 0, "fail when no message comes for this `TIME`, such as 30s; 0 for no limit")
	flags.BoolVar(&l.json, "json", false, "print JSON objects, one on a line")
	flags.IntVar(&l.last, "last", 0, "begin with the newest `N` messages from before")
	l.addFlags(cmd)
	noValueCompletion(cmd, "count", "timeout", "last")
	return cmd
}

func (a *app) echo(ctx context.Context, config email.Config, name string, l *listener) error {
	return a.withNode(ctx, config, func(node *transport.Node) error {
		// A terminal or a pipe may be slower than the mailbox for a while.
		sub, err := pubsub.NewSubscription(node, name, pubsub.KeepAll(), pubsub.Last(l.last),
			pubsub.Durable(l.durable), pubsub.Group(l.group))
		if err != nil {
			return err
		}
		defer sub.Close()
		fmt.Fprintf(a.stderr, "listening on %s as %s\n", name, node.Address())
		return l.run(ctx, sub, a.stdout)
	})
}

// run prints messages until there are enough or ctx ends.
func (l *listener) run(ctx context.Context, sub *pubsub.Subscription, w io.Writer) error {
	write := writeText
	if l.json {
		write = writeJSON
	}
	for n := 0; l.count == 0 || n < l.count; n++ {
		d, err := l.next(ctx, sub)
		if d.Message == nil {
			return err
		}
		if err := write(w, d.Message); err != nil {
			d.Nack(-1, "not printed")
			return fmt.Errorf("write message: %w", err)
		}
		if err := d.Ack(); err != nil {
			return fmt.Errorf("message %s is printed, but may come again: %w", d.Message.ID, err)
		}
	}
	return nil
}

// next returns the next message, or none when there will be no more: without an error
// if ctx has ended and all that had arrived by then has been returned. What a durable name or a group has left comes
// again another time.
func (l *listener) next(ctx context.Context, sub *pubsub.Subscription) (transport.Delivery, error) {
	waiting := ctx
	if l.timeout > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, l.timeout)
		defer cancel()
	}
	d, err := sub.Take(waiting)
	if err == nil {
		return d, nil
	}
	if ctx.Err() != nil {
		if l.durable == "" && l.group == "" {
			d.Message, _ = sub.TryNext()
		}
		return d, nil
	}
	if errors.Is(err, transport.ErrTimeout) {
		return d, fmt.Errorf("no message on %s for %v: %w", sub.Name(), l.timeout, transport.ErrTimeout)
	}
	return d, err
}
