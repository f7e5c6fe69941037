package transporttest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder stands in for the testing.TB of a test that is expected to fail.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	skipped  bool
	cleanups []func()
}

// record runs a test of the suite and returns what it reported.
func record(t *testing.T, c testCase, h Harness) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(r.cleanups) {
				f()
			}
		}()
		c.runWith(r, h)
	}()
	<-done
	return r
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skip(...any) {
	r.skipped = true
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Helper() {}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	const most = 3
	return strings.Join(r.failures[:min(len(r.failures), most)], "\n")
}

func TestSoundCarrierPasses(t *testing.T) {
	h := harness(broken{})
	for _, c := range allCases() {
		h := h
		if c.name == "LargestBody" || c.name == "Deduplicates" {
			continue
		}
		h.Open = harness(broken{}).Open // a bus of its own
		if r := record(t, c, h); r.Failed() || r.skipped {
			t.Errorf("%s: skipped %v, failures: %v", c.name, r.skipped, r)
		}
	}
}

func TestBrokenCarriersFail(t *testing.T) {
	byName := make(map[string]testCase)
	for _, c := range allCases() {
		byName[c.name] = c
	}
	for _, fault := range slices.Concat(faults, trackedFaults) {
		t.Run(fault.name, func(t *testing.T) {
			for _, name := range strings.Fields(fault.tests) {
				name, passes := strings.CutSuffix(name, "/ok")
				c, ok := byName[name]
				if !ok {
					t.Fatalf("there is no test %s", name)
				}
				// In a bubble it takes no time to wait in vain.
				synctest.Test(t, func(t *testing.T) { testFault(t, fault, c, passes) })
			}
		})
	}
}

// testFault wants a test to find out about a fault, or not to.
func testFault(t *testing.T, fault fault, c testCase, passes bool) {
	leaksEnd = make(chan struct{})
	defer close(leaksEnd)
	h := harness(fault.new())
	switch c.name {
	case "LargestBody":
		h.Features.MaxBody = 1000
	case "Deduplicates":
		h.Features.Deduplicates = true
	case "UnsupportedOptions":
		h.Features = Features{}
	}
	r := record(t, c, h)
	if r.Failed() == passes {
		t.Errorf("%s: failed = %v: %v", c.name, r.Failed(), r)
	}
	t.Logf("%s reports: %v", c.name, r)
}

func TestFeaturesSkipTests(t *testing.T) {
	for _, c := range allCases() {
		if c.needs == nil {
			continue
		}
		h := harness(broken{})
		h.Features = Features{}
		if r := record(t, c, h); !r.skipped {
			t.Errorf("%s is not skipped", c.name)
		}
	}
}
