//go:build !unix

package bench

import "time"

// cpuTime returns 0: the system's way to tell is not known here.
func cpuTime() time.Duration { return 0 }
