package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postbus/postbus/internal/bench"
)

// Every target finds its figure in a report, and the table says which are reached.
func TestWrite(t *testing.T) {
	for _, value := range []float64{1e-9, 1e12} {
		dir := t.TempDir()
		figures := bench.Figures{P50: value, P99: value, PerSecond: value, Core: value, Allocations: value}
		report := bench.Report{Ours: &figures, Floor: &figures, Ratio: &bench.Ratios{P50: value, P99: value, PerSecond: value},
			Idle: &bench.IdleFigures{Core: value, CommandsPerMinute: value, Traffic: &bench.Traffic{Connections: uint64(value)}}}
		for _, target := range targets {
			for _, name := range target.reports {
				save(t, dir, name, report)
			}
		}
		var out strings.Builder
		if err := write(&out, dir); err != nil {
			t.Fatal(err)
		}
		for _, target := range targets {
			verdict := "missed"
			if target.more == (value > 1) {
				verdict = "reached"
			}
			if len(target.reports) > 1 { // compared with each other, and they are the same
				verdict = map[bool]string{true: "missed", false: "reached"}[target.more]
			}
			if line := lineOf(out.String(), "| "+target.part+" | "+target.name+" |"); !strings.HasSuffix(line, "| "+verdict+" |") {
				t.Errorf("with %g: %q, want %s", value, line, verdict)
			}
		}
	}
}

func save(t *testing.T, dir, name string, report bench.Report) {
	t.Helper()
	data, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func lineOf(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// What was not measured is said to be so, and what is no report is an error.
func TestWriteWithout(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	if err := write(&out, dir); err != nil || strings.Count(out.String(), "not measured") != len(targets) {
		t.Errorf("%v:\n%s", err, &out)
	}
	if err := os.WriteFile(filepath.Join(dir, "memory-call.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(&out, dir); err == nil || !strings.Contains(err.Error(), "memory-call") {
		t.Errorf("error %v", err)
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.12345: "0.123", 1.5: "1.5", 999: "999", 5_000_000: "5,000,000", 12_345: "12,345"} {
		if got := short(v); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
}
