package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// WriteMarkdown writes a report as a short table in Markdown.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s: %s\n\n", r.Measure, r.Carrier, r.describe())
	if r.Idle != nil {
		r.idleMarkdown(&b)
	} else {
		r.markdown(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown writes a line each for postbus, the floor and the ratio.
func (r *Report) markdown(b *strings.Builder) {
	columns := []string{""}
	if r.Load.Timed {
		for _, l := range latencies {
			columns = append(columns, l.name)
		}
	}
	columns = append(columns, r.unit()+"/s", "of a core", "CPU each", "allocations each", "out of order")
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	line := func(name string, f *Figures) {
		cells := []string{name}
		if r.Load.Timed {
			for _, l := range latencies {
				cells = append(cells, duration(*l.of(f)))
			}
		}
		cells = append(cells, number(f.PerSecond, 0), percent(f.Core), duration(f.CPUPerMessage), fmt.Sprintf("%.3g", f.Allocations),
			percent(float64(f.Disordered)/float64(max(1, f.Received))))
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	line("postbus", r.Ours)
	if r.Floor != nil {
		line(r.floorName(), r.Floor)
		cells := []string{"**ratio**"}
		if r.Load.Timed {
			for _, l := range latencies {
				cells = append(cells, fmt.Sprintf("**%.3g**", *l.ratio(r.Ratio)))
			}
		}
		fmt.Fprintf(b, "| %s | | | | |\n", strings.Join(append(cells, fmt.Sprintf("**%.3g**", r.Ratio.PerSecond)), " | "))
	}
	fmt.Fprintf(b, "\n%s\n", r.sums())
}

// sums says what has become of the messages, and what they have cost the server.
func (r *Report) sums() string {
	text := fmt.Sprintf("Lost %d, repeated %d of %s.", r.Ours.Lost, r.Ours.Repeated, number(float64(r.Ours.Received), 0))
	if r.Measure == RoundTrip {
		text = fmt.Sprintf("%s answers.", number(float64(r.Ours.Received), 0))
	}
	if r.Ours.Late > 0 {
		text += fmt.Sprintf(" Behind schedule: %d.", r.Ours.Late)
	}
	if r.Traffic != nil {
		text += fmt.Sprintf(" %s.", r.traffic())
	}
	return text
}

func (r *Report) idleMarkdown(b *strings.Builder) {
	fmt.Fprintf(b, "| of a core | allocations a minute | new connections | commands a minute |\n|---|---|---|---|\n")
	connections, commands := "–", "–"
	if r.Idle.Traffic != nil {
		connections, commands = fmt.Sprint(r.Idle.Traffic.Connections), fmt.Sprintf("%.2f", r.Idle.CommandsPerMinute)
	}
	fmt.Fprintf(b, "| %.4f %% | %.0f | %s | %s |\n", r.Idle.Core*100, r.Idle.AllocationsPerMinute, connections, commands)
}

// duration writes so many microseconds with three digits that count.
func duration(micros float64) string {
	switch {
	case micros < 1:
		return fmt.Sprintf("%.0f ns", micros*1000)
	case micros < 1000:
		return significant(micros) + " µs"
	case micros < 1e6:
		return significant(micros/1e3) + " ms"
	}
	return significant(micros/1e6) + " s"
}

// significant writes a number below 1000, or not far above, with three digits that count.
func significant(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 2), v)
}

func percent(share float64) string { return significant(share*100) + " %" }
