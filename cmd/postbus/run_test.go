package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// inProcess is a configuration with which all commands of the process hear each other.
const inProcess = `email:
  intraprocess: true
  user: {url-smtp: localhost, url-imap: localhost, username: robot@localhost.test, password: robot}
limits: {max-body: 1000}
`

// result is what a command has left behind.
type result struct {
	code           int
	stdout, stderr string
}

// command is a command that runs in this process.
type command struct {
	interrupt context.CancelFunc
	done      chan result
	stdout    *watched
	stderr    *watched
}

// watched is a buffer that can be waited for.
type watched struct {
	mu      sync.Mutex
	buffer  bytes.Buffer
	changed chan struct{}
}

func newWatched() *watched { return &watched{changed: make(chan struct{})} }

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
	return w.buffer.Write(p)
}

// await waits until text has been written.
func (w *watched) await(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		w.mu.Lock()
		got, changed := w.buffer.String(), w.changed
		w.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waiting for %q, got:\n%s", text, got)
		}
	}
}

// startCommand runs a command in a goroutine; its configuration is inProcess.
func startCommand(t *testing.T, stdin io.Reader, args ...string) *command {
	t.Helper()
	config := filepath.Join(t.TempDir(), "email.yml")
	if err := os.WriteFile(config, []byte(inProcess), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{interrupt: cancel, done: make(chan result, 1), stdout: newWatched(), stderr: newWatched()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code := run(ctx, append([]string{"--config", config}, args...), stdin, c.stdout, c.stderr)
		c.done <- result{code, c.stdout.buffer.String(), c.stderr.buffer.String()}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return c
}

// runCommand runs a command to its end.
func runCommand(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return <-startCommand(t, strings.NewReader(stdin), args...).done
}

func TestPubReachesEcho(t *testing.T) {
	echo := startCommand(t, nil, "topic", "echo", "-n", "3", "/in_process/chatter")
	echo.stderr.await(t, "listening on /in_process/chatter as ")
	for _, args := range [][]string{{"one"}, {"-"}, {}} {
		r := runCommand(t, "t\x1bwo", append([]string{"topic", "pub", "/in_process/chatter"}, args...)...)
		if r != (result{}) {
			t.Errorf("pub %q: %+v", args, r)
		}
	}
	if r := <-echo.done; r.code != exitDone || r.stdout != "one\n\"t\\x1bwo\"\n\n" {
		t.Errorf("echo: %+v", r)
	}
}

func TestInterruptedEchoIsDone(t *testing.T) {
	echo := startCommand(t, nil, "topic", "echo", "--timeout", "1h", "/in_process/silence")
	echo.stderr.await(t, "listening")
	echo.interrupt()
	if r := <-echo.done; r.code != exitDone || r.stdout != "" || strings.Contains(r.stderr, "postbus:") {
		t.Errorf("%+v", r)
	}
}

// TestOutlasting has a context end that something under way may outlast for a while.
func TestOutlasting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		sending, cancel := outlasting(ctx)
		defer cancel()
		time.Sleep(time.Hour)
		interrupt()
		interrupted := time.Now()
		<-sending.Done()
		if got := time.Since(interrupted); got != drainTimeout {
			t.Errorf("it ended after %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		sending, cancel := outlasting(ctx)
		interrupt()
		synctest.Wait()
		if sending.Err() != nil {
			t.Error("it ended at once")
		}
		cancel() // and nothing is left running, or synctest says so
	})
}

func TestPubLimitsStdin(t *testing.T) {
	if r := runCommand(t, strings.Repeat("x", 1000), "topic", "pub", "/in_process/size", "-"); r.code != exitDone {
		t.Errorf("1000 bytes: %+v", r)
	}
	if r := runCommand(t, strings.Repeat("x", 1001), "topic", "pub", "/in_process/size", "-"); r.code != exitFailed || !strings.Contains(r.stderr, "message too large") {
		t.Errorf("1001 bytes: %+v", r)
	}
}

func TestCallWithoutServer(t *testing.T) {
	if r := runCommand(t, "", "service", "call", "/in_process/nobody"); r.code != exitNobody || !strings.Contains(r.stderr, "no responder") {
		t.Errorf("%+v", r)
	}
}

func TestCalls(t *testing.T) {
	for _, test := range []struct {
		name, exec, request string
		want                result
	}{
		{"bytes", "cat", "\x00\xff\r\n", result{exitDone, "\x00\xff\r\n", ""}},
		{"nothing", "true", "not read by the command", result{}},
		{"largest", "head -c 1000 /dev/zero", "", result{exitDone, strings.Repeat("\x00", 1000), ""}},
		{"too_large", "yes", "", result{exitErrorAnswer, "", "the command's output has more than 1000 bytes"}},
		{"silent_failure", "exit 7", "", result{exitErrorAnswer, "", "remote error 500: exit status 7"}},
		{"loud_failure", "echo no fuel >&2; false", "", result{exitErrorAnswer, "", "remote error 500: no fuel"}},
		{"unknown", "no-such-program", "", result{exitErrorAnswer, "", "no-such-program"}},
		{"killed", "kill -9 $$", "", result{exitErrorAnswer, "", "signal: killed"}},
		{"environment", `printf "$POSTBUS_NAME $POSTBUS_FROM"`, "", result{exitDone, "/in_process/environment 2@intraprocess", ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := "/in_process/" + test.name
			serve := startCommand(t, nil, "service", "serve", name, "--exec", test.exec)
			serve.stderr.await(t, "serving "+name)
			got := runCommand(t, test.request, "service", "call", name, "-")
			if test.name == "environment" {
				got.stdout = strings.NewReplacer(strings.TrimPrefix(got.stdout, name+" "), "2@intraprocess").Replace(got.stdout)
			}
			if got.code != test.want.code || got.stdout != test.want.stdout || !strings.Contains(got.stderr, test.want.stderr) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			serve.interrupt()
			if r := <-serve.done; r.code != exitDone || !strings.Contains(r.stderr, "serving") {
				t.Errorf("serve: %+v", r)
			}
		})
	}
}

// TestServeLeavesNoCommandBehind ends a server whose command does not end in time.
func TestServeLeavesNoCommandBehind(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	stderr := newWatched()
	a := &app{stderr: stderr, drain: 50 * time.Millisecond, logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() {
		served <- a.serve(ctx, email.Config{Intraprocess: true}, "/in_process/endless", `echo "pid $$." >&2; exec sleep 1000`, service.Concurrency(1))
	}()
	stderr.await(t, "serving")
	call := startCommand(t, nil, "service", "call", "/in_process/endless")
	stderr.await(t, ".\n")
	interrupt()
	if err := <-served; !errors.Is(err, context.DeadlineExceeded) || exitCode(err) != exitFailed {
		t.Errorf("%v", err)
	}
	_, pid, _ := strings.Cut(stderr.buffer.String(), "pid ")
	pid, _, _ = strings.Cut(pid, ".")
	if err := exec.Command("sh", "-c", "kill -0 "+pid).Run(); err == nil {
		t.Errorf("the command, process %s, is still there", pid)
	}
	call.interrupt()
	if r := <-call.done; r.code != exitFailed {
		t.Errorf("call: %+v", r)
	}
}

func TestErrorTextIsBounded(t *testing.T) {
	serve := startCommand(t, nil, "service", "serve", "/in_process/talkative", "--exec", "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1")
	serve.stderr.await(t, "serving")
	r := runCommand(t, "", "service", "call", "/in_process/talkative")
	// The limit of the node is less than that of the text.
	if r.code != exitErrorAnswer || len(r.stderr) > 1200 || !strings.Contains(r.stderr, "xxx") {
		t.Errorf("code %d, %d bytes: %.200s", r.code, len(r.stderr), r.stderr)
	}
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{errors.New("disk full"), exitFailed},
		{context.Canceled, exitFailed},
		{email.ErrNoConfig, exitFailed},
		{transport.ErrRefused, exitFailed},
		{&usageError{errors.New("unknown flag")}, exitUsage},
		{transport.ValidateName("a b"), exitUsage},
		{transport.Header{{Name: "a b"}}.Validate(), exitUsage},
		{transport.ErrTimeout, exitTimeout},
		{&transport.RemoteError{Code: 500}, exitErrorAnswer},
		{transport.ErrUndeliverable, exitNobody},
		{&transport.SendError{Err: transport.ErrUndeliverable}, exitNobody},
		{transport.ErrNoResponder, exitNobody},
	} {
		for _, err := range []error{test.err, errors.Join(test.err, nil)} {
			if err == nil && test.err != nil {
				continue
			}
			if got := exitCode(err); got != test.want {
				t.Errorf("%v: %d, want %d", err, got, test.want)
			}
		}
		if test.err != nil {
			if got := exitCode(fmt.Errorf("call: %w", test.err)); got != test.want {
				t.Errorf("wrapped %v: %d, want %d", test.err, got, test.want)
			}
		}
	}
}

func TestDisplayable(t *testing.T) {
	for body, want := range map[string]string{
		"":                  "",
		"hello\n\tworld\n":  "hello\n\tworld\n",
		"Grüße\u00a0日本 🤖":   "Grüße\u00a0日本 🤖",
		"\xff":              `"\xff"`,
		"\x1b[2J":           `"\x1b[2J"`,
		"a\r\nb":            `"a\r\nb"`,
		"\u202egnp.exe":     `"\u202egnp.exe"`,
		"\u009b31m":         `"\u009b31m"`,
		"nul \x00 inside\n": `"nul \x00 inside\n"`,
	} {
		if got := displayable([]byte(body)); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}
