package main

import (
	"os"
	"testing"
)

// TestSoakThatDoesNotBegin: it leaves nothing behind.
func TestSoakThatDoesNotBegin(t *testing.T) {
	for _, args := range [][]string{
		{"--carrier", "pigeon"}, {"--server", "other"}, {"--server", "config", "--carrier", "nats"}, {"--server-mode", "busy"}, {"--faults", "flood"},
	} {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		if r := runCommand(t, "", append([]string{"soak"}, args...)...); r.code == 0 || r.stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%v leaves %v, %v", args, left, err)
		}
	}
}
