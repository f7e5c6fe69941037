package bench

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteText writes a report as a table.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s: %s\n", r.Measure, r.Carrier, r.describe())
	fmt.Fprintf(&b, "%s\n\n", r.Machine)
	if r.Idle != nil {
		r.idleTable(&b)
	} else {
		r.table(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// describe says what was done.
func (r *Report) describe() string {
	l := r.Load
	switch {
	case r.Idle != nil:
		return fmt.Sprintf("one node with a subscription, for %.0f s", r.Idle.Seconds)
	case r.Measure == RoundTrip:
		return fmt.Sprintf("%d calls of %d bytes, %s, %s, %s", l.Count, l.Payload, plural(l.Publishers, "client"), l.pace("each after the answer to the one before"), runs(r.Runs))
	}
	pace := l.pace("as fast as they are taken")
	if l.Lockstep {
		pace = "each after the one before has arrived"
	}
	if l.InFlight > 1 {
		pace += fmt.Sprintf(", up to %d of a publisher at once", l.InFlight)
	}
	return fmt.Sprintf("%d messages of %d bytes, %s, %s, %s, %s", l.Count, l.Payload,
		plural(l.Publishers, "publisher"), plural(l.Subscribers, "subscriber"), pace, runs(r.Runs))
}

func (l Load) pace(otherwise string) string {
	if l.Rate > 0 {
		return fmt.Sprintf("%g a second", l.Rate)
	}
	return otherwise
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func runs(n int) string {
	if n == 1 {
		return "one run"
	}
	return fmt.Sprintf("medians of %d runs", n)
}

// table writes the figures, with the floor beside them.
func (r *Report) table(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name, unit string, digits int, value func(*Figures) float64, ratio float64) {
		fmt.Fprintf(t, "%s\t%s", name, number(value(r.Ours), digits))
		if r.Floor != nil {
			fmt.Fprintf(t, "\t%s\t", number(value(r.Floor), digits))
			if ratio > 0 {
				fmt.Fprintf(t, "%.3g", ratio)
			}
		}
		fmt.Fprintf(t, "\t%s\t\n", unit)
	}
	ratio := r.Ratio
	header := "\tpostbus"
	if r.Floor != nil {
		header += "\t" + r.floorName() + "\tratio"
	} else {
		ratio = new(Ratios)
	}
	fmt.Fprintln(t, header+"\t\t")
	if r.Load.Timed {
		for _, l := range latencies {
			row(l.name, "µs", 2, func(f *Figures) float64 { return *l.of(f) }, *l.ratio(ratio))
		}
	}
	row(r.unit()+"/s", "", 0, func(f *Figures) float64 { return f.PerSecond }, ratio.PerSecond)
	row("CPU", "s", 3, func(f *Figures) float64 { return f.CPUSeconds }, 0)
	row("", "% of a core", 2, func(f *Figures) float64 { return f.Core * 100 }, 0)
	row("CPU/"+r.single(), "µs", 2, func(f *Figures) float64 { return f.CPUPerMessage }, 0)
	row("allocations/"+r.single(), "", 2, func(f *Figures) float64 { return f.Allocations }, 0)
	row("allocated/"+r.single(), "bytes", 0, func(f *Figures) float64 { return f.Bytes }, 0)
	if r.Measure != RoundTrip {
		row("received", "in all", 0, func(f *Figures) float64 { return float64(f.Received) }, 0)
		row("lost", "", 0, func(f *Figures) float64 { return float64(f.Lost) }, 0)
		row("repeated", "", 0, func(f *Figures) float64 { return float64(f.Repeated) }, 0)
		row("out of order", "", 0, func(f *Figures) float64 { return float64(f.Disordered) }, 0)
	}
	if r.Load.Rate > 0 {
		row("behind schedule", "", 0, func(f *Figures) float64 { return float64(f.Late) }, 0)
	}
	t.Flush()
	if r.Traffic != nil {
		fmt.Fprintf(b, "\ncounted with %d more: %s, opening included\n", r.Counted, r.traffic())
	}
}

// traffic says what has been said to mail servers.
func (r *Report) traffic() string {
	each := func(n uint64) float64 { return float64(n) / float64(max(1, r.Counted)) }
	return fmt.Sprintf("%s, %.2f SMTP and %.2f IMAP commands for each",
		plural(int(r.Traffic.Connections), "connection"), each(r.Traffic.SMTP), each(r.Traffic.IMAP))
}

// floorName is the heading of the floor's column.
func (r *Report) floorName() string { return cmp.Or(r.FloorName, "floor") }

func (r *Report) unit() string {
	switch r.Measure {
	case RoundTrip:
		return "calls"
	case FanOut:
		return "deliveries"
	}
	return "messages"
}

func (r *Report) single() string {
	if r.Measure == FanOut {
		return "delivery"
	}
	return strings.TrimSuffix(r.unit(), "s")
}

func (r *Report) idleTable(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "CPU\t%s\ts\t\n", number(r.Idle.CPUSeconds, 4))
	fmt.Fprintf(t, "\t%s\t%% of a core\t\n", number(r.Idle.Core*100, 3))
	fmt.Fprintf(t, "allocations\t%s\ta minute\t\n", number(r.Idle.AllocationsPerMinute, 0))
	if r.Idle.Traffic != nil {
		fmt.Fprintf(t, "new connections\t%d\t\t\n", r.Idle.Traffic.Connections)
		fmt.Fprintf(t, "commands\t%d\tSMTP\t\n", r.Idle.Traffic.SMTP)
		fmt.Fprintf(t, "\t%d\tIMAP\t\n", r.Idle.Traffic.IMAP)
		fmt.Fprintf(t, "\t%s\ta minute\t\n", number(r.Idle.CommandsPerMinute, 2))
	}
	t.Flush()
}

// number writes a value with commas between the thousands.
func number(v float64, digits int) string {
	text := fmt.Sprintf("%.*f", digits, v)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}
