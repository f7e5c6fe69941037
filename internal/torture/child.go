package torture

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/worker"
)

// child is a worker, through all the processes that it has been.
type child struct {
	run    *run
	name   string
	config worker.Config
	total  uint64 // messages or calls, of all its processes

	supervised sync.WaitGroup
	mu         sync.Mutex
	number     int // of the process, from 1
	cmd        *exec.Cmd
	stdin      io.Closer
	killed     bool // this process
	held       bool // is to publish no more
	stopping   bool
	failed     error
}

// receives reports whether the worker is a receiving end.
func (c *child) receives() bool {
	return c.config.Role == worker.Subscription || c.config.Role == worker.Server
}

// process returns the name of the process that runs now.
func (c *child) process() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processName()
}

func (c *child) processName() string { return fmt.Sprintf("%s#%d", c.name, c.number) }

// start starts the worker, and starts it again whenever it has ended, until stop.
func (c *child) start() {
	c.supervised.Go(func() {
		for c.once() {
			// As long as a supervisor may take.
			timer := time.NewTimer(c.run.random.between(0, 300*time.Millisecond))
			<-timer.C
		}
	})
}

// once runs one process. It returns false if there is to be no other.
func (c *child) once() bool {
	wait, err := c.launch()
	if err == nil {
		if wait == nil {
			return false
		}
		err = wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	event := history.Event{Kind: history.Exit, Process: c.processName(), Text: "stopped"}
	switch {
	case c.killed:
		event.Text = history.Killed
	case err != nil:
		event.Text = err.Error()
		c.failed = errors.Join(c.failed, fmt.Errorf("torture: %s has ended by itself: %w; see its log", c.processName(), err))
	}
	if err := c.run.log.Add(event); err != nil {
		c.failed = errors.Join(c.failed, err)
	}
	return !c.stopping && c.failed == nil
}

// launch starts a process, unless the worker is to stop: then wait is nil.
func (c *child) launch() (wait func() error, err error) {
	remaining, err := c.remaining()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return nil, nil
	}
	c.number++
	c.killed = false
	config := c.config
	config.Process = c.processName()
	config.Receiver = cmp.Or(config.Receiver, config.Process) // what remembers nothing is another each time
	config.Count = remaining
	if c.held {
		config.Count = 0
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(c.run.Dir, c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(c.run.Worker[0], c.run.Worker[1:]...)
	cmd.Env = append(os.Environ(), c.run.Env...)
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := c.run.log.Add(history.Event{Kind: history.Start, Process: config.Process, Text: string(config.Role)}); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.cmd, c.stdin = cmd, stdin
	if _, err := stdin.Write(append(text, '\n')); err != nil {
		// It has died already, and Wait says of what.
		_ = stdin.Close()
	}
	return cmd.Wait, nil
}

// begun returns how much the worker has begun to publish, or to call, in all its processes.
func (c *child) begun() uint64 {
	c.mu.Lock()
	number := c.number
	c.mu.Unlock()
	n := uint64(0)
	for i := 1; i <= number; i++ {
		n += c.run.checker.Begun(fmt.Sprintf("%s#%d", c.name, i))
	}
	return n
}

// remaining returns how much is left to be begun.
func (c *child) remaining() (uint64, error) {
	c.run.mu.Lock()
	defer c.run.mu.Unlock()
	if err := c.run.sync(); err != nil {
		return 0, err
	}
	return c.total - min(c.begun(), c.total), nil
}

// finished reports whether everything has been begun. r.mu is held.
func (c *child) finished() bool { return c.begun() >= c.total }

// kill ends the process as kill -9 does.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil || c.killed || c.stopping {
		return
	}
	c.killed = true
	_ = c.cmd.Process.Kill() // it may have ended
}

// hold has the worker publish nothing more, but stay.
func (c *child) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
	if c.stdin != nil {
		_ = c.stdin.Close()
	}
}

// stop ends the worker in order.
func (c *child) stop() {
	c.mu.Lock()
	c.stopping = true
	if c.stdin != nil {
		_ = c.stdin.Close()
	}
	c.mu.Unlock()
	c.supervised.Wait()
}

// failure returns why the worker has ended by itself, or nil.
func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}
