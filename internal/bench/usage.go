package bench

import (
	"runtime"
	"time"
)

// Usage is what the process has used, other parts of it included: an embedded mail server, say.
type Usage struct {
	// CPU is the time of all its threads, in user mode and in the kernel; 0 where the
	// system does not tell.
	CPU time.Duration
	// Wall is the time in which it was used.
	Wall time.Duration
	// Allocations and AllocatedBytes are those on the heap.
	Allocations, AllocatedBytes uint64
}

// Core returns which share of one core was busy.
func (u Usage) Core() float64 {
	if u.Wall <= 0 {
		return 0
	}
	return u.CPU.Seconds() / u.Wall.Seconds()
}

// usageMark is the state from which Usage counts.
type usageMark struct {
	at   time.Time
	cpu  time.Duration
	heap runtime.MemStats
}

func readUsage() *usageMark {
	m := new(usageMark)
	runtime.ReadMemStats(&m.heap)
	m.cpu, m.at = cpuTime(), time.Now()
	return m
}

// since returns what was used between two marks.
func (m *usageMark) since(before *usageMark) Usage {
	return Usage{
		CPU: m.cpu - before.cpu, Wall: m.at.Sub(before.at),
		Allocations: m.heap.Mallocs - before.heap.Mallocs, AllocatedBytes: m.heap.TotalAlloc - before.heap.TotalAlloc,
	}
}
