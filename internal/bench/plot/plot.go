// Package plot draws what package bench has measured. It is apart from it because of the library that it
// needs, which only programs that draw should link.
package plot

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-analyze/charts"

	"github.com/postbus/postbus/internal/bench"
)

// The size of a drawing in pixels.
const width, height = 900, 760

// SVG draws the latencies of a report: their distribution, and how they were over time.
func SVG(r *bench.Report) ([]byte, error) {
	ours, floor := r.Samples()
	all := []series{{"postbus", ours}}
	if len(floor) > 0 {
		all = append(all, series{"floor", floor})
	}
	if !r.Load.Timed || all[0].times() == nil {
		return nil, fmt.Errorf("plot: no latencies were recorded; postbus bench latency and call do, and by mail throughput and fanout")
	}
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: width, Height: height},
		charts.PainterThemeOption(charts.GetTheme(charts.ThemeLight)))
	painter.FilledRect(0, 0, width, height, charts.ColorWhite, charts.ColorWhite, 0)
	cells, err := painter.LayoutByRows().Height("50%").Columns("distribution").Row().Height("50%").Columns("time").Build()
	if err != nil {
		return nil, fmt.Errorf("plot: %w", err)
	}
	if err := distribution(cells["distribution"], r, all); err != nil {
		return nil, fmt.Errorf("plot: distribution: %w", err)
	}
	if err := overTime(cells["time"], all); err != nil {
		return nil, fmt.Errorf("plot: over time: %w", err)
	}
	return painter.Bytes()
}

// series is what was measured of one system, over all runs.
type series struct {
	name    string
	samples []*bench.Sample
}

// times returns all latencies, sorted.
func (s series) times() []time.Duration {
	var all []time.Duration
	for _, sample := range s.samples {
		for _, p := range sample.Points {
			all = append(all, p.Took)
		}
	}
	slices.Sort(all)
	return all
}

// steps is how many percentiles are drawn between two labels, of which each stands for a tenth of the
// messages of the one before: 0, 90, 99 and 99.9 %.
const (
	steps  = 40
	labels = 4
)

// distribution draws the percentiles, towards the slowest ever more widely.
func distribution(p *charts.Painter, r *bench.Report, all []series) error {
	values := make([][]float64, len(all))
	for i, s := range all {
		times := s.times()
		for j := range (labels-1)*steps + 1 {
			percent := 100 * (1 - math.Pow(10, -float64(j)/steps))
			values[i] = append(values[i], logarithm(bench.Percentile(times, percent)))
		}
	}
	option := charts.NewLineChartOptionWithData(values)
	option.Title.Text = fmt.Sprintf("%s on %s by percentile", r.Measure, r.Carrier)
	option.Symbol = charts.Symbol{Shape: charts.SymbolNone}
	option.Legend.SeriesNames = names(all)
	option.XAxis.BoundaryGap, option.XAxis.Labels = charts.Ptr(false), nil
	for j := range (labels-1)*steps + 1 {
		option.XAxis.Labels = append(option.XAxis.Labels, fmt.Sprintf("%.3g %%", 100*(1-math.Pow(10, -float64(j)/steps))))
	}
	option.XAxis.LabelCount = labels
	option.YAxis = []charts.YAxisOption{latencyAxis(values)}
	return p.LineChart(option)
}

// columns is how many moments are drawn over time, and most how many messages of each.
const columns, most = 120, 4

// overTime draws messages one by one.
func overTime(p *charts.Painter, all []series) error {
	var end time.Duration
	for _, s := range all {
		for _, sample := range s.samples {
			for _, point := range sample.Points {
				end = max(end, point.At)
			}
		}
	}
	values := make([][][]float64, len(all))
	flat := make([][]float64, len(all))
	for i, s := range all {
		values[i] = thin(s, end)
		for _, v := range values[i] {
			flat[i] = append(flat[i], v...)
		}
	}
	option := charts.NewScatterChartOptionWithSeries(charts.NewSeriesListScatterMultiValue(values))
	option.Title.Text = "and over time, all runs"
	option.Legend.SeriesNames = names(all)
	option.Symbol = charts.Symbol{Shape: charts.SymbolDot, Size: 1}
	option.XAxis.Labels = nil
	for c := range columns {
		option.XAxis.Labels = append(option.XAxis.Labels, fmt.Sprintf("%.3g s", (end*time.Duration(c)/(columns-1)).Seconds()))
	}
	option.XAxis.LabelCount = 7
	option.XAxis.BoundaryGap = charts.Ptr(false)
	option.YAxis = []charts.YAxisOption{latencyAxis(flat)}
	return p.ScatterChart(option)
}

// thin puts the messages of all runs into columns, of each column as many as can be told apart, evenly
// chosen, and the slowest.
func thin(s series, end time.Duration) [][]float64 {
	byColumn := make([][]time.Duration, columns)
	for _, sample := range s.samples {
		for _, p := range sample.Points {
			c := int(float64(p.At) / float64(max(end, 1)) * (columns - 1))
			c = min(max(c, 0), columns-1)
			byColumn[c] = append(byColumn[c], p.Took)
		}
	}
	values := make([][]float64, columns)
	for c, times := range byColumn {
		slices.Sort(times)
		chosen := min(most, len(times))
		for i := range chosen {
			values[c] = append(values[c], logarithm(times[len(times)*(i+1)/chosen-1]))
		}
	}
	return values
}

func names(all []series) []string {
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	return names
}

// logarithm is what is drawn of a latency: the library has no logarithmic axes.
func logarithm(d time.Duration) float64 { return math.Log10(float64(max(d, 1))) }

// latencyAxis is an axis with a line for each power of ten.
func latencyAxis(values [][]float64) charts.YAxisOption {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		for _, x := range v {
			low, high = min(low, x), max(high, x)
		}
	}
	low, high = math.Floor(low), math.Max(math.Ceil(high), math.Floor(low)+1)
	return charts.YAxisOption{
		Min: charts.Ptr(low), Max: charts.Ptr(high), RangeValuePaddingScale: charts.Ptr(0.0),
		LabelCount: int(high-low) + 1, SplitLineShow: charts.Ptr(true),
		ValueFormatter: func(v float64) string { return time.Duration(math.Round(math.Pow(10, v))).String() },
	}
}
