package proxy

import (
	"sync"
	"time"
)

// quiet is how long a client may send nothing in the middle of a flight. It waits for an
// answer then, although by the judge's word it has not sent all that it could.
const quiet = time.Second

// flights is the count of one connection's flights. What the client sends before it has seen an
// answer to any of it is one flight, and takes one round trip.
type flights struct {
	mu       sync.Mutex
	whole    func(flight string) bool // nil: they are not counted
	list     []string
	answered bool          // the client has been sent something since the last flight began
	open     chan struct{} // closed while the client may be sent something
	timer    *time.Timer   // opens after quiet
}

// CountFlights has the flights of all connections counted from now on: how many times clients have sent
// data after they have been sent some, which is how many round trips they take. So that it
// does not depend on who is faster, the answer to a flight is held back until whole, which gets all of the
// flight so far, says that it is complete, or until the client sends nothing more for a second, so that one
// that waits where it should not is found by its count. whole is not called concurrently
// for one connection. If it is nil, counting ends.
func (p *Proxy) CountFlights(whole func(flight string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = whole
	p.flown = nil
	for c := range p.open {
		c.flights.count(whole)
		p.flown = append(p.flown, &c.flights)
	}
}

// Flights returns what clients have sent since CountFlights was called, one flight each, by connection.
func (p *Proxy) Flights() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, f := range p.flown {
		f.mu.Lock()
		all = append(all, f.list...)
		f.mu.Unlock()
	}
	return all
}

// count begins to count, or begins anew.
func (f *flights) count(whole func(string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.whole, f.list, f.answered = whole, nil, true
	f.release()
}

// release lets what the server sends pass. f.mu is held.
func (f *flights) release() {
	if f.open == nil {
		f.open = make(chan struct{})
		close(f.open)
		return
	}
	select {
	case <-f.open:
	default:
		close(f.open)
	}
}

// sent notes what the client has sent.
func (f *flights) sent(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.whole == nil {
		return
	}
	if f.answered {
		f.answered = false
		f.list = append(f.list, "")
	}
	last := &f.list[len(f.list)-1]
	*last += string(data)
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.whole(*last) {
		f.release()
		return
	}
	select {
	case <-f.open:
		f.open = make(chan struct{})
	default:
	}
	held := f.open
	f.timer = time.AfterFunc(quiet, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.open == held {
			f.release()
		}
	})
}

// answer waits until the client may be sent something, and notes that it is. It returns false when
// the connection is cut.
func (f *flights) answer(cut <-chan struct{}) bool {
	for {
		f.mu.Lock()
		if f.whole == nil {
			f.mu.Unlock()
			return true
		}
		open := f.open
		select {
		case <-open:
			f.answered = true
			f.mu.Unlock()
			return true
		default:
		}
		f.mu.Unlock()
		select {
		case <-open:
		case <-cut:
			return false
		}
	}
}

// stop ends what count has begun.
func (f *flights) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
}
