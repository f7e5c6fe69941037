package history

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Log appends events to a history. Any number of processes and goroutines may have one on
// the same file.
type Log struct {
	file    *os.File
	process string
}

// OpenLog opens the history in a file, which it creates if there is none, for a process.
func OpenLog(path, process string) (*Log, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Log{file, process}, nil
}

// Add appends an event. It fills in Time and, if it is empty, Process. When it returns nil
// the event survives the process.
func (l *Log) Add(e Event) error {
	e.Time = time.Now().UnixNano()
	if e.Process == "" {
		e.Process = l.process
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	// The line end in front ends what somebody else may have left unfinished.
	text := make([]byte, 0, len(line)+2)
	text = append(append(append(text, '\n'), line...), '\n')
	if _, err := l.file.Write(text); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }

// Hash returns what stands for a body in events.
func Hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}
