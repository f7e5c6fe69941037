package transport

import "time"

// DefaultDepth is how many messages a queue keeps unless it is told otherwise. It is
// the default of ROS 2.
const DefaultDepth = 10

// The bounds of a queue that keeps all: what comes beyond either is dropped and
// counted.
const (
	// KeepAllMessages is the most messages waiting in a queue that keeps all.
	KeepAllMessages = 1 << 16
	// KeepAllBytes is the most bytes of bodies waiting in a queue that keeps all.
	KeepAllBytes = 256 << 20
)

// QoS is the quality of service of an entity's queue. The zero value keeps the last
// DefaultDepth messages however old they are.
type QoS struct {
	// Depth is how many messages wait at most; a further one pushes out the oldest.
	// Zero means DefaultDepth. It is ignored when KeepAll is set.
	Depth int
	// KeepFirst drops a message beyond Depth instead of the oldest.
	KeepFirst bool
	// KeepAll keeps every message until it is taken, within KeepAllMessages and
	// KeepAllBytes; a message beyond these bounds is dropped, counted and logged.
	KeepAll bool
	// Lifespan is the age, counted from Info.SourceTime, at which a message is
	// dropped instead of taken. Zero means no limit.
	Lifespan time.Duration
}
