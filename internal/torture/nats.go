package torture

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/torture/natsserver"
	"github.com/postbus/postbus/internal/torture/worker"
	"github.com/postbus/postbus/transport/nats"
)

// NATS is a NATS server with JetStream in a process of its own, whose streams are on disk.
type NATS struct {
	command, env []string
	config       natsserver.Config

	mu      sync.Mutex
	url     string
	process *exec.Cmd // nil while it is away
	stdin   io.Closer
}

var _ Server = (*NATS)(nil)

// natsPatience bounds the wait for a server to be ready, and to end.
const natsPatience = time.Minute

// StartNATS starts a server. The command line, with env added to its environment, is that of a process that
// calls natsserver.Main.
func StartNATS(command, env []string, config natsserver.Config) (*NATS, error) {
	n := &NATS{command: command, env: env, config: config}
	return n, n.start()
}

// Close ends the server in order.
func (n *NATS) Close() error { return n.stop() }

// Log returns what the server has logged.
func (n *NATS) Log() (string, error) {
	text, err := os.ReadFile(filepath.Join(n.config.Dir, natsserver.LogFile))
	return string(text), err
}

// Accounts implements Server. The messages of all runs are kept in a stream.
func (n *NATS) Accounts() (from, to worker.Account, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	account := worker.Account{NATS: &nats.Config{
		Servers: []string{n.url},
		Streams: []nats.Stream{{Name: "TORTURE", Names: []string{names + ">"}}},
	}}
	return account, account, nil
}

// Outages implements Server.
func (n *NATS) Outages() []Outage {
	return []Outage{{"nats-kill", n.kill, n.start}, {"nats-stop", n.stop, n.start}}
}

// start starts the server, unless it is there, on the port that it had before.
func (n *NATS) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil {
		return nil
	}
	cmd := exec.Command(n.command[0], n.command[1:]...)
	cmd.Env = append(os.Environ(), n.env...)
	var said strings.Builder
	cmd.Stderr = &said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	config, err := json.Marshal(n.config)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = stdin.Write(append(config, '\n'))
	late := time.AfterFunc(natsPatience, func() { _ = cmd.Process.Kill() }) // it may have ended
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		err = readErr
	}
	if !late.Stop() {
		err = fmt.Errorf("it was not ready within %v", natsPatience)
	}
	if err == nil {
		n.url = strings.TrimSpace(line)
		n.process, n.stdin = cmd, stdin
		n.config.Port, err = portOf(n.url)
		return err
	}
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()         // the state says it
	return fmt.Errorf("torture: the NATS server does not start: %w (%v): %s", err, cmd.ProcessState, said.String())
}

func portOf(address string) (int, error) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Port())
}

// kill ends the server as kill -9 does.
func (n *NATS) kill() error {
	return n.end(func() error { return n.process.Process.Kill() })
}

// stop ends the server in order.
func (n *NATS) stop() error {
	return n.end(func() error { return n.stdin.Close() })
}

// end ends the server, unless it is away, and waits until it is gone. One that does not go is killed, which is an error.
func (n *NATS) end(by func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return nil
	}
	if err := by(); err != nil {
		return err
	}
	late := time.AfterFunc(natsPatience, func() { _ = n.process.Process.Kill() }) // it may have ended
	_ = n.process.Wait()                                                          // what it says of how it was ended is known
	n.process = nil
	if !late.Stop() {
		return fmt.Errorf("torture: the NATS server did not end within %v and was killed", natsPatience)
	}
	return nil
}
