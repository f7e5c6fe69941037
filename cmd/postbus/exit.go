package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postbus/postbus/transport"
)

// The exit codes. They are part of the command line's interface: scripts rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitTimeout     = 3
	exitErrorAnswer = 4
	exitNobody      = 5
)

// exitCodes explains the codes in the help of the command itself.
const exitCodes = `Exit codes:
  0  done, also when Ctrl-C ended a command that runs until then
  1  failed
  2  wrong usage
  3  timeout: no message or answer in time
  4  the other side answered with an error
  5  undeliverable, or nobody serves that name`

// usageError is an error in the way the command was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	var (
		usage  *usageError
		remote *transport.RemoteError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), errors.Is(err, transport.ErrInvalidName), errors.Is(err, transport.ErrInvalidHeader), errors.Is(err, transport.ErrInvalidFilename):
		return exitUsage
	case errors.As(err, &remote):
		return exitErrorAnswer
	case errors.Is(err, transport.ErrUndeliverable), errors.Is(err, transport.ErrNoResponder):
		return exitNobody
	case errors.Is(err, transport.ErrTimeout):
		return exitTimeout
	}
	return exitFailed
}

// report tells the user what went wrong, and what to do where that is known. command is
// the path of the command that was called, for the pointer to its help.
func report(w io.Writer, command string, err error) {
	switch {
	case err == nil:
	case exitCode(err) == exitUsage:
		fmt.Fprintf(w, "postbus: %v\nRun '%s --help' for usage.\n", err, command)
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(w, "postbus: interrupted: %v\n", err)
	default:
		fmt.Fprintf(w, "postbus: %v\n", err)
	}
	var missing *missingConfigError
	if errors.As(err, &missing) {
		fmt.Fprint(w, missingConfigHint)
	}
}

// missingConfigError is the error of a configuration file that is not there.
type missingConfigError struct{ err error }

func (e *missingConfigError) Error() string { return e.err.Error() }
func (e *missingConfigError) Unwrap() error { return e.err }

const missingConfigHint = `To try postbus without a mail account, run 'postbus mailserver --write .' in a terminal of its
own, and in this one 'export POSTBUS_CONFIG=email-robot.yml'. 'postbus help' tells where the
configuration file is looked for.
`
