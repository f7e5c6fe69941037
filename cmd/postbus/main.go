// Command postbus publishes and receives messages, calls and offers services, over e-mail or
// NATS, joins the two, and runs servers of both for tests. Run "postbus demo" to see what that
// looks like, and "postbus help" for the rest.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end. From then on a signal kills the process,
	// as it would one that knows nothing of signals.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
