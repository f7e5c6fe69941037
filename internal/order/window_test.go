package order

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// model is a window that keeps every number.
type model map[uint64]bool

func check(t *testing.T, w *Window, m model, numbers []uint64) {
	t.Helper()
	for i, r := range w.runs {
		if r.first == 0 || r.first > r.last || i > 0 && r.first < w.runs[i-1].last+2 {
			t.Fatalf("runs %v", w.runs)
		}
	}
	for _, n := range numbers {
		if w.Has(n) != m[n] {
			t.Fatalf("Has(%d) is %v; runs %v", n, w.Has(n), w.runs)
		}
		next, before := n, uint64(0)
		for m[next] {
			next++
		}
		if got := w.Next(n); got != next {
			t.Fatalf("Next(%d) is %d, want %d; runs %v", n, got, next, w.runs)
		}
		for k := range m {
			if k < n {
				before = max(before, k)
			}
		}
		if got := w.Before(n); got != before {
			t.Fatalf("Before(%d) is %d, want %d; runs %v", n, got, before, w.runs)
		}
	}
}

func TestWindowModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		low := []uint64{1, 1000, math.MaxUint64 - 60}[seed%3]
		size := 1 + r.Uint64N(60)
		var w Window
		m := make(model)
		for range r.IntN(150) {
			n := low + r.Uint64N(size)
			if n < low { // around the end
				continue
			}
			if w.Add(n) == m[n] {
				t.Fatalf("Add(%d) again: %v", n, !m[n])
			}
			m[n] = true
		}
		var all []uint64
		for n := low; n < low+size && n >= low && n != math.MaxUint64; n++ {
			all = append(all, n)
		}
		check(t, &w, m, all)
		b, err := w.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var again Window
		if err := again.UnmarshalBinary(b); err != nil || !slices.Equal(again.runs, w.runs) {
			t.Fatalf("%v came back as %v, error %v", w.runs, again.runs, err)
		}
	}
}

func TestWindowEnds(t *testing.T) {
	var w Window
	if w.Add(0) || w.Has(0) {
		t.Error("zero is a number")
	}
	for _, n := range []uint64{math.MaxUint64, math.MaxUint64 - 1, 1} {
		if !w.Add(n) || !w.Has(n) || w.Add(n) {
			t.Errorf("number %d", n)
		}
	}
	if n := w.Next(math.MaxUint64); n != 0 {
		t.Errorf("after the last number comes %d", n)
	}
}

// TestWindowOverflow: the lowest gap is forgotten, all else stays exact.
func TestWindowOverflow(t *testing.T) {
	var w Window
	for n := uint64(1); n <= 2*maxRuns+1; n += 2 {
		w.Add(n)
	}
	if len(w.runs) != maxRuns || !w.Has(2) || w.Has(4) {
		t.Errorf("%d runs, the first is %v", len(w.runs), w.runs[0])
	}
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte{windowVersion})
	f.Add([]byte{windowVersion, 1, 5, 2, 0})
	f.Add([]byte{windowVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w Window
		if w.UnmarshalBinary(b) != nil {
			return
		}
		again, err := w.MarshalBinary()
		var second Window
		if err != nil || second.UnmarshalBinary(again) != nil || !slices.Equal(w.runs, second.runs) {
			t.Fatalf("%v is written as %x", w.runs, again)
		}
		check(t, &w, nil, nil)
		for _, r := range w.runs {
			if !w.Has(r.first) || !w.Has(r.last) || w.Add(r.first) {
				t.Fatalf("runs %v", w.runs)
			}
		}
	})
}
