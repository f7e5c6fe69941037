//go:build !unix

package main

import "os/exec"

// isolate does nothing where there are no process groups: the end of a command is the
// end of its shell alone.
func isolate(*exec.Cmd) {}
