package transporttest

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/postbus/postbus/transport"
)

var loadCases = []testCase{
	{"ThousandMessages", nil, thousandMessages},
	{"ConcurrentSenders", nil, concurrentSenders},
	{"InterestsComeAndGo", nil, interestsComeAndGo},
}

// checkStream checks that messages 1 to n of every source arrived in box once, and in
// order if the carrier keeps it.
func (e *env) checkStream(box *inbox, sources []*source, n int) {
	e.Helper()
	last := make(map[transport.GID]uint64)
	seen := make(map[transport.GID]map[uint64]bool)
	for _, s := range sources {
		seen[s.gid] = make(map[uint64]bool)
	}
	inversions := 0
	for _, m := range box.messages() {
		gid, seq := m.Info.PublisherGID, m.Info.Sequence
		switch {
		case seen[gid] == nil:
			e.Errorf("a message of %v arrived, which sends none", gid)
			continue
		case seen[gid][seq]:
			e.Errorf("message %d of %v arrived twice", seq, gid)
		case seq < 1 || seq > uint64(n):
			e.Errorf("message %d of %v arrived, which was not sent", seq, gid)
		}
		if want := fmt.Sprint(gid, " ", seq); string(m.Body) != want {
			e.Errorf("message %d of %v says %q", seq, gid, m.Body)
		}
		if seq < last[gid] {
			inversions++
		}
		last[gid] = max(last[gid], seq)
		seen[gid][seq] = true
	}
	for gid, got := range seen {
		if len(got) != n {
			e.Errorf("%d messages of %v arrived, want %d", len(got), gid, n)
		}
	}
	if e.Features.Ordered && inversions > 0 {
		e.Errorf("%d messages came after a later one of the same publisher", inversions)
	}
}

// stream sends n messages that checkStream knows.
func (s *source) stream(p *participant, name string, n int) {
	p.Helper()
	for seq := 1; seq <= n; seq++ {
		s.publish(p, name, fmt.Sprint(s.gid, " ", seq))
	}
}

func thousandMessages(e *env) {
	a, b := e.open(), e.open()
	box, src := b.topic("/t"), newSource()
	const n = 1000
	src.stream(a, "/t", n)
	box.atLeast(n)
	settle(a, b)
	e.checkStream(box, []*source{src}, n)
}

func concurrentSenders(e *env) {
	participants := []*participant{e.open(), e.open(), e.open()}
	boxes := []*inbox{participants[0].topic("/t"), participants[1].topic("/t"), participants[1].topic("/*")}
	const each = 50
	var sources []*source
	var wg sync.WaitGroup
	for _, p := range participants {
		for range 2 {
			s := newSource()
			sources = append(sources, s)
			wg.Go(func() { s.stream(p, "/t", each) })
		}
	}
	wg.Wait()
	for _, box := range boxes {
		box.atLeast(each * len(sources))
	}
	settle(participants...)
	for _, box := range boxes {
		e.checkStream(box, sources, each)
	}
}

// interestsComeAndGo changes interests while messages arrive: those that stay must not
// notice.
func interestsComeAndGo(e *env) {
	a, b := e.open(), e.open()
	box, src := b.topic("/t"), newSource()
	const n = 200
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, name := range []string{"/t", "/*", "/other"} {
		wg.Go(func() {
			for range 1000 { // not for ever: with mail the stream takes long
				select {
				case <-done:
					return
				default:
				}
				runtime.Gosched() // these goroutines are to disturb, not to starve
				passing := newInbox(e)
				stop, err := b.node.Receive(transport.Interest{Kind: transport.TopicMessage, Name: name}, passing)
				if err != nil {
					e.Errorf("receive %s: %v", name, err)
					return
				}
				stop()
			}
		})
	}
	src.stream(a, "/t", n)
	close(done)
	wg.Wait()
	box.atLeast(n)
	settle(a, b)
	e.checkStream(box, []*source{src}, n)
}
