package transport_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postbus/postbus/transport"
)

func topic(name string) transport.Interest {
	return transport.Interest{Kind: transport.TopicMessage, Name: name}
}

func published(name string) transport.Delivery {
	return transport.Delivery{Message: &transport.Message{Kind: transport.TopicMessage, Name: name}}
}

func TestDispatcherZeroValue(t *testing.T) {
	var d transport.Dispatcher
	for _, kind := range []transport.Kind{transport.TopicMessage, transport.Request, transport.Response, transport.ErrorResponse, 0} {
		m := &transport.Message{Kind: kind, Name: "/t"}
		if n := d.Dispatch(transport.Delivery{Message: m}); n != 0 {
			t.Errorf("Dispatch of a %v = %d", kind, n)
		}
		if d.Wants(m) {
			t.Errorf("Wants a %v", kind)
		}
	}
	if d.Len() != 0 {
		t.Errorf("Len = %d", d.Len())
	}
}

func TestDispatcherAddAndRemove(t *testing.T) {
	var d transport.Dispatcher
	var got []string
	note := func(who string) func(transport.Delivery) {
		return func(transport.Delivery) { got = append(got, who) }
	}
	expect := func(what string, want ...string) {
		t.Helper()
		got = nil
		n := d.Dispatch(published("a.b"))
		slices.Sort(got)
		if !slices.Equal(got, want) || n != len(want) {
			t.Errorf("%s: %d interests got the message, %q, want %q", what, n, got, want)
		}
		if wants := d.Wants(published("a.b").Message); wants != (len(want) > 0) {
			t.Errorf("%s: Wants = %v", what, wants)
		}
	}
	removeExact1 := d.Add(topic("a.b"), note("exact 1"))
	removeExact2 := d.Add(topic("a.b"), note("exact 2"))
	removeExact3 := d.Add(topic("a.b"), note("exact 3"))
	removeStar1 := d.Add(topic("a.*"), note("star 1"))
	removeStar2 := d.Add(topic("*.*"), note("star 2"))
	removeRest := d.Add(topic("a.>"), note("rest"))
	removeAll := d.Add(topic(">"), note("whole"))
	d.Add(topic("a.b.c"), note("longer"))
	d.Add(topic("a"), note("shorter"))
	d.Add(topic("/>"), note("other form"))
	d.Add(transport.Interest{Kind: transport.Request, Name: "a.b"}, note("service"))
	if d.Len() != 11 {
		t.Errorf("Len = %d, want 11", d.Len())
	}
	expect("all", "exact 1", "exact 2", "exact 3", "rest", "star 1", "star 2", "whole")
	removeExact2()
	removeExact2() // once more does nothing
	if d.Len() != 10 {
		t.Errorf("Len = %d after one was removed, twice, want 10", d.Len())
	}
	expect("without exact 2", "exact 1", "exact 3", "rest", "star 1", "star 2", "whole")
	removeStar1()
	removeAll()
	expect("without star 1 and whole", "exact 1", "exact 3", "rest", "star 2")
	removeExact1()
	removeExact3()
	removeRest()
	expect("patterns only", "star 2")
	removeStar2()
	expect("nothing")
	if d.Len() != 4 {
		t.Errorf("Len = %d, want 4", d.Len())
	}
}

// The same function may be filed several times.
func TestDispatcherSameFunctionTwice(t *testing.T) {
	var d transport.Dispatcher
	n := 0
	count := func(transport.Delivery) { n++ }
	remove := d.Add(topic("/t"), count)
	d.Add(topic("/t"), count)
	d.Dispatch(published("/t"))
	remove()
	d.Dispatch(published("/t"))
	if n != 3 {
		t.Errorf("two interests and then one got %d messages, want 3", n)
	}
}

