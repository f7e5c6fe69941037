package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Position says where in the histories that a checker reads a line begins, so that it can
// be shown without being kept.
type Position struct {
	file   int32
	offset int64
}

// Follower reads a history that is being written.
type Follower struct {
	file    *os.File
	number  int32
	reader  *bufio.Reader
	offset  int64  // of the first byte of partial
	partial []byte // a line whose end has not been written yet
	torn    int
}

// Follow opens a history. number tells several files of one checker apart, from 0.
func Follow(path string, number int) (*Follower, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Follower{file: file, number: int32(number), reader: bufio.NewReaderSize(file, 1<<16)}, nil
}

// Next returns the next event, or io.EOF if there is none yet. A line that is no event
// was torn when its process was killed; it is skipped and counted.
func (f *Follower) Next() (Event, Position, error) {
	for {
		piece, err := f.reader.ReadSlice('\n')
		f.partial = append(f.partial, piece...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return Event{}, Position{}, err
		}
		at := Position{f.number, f.offset}
		f.offset += int64(len(f.partial))
		line := bytes.TrimSpace(f.partial)
		f.partial = f.partial[:0]
		if len(line) == 0 {
			continue
		}
		var e Event
		if json.Unmarshal(line, &e) != nil || e.Kind == "" {
			f.torn++
			continue
		}
		return e, at, nil
	}
}

// Torn returns how many lines were no events.
func (f *Follower) Torn() int { return f.torn }

// Close closes the file.
func (f *Follower) Close() error { return f.file.Close() }

// Line returns the line at a position, for a report.
func (f *Follower) Line(at Position) string {
	reader := bufio.NewReader(io.NewSectionReader(f.file, at.offset, 1<<20))
	line, err := reader.ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return string(bytes.TrimSpace(line))
}

// CheckFiles checks recorded histories: one that all processes have shared, or those of
// several machines, whose lines are merged by their times.
func CheckFiles(paths ...string) (*Report, error) {
	type source struct {
		*Follower
		event Event
		at    Position
	}
	c := NewChecker()
	var sources []*source
	defer func() {
		for _, s := range sources {
			_ = s.Close() // it was only read
		}
	}()
	advance := func(s *source) (more bool, err error) {
		s.event, s.at, err = s.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return err == nil, err
	}
	var live []*source
	for i, path := range paths {
		f, err := Follow(path, i)
		if err != nil {
			return nil, err
		}
		s := &source{Follower: f}
		sources = append(sources, s)
		more, err := advance(s)
		if err != nil {
			return nil, err
		}
		if more {
			live = append(live, s)
		}
	}
	for len(live) > 0 {
		first := 0
		for i, s := range live {
			if s.event.Time < live[first].event.Time {
				first = i
			}
		}
		c.Add(live[first].event, live[first].at)
		more, err := advance(live[first])
		if err != nil {
			return nil, err
		}
		if !more {
			live = append(live[:first], live[first+1:]...)
		}
	}
	report := c.Report(func(at Position) string { return sources[at.file].Line(at) })
	for _, s := range sources {
		report.Torn += s.Torn()
	}
	return report, nil
}
