package main

import (
	"testing"
)

// pub publishes a message.
func pub(t *testing.T, topic, body string) {
	t.Helper()
	if r := runCommand(t, "", "topic", "pub", topic, body); r != (result{}) {
		t.Errorf("pub: %+v", r)
	}
}

// echoed checks what a command has printed.
func (c *command) echoed(t *testing.T, want string) {
	t.Helper()
	if r := <-c.done; r.code != exitDone || r.stdout != want {
		t.Errorf("%+v, want %q", r, want)
	}
}

func TestDurableEchoGoesOn(t *testing.T) {
	const topic = "/in_process/audit"
	echo := startCommand(t, nil, "topic", "echo", "-n", "1", "--durable", "audit", topic)
	echo.stderr.await(t, "listening")
	pub(t, topic, "one")
	echo.echoed(t, "one\n")
	pub(t, topic, "two")
	pub(t, topic, "three")
	startCommand(t, nil, "topic", "echo", "-n", "1", "--durable", "audit", topic).echoed(t, "two\n")
	echo = startCommand(t, nil, "topic", "echo", "--durable", "audit", topic)
	echo.stdout.await(t, "three")
	pub(t, topic, "four")
	echo.stdout.await(t, "four")
	second := runCommand(t, "", "topic", "echo", "--durable", "audit", topic)
	if second.code != exitFailed {
		t.Errorf("a second echo with the name: %+v", second)
	}
	echo.interrupt()
	echo.echoed(t, "three\nfour\n")
	if r := runCommand(t, "", "topic", "echo", "--timeout", "20ms", "--durable", "audit", topic); r.code != exitTimeout || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

func TestGroupOfEchoes(t *testing.T) {
	const topic = "/in_process/jobs"
	one := startCommand(t, nil, "topic", "echo", "-n", "1", "--group", "workers", topic)
	one.stderr.await(t, "listening")
	pub(t, topic, "first")
	one.echoed(t, "first\n")
	pub(t, topic, "second") // the group remembers
	startCommand(t, nil, "topic", "echo", "-n", "1", "--group", "workers", topic).echoed(t, "second\n")
}

func TestEchoOfTheLast(t *testing.T) {
	const topic = "/in_process/map"
	for _, body := range []string{"one", "two", "three"} {
		pub(t, topic, body)
	}
	startCommand(t, nil, "topic", "echo", "-n", "2", "--last", "2", topic).echoed(t, "two\nthree\n")
}

// A request that comes while the server is away is answered when it is back.
func TestDurableServerGoesOn(t *testing.T) {
	for _, flag := range []string{"--durable", "--group"} {
		name := "/in_process/away/" + flag[2:]
		serve := func() *command {
			c := startCommand(t, nil, "service", "serve", name, "--exec", "cat", flag, "away")
			c.stderr.await(t, "serving")
			return c
		}
		first := serve()
		first.interrupt()
		first.echoed(t, "")
		call := startCommand(t, nil, "service", "call", name, "hello")
		second := serve()
		call.echoed(t, "hello")
		second.interrupt()
		second.echoed(t, "")
	}
}