func TestDispatcherAnswers(t *testing.T) {
	var d transport.Dispatcher
	one, two := transport.NewGID(), transport.NewGID()
	got := make(map[transport.GID]int)
	for _, client := range []transport.GID{one, two} {
		d.Add(transport.Interest{Kind: transport.Response, Client: client}, func(transport.Delivery) { got[client]++ })
	}
	for _, test := range []struct {
		what string
		m    transport.Message
		want transport.GID // zero if nobody's
	}{
		{"response", transport.Message{Kind: transport.Response, Info: transport.Info{ClientGID: one, RequestSequence: 1}}, one},
		{"error response", transport.Message{Kind: transport.ErrorResponse, Info: transport.Info{ClientGID: two, RequestSequence: 1}}, two},
		{"by its ID", transport.Message{Kind: transport.Response, InReplyTo: transport.NewID(two, 1, "h")}, two},
		{"contradiction", transport.Message{Kind: transport.Response, InReplyTo: transport.NewID(two, 1, "h"), Info: transport.Info{ClientGID: one, RequestSequence: 1}}, transport.GID{}},
		{"unknown client", transport.Message{Kind: transport.Response, Info: transport.Info{ClientGID: transport.NewGID()}}, transport.GID{}},
		{"no client", transport.Message{Kind: transport.Response, Name: "/t"}, transport.GID{}},
	} {
		clear(got)
		n := d.Dispatch(transport.Delivery{Message: &test.m})
		switch {
		case test.want.IsZero():
			if n != 0 || len(got) != 0 || d.Wants(&test.m) {
				t.Errorf("%s: %d clients got it", test.what, n)
			}
		case n != 1 || len(got) != 1 || got[test.want] != 1 || !d.Wants(&test.m):
			t.Errorf("%s: %d clients got it, or the wrong one", test.what, n)
		}
	}
}

// What has been added and removed in whatever order, a message comes to those, and only to those, whose pattern
// stands for its name.
func TestDispatcherAgainstModel(t *testing.T) {
	patterns := []string{"a", "/a", "/a/b", "/a/c", "/a/d", "/a/*", "/*/b", "/*/*", "/a/>", ">", "/>", "a.*", "a.>", "*", "/b/c/*", "/b/*/d", "/b/c/d"}
	names := []string{"a", "b", "/a", "/a/b", "/a/c", "/a/d", "/x/b", "a.b", "a.b.c", "/b/c/d", "/b/c/x", "/b/x/d", "/b"}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		var d transport.Dispatcher
		var got []int
		type stated struct {
			number  int
			pattern string
			remove  func()
		}
		var model []stated
		for i := range 1000 {
			// Many at first, so that lists get long; few in the end.
			if random.IntN(1000) > i {
				pattern := patterns[random.IntN(len(patterns))]
				model = append(model, stated{i, pattern, d.Add(topic(pattern), func(transport.Delivery) { got = append(got, i) })})
			} else if len(model) > 0 {
				gone := random.IntN(len(model))
				model[gone].remove()
				model[gone].remove() // once more does nothing
				model = slices.Delete(model, gone, gone+1)
			}
			name := names[random.IntN(len(names))]
			var want []int
			for _, s := range model {
				if transport.MatchName(s.pattern, name) {
					want = append(want, s.number)
				}
			}
			got = nil
			n := d.Dispatch(published(name))
			slices.Sort(got)
			if !slices.Equal(got, want) || n != len(want) || d.Wants(published(name).Message) != (n > 0) || d.Len() != len(model) {
				t.Fatalf("seed %d, step %d: %s came to %d interests, %d, of %d; want %d, of %d", seed, i, name, n, got, d.Len(), want, len(model))
			}
		}
	}
}

// Interests that change during a Dispatch, even from within it, do not disturb it.
func TestDispatcherChangesDuringDispatch(t *testing.T) {
	var d transport.Dispatcher
	var removeLast func()
	added := 0
	d.Add(topic("/t"), func(transport.Delivery) {
		removeLast()
		d.Add(topic("/t"), func(transport.Delivery) { added++ })
	})
	last := 0
	removeLast = d.Add(topic("/t"), func(transport.Delivery) { last++ })
	if n := d.Dispatch(published("/t")); n != 1 || last != 0 || added != 0 {
		t.Errorf("first: %d interests, last got %d, the new one %d; want 1, 0, 0", n, last, added)
	}
	if n := d.Dispatch(published("/t")); n != 2 || last != 0 || added != 1 {
		t.Errorf("second: %d interests, last got %d, the new one %d; want 2, 0, 1", n, last, added)
	}
}

func TestDispatcherConcurrently(t *testing.T) {
	var d transport.Dispatcher
	var stays atomic.Int64
	d.Add(topic("a.b"), func(transport.Delivery) { stays.Add(1) })
	d.Add(topic("a.*"), func(transport.Delivery) { stays.Add(1) })
	const senders, each = 3, 500
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for range each {
				if n := d.Dispatch(published("a.b")); n < 2 {
					t.Errorf("Dispatch = %d, two interests stay", n)
				}
				d.Wants(published("a.b").Message)
			}
		})
	}
	for _, name := range []string{"a.b", "a.*", "a.>", "a.b.c", ">"} {
		wg.Go(func() {
			for range each {
				d.Add(topic(name), func(transport.Delivery) {})()
			}
		})
	}
	wg.Wait()
	if got, want := stays.Load(), int64(senders*each*2); got != want {
		t.Errorf("the interests that stay got %d messages, want %d", got, want)
	}
	if d.Len() != 2 {
		t.Errorf("Len = %d, want 2", d.Len())
	}
}

