// Command targets prints what was wanted of postbus' speed beside what was measured, as a table in Markdown:
//
//	go run ./internal/bench/targets DIR
//
// DIR holds the reports that scripts/bench.sh has made.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/postbus/postbus/internal/bench"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: targets DIR")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "targets:", err)
		os.Exit(1)
	}
}

// write writes the table for the reports in a folder. What is not there is shown as not measured.
func write(out io.Writer, dir string) error {
	all := make([][]*bench.Report, len(targets))
	machine := ""
	for i, t := range targets {
		var err error
		if all[i], err = t.read(dir); err != nil {
			return err
		}
		if machine == "" && all[i] != nil {
			machine = fmt.Sprintf("Measured on %s; medians of %d runs.\n\n", all[i][0].Machine, all[i][0].Runs)
		}
	}
	fmt.Fprint(out, machine, "| | | wanted | measured | |\n|---|---|---|---|---|\n")
	for i, t := range targets {
		reports := all[i]
		relation := "≤"
		if t.more {
			relation = "≥"
		}
		measured, verdict := "not measured", ""
		if reports != nil {
			figure := t.figure(reports)
			measured, verdict = short(figure), "missed"
			if t.more && figure >= t.bound || !t.more && figure <= t.bound {
				verdict = "reached"
			}
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", t.part, t.name, strings.TrimSpace(relation+" "+short(t.bound)+" "+t.unit), measured, verdict)
	}
	return nil
}

// read reads the reports of a target, or returns nil if one is not there.
func (t target) read(dir string) ([]*bench.Report, error) {
	var reports []*bench.Report
	for _, name := range t.reports {
		file, err := os.Open(filepath.Join(dir, name+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		report, err := bench.ReadReport(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// short writes three digits that count.
func short(v float64) string {
	if v == 0 || math.Abs(v) >= 1000 {
		text := fmt.Sprintf("%.0f", v)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	}
	return fmt.Sprintf("%.3g", v)
}
