package plot_test

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/postbus/postbus/internal/bench"
	"github.com/postbus/postbus/internal/bench/plot"
)

// A drawing is well-formed, says what it shows, and has the figures of both.
func TestSVG(t *testing.T) {
	load := bench.Load{Publishers: 1, Subscribers: 1, InFlight: 1, Count: 3000, Payload: 10, Timed: true, Rate: 20000}
	report, err := bench.Run(t.Context(), bench.Plan{Measure: bench.Latency, Bed: bench.Intraprocess{}, Load: load, Runs: 2})
	if err != nil {
		t.Fatal(err)
	}
	svg, err := plot.SVG(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"latency on intraprocess by percentile", "postbus", "floor", "99.9 %"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("the drawing has no %q", want)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// What has no latencies can't be drawn, and the error says what has.
func TestSVGOfUntimed(t *testing.T) {
	load := bench.Load{Publishers: 1, Subscribers: 1, InFlight: 1, Count: 10}
	report, err := bench.Run(t.Context(), bench.Plan{Measure: bench.Throughput, Bed: bench.Intraprocess{}, Load: load, NoFloor: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plot.SVG(report); err == nil || !strings.Contains(err.Error(), "postbus bench latency") {
		t.Errorf("error %v", err)
	}
}