func TestDispatchDoesNotAllocate(t *testing.T) {
	var d transport.Dispatcher
	d.Add(topic("/a/b"), func(transport.Delivery) {})
	d.Add(topic("/*/c"), func(transport.Delivery) {})
	for name, what := range map[string]string{"/a/b": "an exact interest", "/a/c": "a pattern", "/a/d": "nothing"} {
		delivery := published(name)
		if n := testing.AllocsPerRun(100, func() { d.Dispatch(delivery) }); n != 0 {
			t.Errorf("Dispatch to %s allocates %v times", what, n)
		}
	}
}

// The cost of a message must not grow with the interests that it does not match.
func BenchmarkDispatch(b *testing.B) {
	for _, others := range []int{0, 10, 1000, 100_000} {
		b.Run(fmt.Sprintf("exact/others=%d", others), func(b *testing.B) {
			var d transport.Dispatcher
			for i := range others {
				d.Add(topic(fmt.Sprintf("/robot/%d/state", i)), func(transport.Delivery) {})
			}
			benchmarkDispatch(b, &d, "/robot/arm/state")
		})
		b.Run(fmt.Sprintf("pattern/others=%d", others), func(b *testing.B) {
			var d transport.Dispatcher
			for i := range others {
				d.Add(topic(fmt.Sprintf("/robot/%d/*", i)), func(transport.Delivery) {})
			}
			benchmarkDispatch(b, &d, "/robot/arm/*")
		})
	}
}

func benchmarkDispatch(b *testing.B, d *transport.Dispatcher, interest string) {
	n := 0
	d.Add(topic(interest), func(transport.Delivery) { n++ })
	delivery := published("/robot/arm/state")
	b.ReportAllocs()
	for b.Loop() {
		d.Dispatch(delivery)
	}
	if n == 0 {
		b.Fatal("nothing was delivered")
	}
}

func BenchmarkDispatchFanOut10(b *testing.B) {
	var d transport.Dispatcher
	for range 9 {
		d.Add(topic("/robot/arm/state"), func(transport.Delivery) {})
	}
	benchmarkDispatch(b, &d, "/robot/arm/state")
}

func BenchmarkDispatchParallel(b *testing.B) {
	var d transport.Dispatcher
	d.Add(topic("/robot/arm/state"), func(transport.Delivery) {})
	b.RunParallel(func(pb *testing.PB) {
		delivery := published("/robot/arm/state")
		for pb.Next() {
			d.Dispatch(delivery)
		}
	})
}

// BenchmarkDispatcherAdd adds and removes one of many interests in the same name.
func BenchmarkDispatcherAdd(b *testing.B) {
	for _, others := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			var d transport.Dispatcher
			for range others {
				d.Add(topic("/t"), func(transport.Delivery) {})
			}
			b.ReportAllocs()
			for b.Loop() {
				d.Add(topic("/t"), func(transport.Delivery) {})()
			}
		})
	}
}

// What comes back goes to those who want answers, and to those who want nothing else.
func TestDispatcherUndeliverable(t *testing.T) {
	var d transport.Dispatcher
	gid := transport.NewGID()
	var client, publisher []transport.Kind
	d.Add(transport.Interest{Kind: transport.Response, Client: gid}, func(d transport.Delivery) { client = append(client, d.Message.Kind) })
	remove := d.Add(transport.Interest{Kind: transport.Undeliverable, Client: gid}, func(d transport.Delivery) { publisher = append(publisher, d.Message.Kind) })
	for _, kind := range []transport.Kind{transport.Response, transport.ErrorResponse, transport.Undeliverable} {
		m := &transport.Message{Kind: kind, InReplyTo: transport.NewID(gid, 1, "host")}
		want := 1
		if kind == transport.Undeliverable {
			want = 2
		}
		if n := d.Dispatch(transport.Delivery{Message: m}); n != want || !d.Wants(m) {
			t.Errorf("%v was dispatched %d times, want %d", kind, n, want)
		}
		stranger := &transport.Message{Kind: kind, InReplyTo: transport.NewID(transport.NewGID(), 1, "host")}
		if n := d.Dispatch(transport.Delivery{Message: stranger}); n != 0 {
			t.Errorf("%v of another entity was dispatched %d times", kind, n)
		}
	}
	if len(client) != 3 || len(publisher) != 1 || publisher[0] != transport.Undeliverable {
		t.Errorf("the client got %v, the publisher %v", client, publisher)
	}
	remove()
	if d.Len() != 1 {
		t.Errorf("%d interests are left, want 1", d.Len())
	}
}
