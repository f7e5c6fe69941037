package torture

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/proxy"
)

// fault is something that can be done to the system.
type fault struct {
	name   string
	begin  func() error
	end    func() error // nil if it is over at once
	server bool         // concerns a server
	outage bool         // takes it away: what is back after it is measured
}

// Killings and Disturbances are the names of the faults that need no particular server.
var (
	// Killings end processes with kill -9.
	Killings = []string{"kill-publisher", "kill-outbox", "kill-plain", "kill-durable", "kill-member", "kill-client", "kill-server"}
	// Disturbances are those of connections.
	Disturbances = []string{"cut", "cut-at-byte", "hold", "hold-and-cut", "delay", "throttle", "half-close", "refuse"}
)

// findFaults returns what the options ask for: names, or beginnings of names as in
// "kill", or "all", which are all but "expunge": after that one, messages may be missing. Kinds for which nobody takes part are
// left out.
func (r *run) findFaults() ([]fault, error) {
	all := r.killings()
	all = append(all, r.disturbances()...)
	for _, o := range r.Server.Outages() {
		all = append(all, fault{name: o.Name, begin: o.Begin, end: o.End, server: true, outage: o.End != nil})
	}
	if _, to, err := r.Server.Accounts(); err != nil {
		return nil, err
	} else if to.NATS == nil {
		all = append(all, fault{name: "expunge", begin: r.expunge})
	}
	var chosen []fault
	for _, name := range r.Faults {
		found := slices.Contains(Killings, name) || slices.Contains(Disturbances, name)
		for _, f := range all {
			if name == "all" && f.name != "expunge" && f.name != "renumber" || f.name == name || strings.HasPrefix(f.name, name+"-") {
				chosen = append(chosen, f)
				found = true
			}
		}
		if !found {
			var names []string
			for _, f := range all {
				names = append(names, f.name)
			}
			return nil, fmt.Errorf("torture: no such fault: %q; there are all, %s", name, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}

func (r *run) killings() []fault {
	var all []fault
	for _, name := range Killings {
		var victims []*child
		for _, c := range r.children {
			if strings.HasPrefix(c.name, strings.TrimPrefix(name, "kill-")+"-") {
				victims = append(victims, c)
			}
		}
		if len(victims) > 0 {
			all = append(all, fault{name: name, begin: func() error {
				victims[r.random.intN(len(victims))].kill()
				return nil
			}})
		}
	}
	return all
}

// disturbances returns the faults of connections. Each has the one proxy it was begun on.
func (r *run) disturbances() []fault {
	if len(r.proxies) == 0 {
		return nil
	}
	var all []fault
	add := func(name string, begin func(*link, proxy.Direction), end func(*link)) {
		var l *link
		f := fault{name: name, begin: func() error {
			l = r.proxies[r.random.intN(len(r.proxies))]
			begin(l, proxy.Direction(r.random.intN(2)))
			return nil
		}}
		if end != nil {
			f.end = func() error { end(l); return nil }
		}
		all = append(all, f)
	}
	both := func(rule func() proxy.Rule) func(*link, proxy.Direction) {
		return func(l *link, _ proxy.Direction) {
			l.Set(proxy.ToServer, rule())
			l.Set(proxy.ToClient, rule())
		}
	}
	one := func(rule func() proxy.Rule) func(*link, proxy.Direction) {
		return func(l *link, d proxy.Direction) { l.Set(d, rule()) }
	}
	heal := func(l *link) { l.Heal() }
	add("cut", func(l *link, _ proxy.Direction) { l.Cut() }, nil)
	add("cut-at-byte", func(l *link, d proxy.Direction) { l.CutAfter(d, int64(r.random.intN(2000))) }, nil)
	add("half-close", func(l *link, d proxy.Direction) { l.HalfClose(d) }, nil)
	add("hold", one(func() proxy.Rule { return proxy.Rule{Hold: true} }), heal)
	add("hold-and-cut", both(func() proxy.Rule { return proxy.Rule{Hold: true} }), func(l *link) { l.Cut(); l.Heal() })
	add("delay", both(func() proxy.Rule { return proxy.Rule{Delay: r.random.between(0, 100*time.Millisecond)} }), heal)
	add("throttle", both(func() proxy.Rule {
		return proxy.Rule{Rate: 2000 + r.random.intN(20_000), Piece: 1 + r.random.intN(100)}
	}), heal)
	add("refuse", func(l *link, _ proxy.Direction) { l.Refuse(true); l.Cut() }, heal)
	return all
}

// How long faults last that do not end by themselves.
const (
	shortest = 100 * time.Millisecond
	longest  = 2 * time.Second
)

// breakThings causes faults until ctx ends, and then puts everything right again.
func (r *run) breakThings(ctx context.Context) {
	if len(r.faults) == 0 {
		return
	}
	var lasting sync.WaitGroup
	defer lasting.Wait()
	// One of a kind at a time, and one that concerns the servers.
	busy, servers := make([]sync.Mutex, len(r.faults)), new(sync.Mutex)
	for {
		timer := time.NewTimer(r.random.between(r.FaultEvery/2, r.FaultEvery*3/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		i := r.random.intN(len(r.faults))
		one := &busy[i]
		if r.faults[i].server {
			one = servers
		}
		if one.TryLock() {
			lasting.Go(func() {
				defer one.Unlock()
				r.cause(ctx, r.faults[i])
			})
		}
	}
}

// cause causes a fault and ends it.
func (r *run) cause(ctx context.Context, f fault) {
	kind := history.Fault
	if f.outage {
		kind = history.Out
	}
	r.note(kind, f.name, f.begin())
	if f.end == nil {
		return
	}
	timer := time.NewTimer(r.random.between(shortest, longest))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	// A server that does not come up at once on a busy machine must not stay away for good.
	err := f.end()
	for try := 1; err != nil && try < 5; try++ {
		r.note(history.Fault, f.name, err)
		err = f.end()
	}
	if f.outage || err != nil {
		r.note(history.Back, f.name, err)
	}
}

// note puts a fault into the history.
func (r *run) note(kind history.Kind, name string, err error) {
	if err != nil {
		kind, name = history.Fault, "(failed) "+name
		if r.Progress != nil {
			// Nothing depends on it.
			_, _ = fmt.Fprintf(r.Progress, "%s: %v\n", name, err)
		}
	}
	// If the history can't be written the workers end, and the run fails.
	_ = r.log.Add(history.Event{Kind: kind, Text: name})
}
