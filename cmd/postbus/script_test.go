package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postbus": main})
}

// TestScripts runs the command as users do: as processes, over the mail server that
// "postbus mailserver" starts. Besides testscript's own commands the scripts have
//
//	code N PROGRAM ARG...        run a program that must exit with N
//	start NAME PROGRAM ARG...    start a program in the background
//	await NAME REGEXP            wait until the program has written a matching line
//	interrupt NAME               press Ctrl-C
//	finish NAME N                wait for its end, which must be with exit code N
//
// finish puts what the program has written into the files NAME.out and NAME.err.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[daemonsKey{}] = make(map[string]*daemon)
			// With the race detector each process would sleep for a second as it exits.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":      exitsWith,
			"start":     start,
			"await":     await,
			"interrupt": interrupt,
			"finish":    finish,
		},
		RequireExplicitExec: true,
	})
}

// patience is the longest wait for anything. It is not what a test depends on.
const patience = 20 * time.Second

func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	if got := codeOf(ts, err); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, not %s", got, args[0])
	}
}

// codeOf returns the exit code that is in the error of a command's end; -1 is a signal.
func codeOf(ts *testscript.TestScript, err error) int {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if exit != nil {
		return exit.ExitCode()
	}
	return 0
}

type daemonsKey struct{}

// daemon is a program in the background, with what it has written so far.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended, with err
	err  error

	mu       sync.Mutex
	out, all bytes.Buffer
	errors   bytes.Buffer
	changed  chan struct{} // closed, and replaced, with every change
}

// stream is one of a daemon's outputs.
type stream struct {
	d    *daemon
	into *bytes.Buffer
}

// Write implements io.Writer.
func (s stream) Write(p []byte) (int, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.into.Write(p)
	s.d.all.Write(p)
	close(s.d.changed)
	s.d.changed = make(chan struct{})
	return len(p), nil
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM ARG...")
	}
	program, err := lookPath(ts, args[1])
	ts.Check(err)
	d := &daemon{cmd: exec.Command(program, args[2:]...), done: make(chan struct{}), changed: make(chan struct{})}
	d.cmd.Args[0] = args[1] // it tells the test binary which command it is
	d.cmd.Dir = ts.MkAbs(".")
	d.cmd.Env = environment(ts)
	d.cmd.Stdout, d.cmd.Stderr = stream{d, &d.out}, stream{d, &d.errors}
	d.cmd.WaitDelay = time.Second
	ts.Check(d.cmd.Start())
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	daemons(ts)[args[0]] = d
	ts.Defer(func() {
		_ = d.cmd.Process.Kill() // it may have ended
		<-d.done
	})
}

func daemons(ts *testscript.TestScript) map[string]*daemon {
	return ts.Value(daemonsKey{}).(map[string]*daemon)
}

// lookPath finds a program as the script does, whose PATH is not the test's.
func lookPath(ts *testscript.TestScript, program string) (string, error) {
	for _, dir := range regexp.MustCompile("[^:]+").FindAllString(ts.Getenv("PATH"), -1) {
		if path, err := exec.LookPath(dir + "/" + program); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// environment returns what the scripts set of the environment of a program.
func environment(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "POSTBUS_CONFIG", "EMAIL_CONFIG_FILE", "GORACE", "GOCOVERDIR"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func get(ts *testscript.TestScript, name string) *daemon {
	d := daemons(ts)[name]
	if d == nil {
		ts.Fatalf("%s was not started", name)
	}
	return d
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await NAME REGEXP")
	}
	d := get(ts, args[0])
	wanted, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	timeout := time.After(patience)
	for {
		d.mu.Lock()
		all, changed := d.all.String(), d.changed
		d.mu.Unlock()
		if wanted.MatchString(all) {
			return
		}
		select {
		case <-changed:
		case <-d.done:
			d.mu.Lock()
			all = d.all.String()
			d.mu.Unlock()
			if !wanted.MatchString(all) {
				ts.Fatalf("%s has ended (%v) without it:\n%s", args[0], d.err, all)
			}
			return
		case <-timeout:
			ts.Fatalf("%s has not written it in %v:\n%s", args[0], patience, all)
		}
	}
}

func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: interrupt NAME")
	}
	ts.Check(get(ts, args[0]).cmd.Process.Signal(syscall.SIGINT))
}

func finish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: finish NAME N")
	}
	d := get(ts, args[0])
	select {
	case <-d.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended in %v:\n%s", args[0], patience, d.all.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".out"), d.out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), d.errors.Bytes(), 0o600))
	if got := codeOf(ts, d.err); strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s has ended with exit code %d, not %s:\n%s", args[0], got, args[1], d.all.String())
	}
}
