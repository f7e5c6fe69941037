//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// isolate gives a command a process group of its own: Ctrl-C in the terminal does not
// reach it, so that its answer can still be sent, and its end takes along all that it
// has started.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}
