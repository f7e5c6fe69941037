package order

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
)

// maxRuns is the largest number of runs in a Window. It is more than there can be gaps
// because of messages that are still being handled.
const maxRuns = 1 << 14

// Window is the set of the sequence numbers of one publisher whose messages have been handled. The
// zero Window is empty.
//
// It keeps runs of numbers without a gap, so that a publisher whose messages have all
// been handled costs a few bytes, however many there were, and a message that comes after a
// million others is still known to be missing. Only when there are thousands of gaps
// is the lowest forgotten: its numbers count as handled from then on.
type Window struct {
	runs []run // in ascending order, with a gap between any two
}

type run struct{ first, last uint64 }

// find returns the index of the first run that ends at n or above.
func (w *Window) find(n uint64) int {
	// Nearly always n follows or is the highest.
	if len(w.runs) == 0 || n > w.runs[len(w.runs)-1].last {
		return len(w.runs)
	}
	i, _ := slices.BinarySearchFunc(w.runs, n, func(r run, n uint64) int {
		switch {
		case r.last < n:
			return -1
		case r.last > n:
			return 1
		}
		return 0
	})
	return i
}

// Has reports whether n is in the window. Zero, which stands for no number, never is.
func (w *Window) Has(n uint64) bool {
	i := w.find(n)
	return n != 0 && i < len(w.runs) && w.runs[i].first <= n
}

// Add puts n into the window, and reports whether it was not in it.
func (w *Window) Add(n uint64) bool {
	i := w.find(n)
	if n == 0 || i < len(w.runs) && w.runs[i].first <= n {
		return false
	}
	follows := i > 0 && w.runs[i-1].last == n-1
	precedes := i < len(w.runs) && w.runs[i].first == n+1
	switch {
	case follows && precedes:
		w.runs[i-1].last = w.runs[i].last
		w.runs = slices.Delete(w.runs, i, i+1)
	case follows:
		w.runs[i-1].last = n
	case precedes:
		w.runs[i].first = n
	default:
		w.runs = slices.Insert(w.runs, i, run{n, n})
	}
	if len(w.runs) > maxRuns {
		w.runs[1].first = w.runs[0].first
		w.runs = slices.Delete(w.runs, 0, 1)
	}
	return true
}

// Next returns the lowest number from n on that is not in the window; 0 if there is none.
func (w *Window) Next(n uint64) uint64 {
	if i := w.find(n); i < len(w.runs) && w.runs[i].first <= n {
		return w.runs[i].last + 1
	}
	return n
}

// Before returns the highest number below n that is in the window; 0 if there is none.
func (w *Window) Before(n uint64) uint64 {
	i := w.find(n)
	switch {
	case i < len(w.runs) && w.runs[i].first < n:
		return n - 1
	case i > 0:
		return w.runs[i-1].last
	}
	return 0
}

// gap returns the first run of numbers from first to last, both included, that are not in the window.
func (w *Window) gap(first, last uint64) (from, to uint64, ok bool) {
	if from = w.Next(first); from == 0 || from > last {
		return 0, 0, false
	}
	to = last
	if i := w.find(from); i < len(w.runs) {
		to = min(to, w.runs[i].first-1)
	}
	return from, to, true
}

// clone returns a window of its own with the same numbers.
func (w *Window) clone() Window { return Window{slices.Clone(w.runs)} }

// windowVersion begins the binary form of a Window.
const windowVersion = 1

var errWindow = errors.New("not the binary form of a window of sequence numbers")

// AppendBinary implements encoding.BinaryAppender. It never fails.
func (w *Window) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, windowVersion)
	end := uint64(0)
	for _, r := range w.runs {
		b = binary.AppendUvarint(b, r.first-end)
		b = binary.AppendUvarint(b, r.last-r.first)
		end = r.last
	}
	return b, nil
}

// MarshalBinary implements encoding.BinaryMarshaler. It never fails.
func (w *Window) MarshalBinary() ([]byte, error) { return w.AppendBinary(nil) }

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (w *Window) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] != windowVersion {
		return errWindow
	}
	var runs []run
	end := uint64(0)
	for b = b[1:]; len(b) > 0; {
		skip, n := binary.Uvarint(b)
		length, m := binary.Uvarint(b[max(n, 0):])
		least := uint64(2) // else it would be one run with the one before
		if end == 0 {
			least = 1
		}
		if n <= 0 || m <= 0 || skip < least || skip > math.MaxUint64-end || length > math.MaxUint64-end-skip || len(runs) == maxRuns {
			return errWindow
		}
		first := end + skip
		end = first + length
		runs = append(runs, run{first, end})
		b = b[n+m:]
	}
	w.runs = runs
	return nil
}
