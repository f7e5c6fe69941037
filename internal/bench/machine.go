package bench

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine is where it was measured.
type Machine struct {
	CPU        string `json:"cpu,omitempty"`
	Processors int    `json:"processors"`
	GoMaxProcs int    `json:"gomaxprocs"`
	System     string `json:"system"`
	Go         string `json:"go"`
}

// ThisMachine describes this machine.
func ThisMachine() Machine {
	return Machine{CPU: cpuModel(), Processors: runtime.NumCPU(), GoMaxProcs: runtime.GOMAXPROCS(0),
		System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
}

// String describes the machine in a line.
func (m Machine) String() string {
	cpu := m.CPU
	if cpu == "" {
		cpu = "processor"
	}
	return fmt.Sprintf("%d x %s, %s, %s", m.Processors, cpu, m.System, m.Go)
}

// cpuModel returns the name of the processor where Linux tells it.
func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
