package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// maxErrorText is how much of a failed command's stderr is answered.
const maxErrorText = 4096

// execute answers a request with a command.
func (a *app) execute(ctx context.Context, command string, request *transport.Message, limit int) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdout := &boundedBuffer{limit: limit, full: func() { cancel(transport.ErrTooLarge) }}
	stderr := &boundedBuffer{limit: min(maxErrorText, limit)} // the text of an error is a body, too

	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(os.Environ(),
		"POSTBUS_NAME="+request.Name, "POSTBUS_FROM="+request.From, "POSTBUS_MESSAGE_ID="+request.ID.String())
	cmd.Stdin = bytes.NewReader(request.Body)
	cmd.Stdout = stdout
	cmd.Stderr = teeWriter{stderr, a.stderr}
	isolate(cmd)
	// Something the command has started may have left its group and hold stdout open.
	cmd.WaitDelay = time.Second

	started := time.Now()
	err := cmd.Run()
	log := a.logger.With("name", request.Name, "message_id", request.ID.String(), "took", time.Since(started))
	var exit *exec.ExitError
	switch {
	case err == nil && !stdout.overflowed:
		log.Debug("command has answered", "bytes", len(stdout.bytes()))
		return stdout.bytes(), nil
	case ctx.Err() != nil:
		log.Warn("command was killed", "reason", context.Cause(ctx))
		return nil, killedError(ctx, limit)
	case errors.As(err, &exit):
		log.Info("command failed", "exit", exit.String())
		return nil, &transport.RemoteError{Code: service.CodeError, Text: stderr.text(exit.String())}
	default:
		log.Error("command could not be run", "error", err)
		return nil, fmt.Errorf("run the command: %w", err)
	}
}

// killedError says why a command was killed whose context has ended.
func killedError(ctx context.Context, limit int) error {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, transport.ErrTooLarge):
		return fmt.Errorf("the command's output has more than %d bytes: %w", limit, cause)
	case errors.Is(cause, context.DeadlineExceeded):
		return fmt.Errorf("the command did not end by the deadline: %w", cause)
	}
	return fmt.Errorf("the server was shut down before the command ended: %w", cause)
}

// boundedBuffer keeps the first bytes that are written to it, up to a limit. It does not
// embed its buffer, whose ReadFrom knows no limit.
type boundedBuffer struct {
	buffer     bytes.Buffer
	limit      int
	overflowed bool
	full       func() // called when there is more than the limit; may be nil
}

// Write implements io.Writer. It takes everything: a pipe that nobody reads would stop
// the command.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	room := b.limit - b.buffer.Len()
	if len(p) <= room {
		return b.buffer.Write(p)
	}
	b.buffer.Write(p[:room])
	b.overflowed = true
	if b.full != nil {
		b.full()
	}
	return len(p), nil
}

func (b *boundedBuffer) bytes() []byte { return b.buffer.Bytes() }

// text returns what was written as the text of an error, or instead if it is blank.
func (b *boundedBuffer) text(instead string) string {
	text := strings.TrimSpace(strings.ToValidUTF8(b.buffer.String(), "\uFFFD"))
	if text == "" {
		return instead
	}
	return text
}

// teeWriter writes to both, and fails for neither: a command does not fail because
// nobody can read its complaints.
type teeWriter struct{ kept, shown io.Writer }

// Write implements io.Writer.
func (t teeWriter) Write(p []byte) (int, error) {
	_, _ = t.kept.Write(p)
	_, _ = t.shown.Write(p)
	return len(p), nil
}
