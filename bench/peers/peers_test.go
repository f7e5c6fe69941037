package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
)

// All contenders get through all loads, and each has a line in the table.
func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-runs", "2", "-scale", "0.002"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, c := range contenders() {
		line := regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(c.name) + `( +[0-9.%]+)+ *$`).FindString(out.String())
		if len(strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), c.name))) != 11 {
			t.Errorf("%s has the line %q of\n%s", c.name, line, &out)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{{"-runs", "0"}, {"-payload", "11"}, {"-scale", "0"}, {"-fast"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q is fine", args)
		}
	}
}
