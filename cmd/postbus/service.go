package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

func (a *app) serviceCommand() *cobra.Command {
	return group("service", "Call services and offer them",
		"A service is a name, such as /add_two_ints, that answers requests: each gets one answer, a result or\nan error.",
		"  postbus service serve /upper --exec 'tr a-z A-Z'\n  postbus service call /upper hello",
		a.serviceCallCommand(), a.serviceServeCommand())
}

func (a *app) serviceCallCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call NAME [PAYLOAD | -]",
		Short: "Call a service and print its answer",
		Long: `Call sends PAYLOAD as a request to the service NAME, byte for byte, and writes the answer to stdout,
also byte for byte; only on a terminal is an answer that is not text written as a quoted string, and a
newline added. The payload "-" is all of stdin, and without one the request is empty.

The time of --timeout includes that for connecting to the mail servers or NATS. It travels with the request:
servers do not work on a request that nobody waits for any more.

` + exitCodes + `

The text of an error answer is written to stderr.`,
		Example: `  postbus service call /upper hello
  postbus service call /convert --timeout 5m - < in.png > out.jpg
  postbus service call /add_two_ints '{"a": 2, "b": 3}'`,
		Args:              named(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := transport.ValidateName(args[0]); err != nil {
				return err
			}
			if timeout <= 0 {
				return usageErrorf("--timeout: %v is not a time to wait", timeout)
			}
			config, err := a.config()
			if err != nil {
				return err
			}
			request, err := a.payload(args[1:], maxBody(config))
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return a.call(ctx, config, args[0], request)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", service.DefaultTimeout, "wait this `TIME` for the answer, such as 30s or 5m")
	noValueCompletion(cmd, "timeout")
	return cmd
}

func (a *app) call(ctx context.Context, config email.Config, name string, request []byte) error {
	return a.withNode(ctx, config, func(node *transport.Node) error {
		client, err := service.NewClient(node, name)
		if err != nil {
			return err
		}
		defer client.Close()
		answer, err := client.Call(ctx, request)
		if err != nil {
			return err
		}
		if isTerminal(a.stdout) {
			return writeText(a.stdout, answer)
		}
		_, err = a.stdout.Write(answer.Body)
		return err
	})
}

func (a *app) serviceServeCommand() *cobra.Command {
	var command string
	var concurrency int
	var memory remembering
	cmd := &cobra.Command{
		Use:   "serve NAME --exec COMMAND",
		Short: "Answer the requests of a service with a command",
		Long: `Serve runs COMMAND with "sh -c" for each request to the service NAME: the request is its stdin, and
what it writes to stdout is the answer, both byte for byte. If it exits with another code than 0 the
answer is an error with what it wrote to stderr. What it writes to stderr is also written to that of
serve. It finds in its environment

  POSTBUS_NAME         the name that was called (NAME can be a pattern, as in 'topic echo')
  POSTBUS_FROM         the address of the caller
  POSTBUS_MESSAGE_ID   the Message-ID of the request

A command that is still running at the deadline of its request is killed, with all that it has started.
When it serves, serve says so on stderr. Ctrl-C ends it: requests that have arrived are still answered,
for ten seconds at most. A second Ctrl-C does not wait for them.

With --durable serve remembers which requests it has answered, in the file that the configuration names
as "state": the next run with the same name also answers those that have come since and those that were
not answered. With --group each request is answered by one of all that use the name of the group, service and mailbox;
what one has taken and not answered goes to another.

` + exitCodes,
		Example: `  postbus service serve /upper --exec 'tr a-z A-Z'
  postbus service serve /sum --exec 'jq -c "{sum: (.a + .b)}"'
  postbus service serve '/robots/*/reboot' --exec './reboot.sh "$POSTBUS_NAME"' --concurrency 1
  postbus service serve /render --exec ./render --group renderers`,
		Args:              named(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := transport.ValidatePattern(args[0]); err != nil {
				return err
			}
			if command == "" {
				return usageErrorf("--exec is required: the command that answers")
			}
			if concurrency < 1 {
				return usageErrorf("--concurrency: %d is less than 1", concurrency)
			}
			if err := memory.check(); err != nil {
				return err
			}
			config, err := a.config()
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), config, args[0], command,
				service.Concurrency(concurrency), service.Durable(memory.durable), service.Group(memory.group))
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&command, "exec", "", "the `COMMAND` that answers a request")
	flags.IntVar(&concurrency, "concurrency", runtime.NumCPU(), "run at most `N` commands at a time")
	memory.addFlags(cmd)
	noValueCompletion(cmd, "concurrency")
	return cmd
}

func (a *app) serve(ctx context.Context, config email.Config, name, command string, options ...service.ServerOption) error {
	// Held for reading by every command under way. When the node has no more time for
	// them they are killed, which must have happened before this process ends.
	var commands sync.RWMutex
	defer commands.Unlock()
	defer commands.Lock()
	return a.withNode(ctx, config, func(node *transport.Node) error {
		server, err := service.NewServer(node, name, options...)
		if err != nil {
			return err
		}
		// The node closes the server: it lets commands end that are under way.
		limit := maxBody(config)
		err = server.Handle(func(ctx context.Context, request *transport.Message) ([]byte, error) {
			commands.RLock()
			defer commands.RUnlock()
			return a.execute(ctx, command, request, limit)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "serving %s as %s\n", name, node.Address())
		<-ctx.Done()
		return nil
	})
}
