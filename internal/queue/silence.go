package queue

import (
	"sync"
	"time"
)

// silence finds out that nothing has been delivered to an inbox for some time.
type silence struct {
	period time.Duration
	report func(time.Duration)

	mu     sync.Mutex
	last   time.Time // of the last delivery, or the beginning
	missed int64     // periods reported since
	timer  *time.Timer
	ended  bool
}

// begin starts the watch; report is called, and does not block, after every period without a delivery.
func (s *silence) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.last = time.Now()
	s.timer = time.AfterFunc(s.period, s.look)
}

// heard notes a delivery. The timer is left alone: it finds out when it fires.
func (s *silence) heard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.missed = time.Now(), 0
}

func (s *silence) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	quiet := time.Since(s.last)
	if missed := int64(quiet / s.period); missed > s.missed {
		s.missed = missed
		s.report(quiet)
	}
	s.timer.Reset(time.Duration(s.missed+1)*s.period - quiet)
}

// end stops the watch: report is not called any more.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
