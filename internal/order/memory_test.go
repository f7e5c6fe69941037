package order

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/transport"
)

func gid(n int) transport.GID {
	g := transport.GID{1}
	binary.BigEndian.PutUint64(g[8:], uint64(n))
	return g
}

func numbered(publisher int, n uint64) Key { return Key{Publisher: gid(publisher), Sequence: n} }

func TestKeyOf(t *testing.T) {
	id := transport.ParseID("a@b")
	for _, test := range []struct {
		info transport.Info
		id   transport.ID
		want Key
	}{
		{transport.Info{PublisherGID: gid(1), Sequence: 3}, id, Key{Publisher: gid(1), Sequence: 3}},
		{transport.Info{PublisherGID: gid(1)}, id, Key{ID: id}},
		{transport.Info{Sequence: 3}, id, Key{ID: id}},
		{transport.Info{PublisherGID: gid(1).Short(), Sequence: 3}, id, Key{ID: id}},
		{transport.Info{PublisherGID: gid(1).Short(), Sequence: 3}, transport.ID{}, Key{Publisher: gid(1).Short(), Sequence: 3}},
		{transport.Info{}, transport.ID{}, Key{}},
	} {
		m := &transport.Message{Info: test.info, ID: test.id}
		if got := KeyOf(m); got != test.want {
			t.Errorf("%+v: %+v", m, got)
		}
	}
}

// TestMemoryModel: after any history, a memory loaded from its entries, all at once or each as it
// changed, knows the same as the one that was there all the time.
func TestMemoryModel(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := &Memory{tracking: true}
		known := make(map[Key]bool)
		stored := make(map[string][]byte)
		for range 300 {
			k := numbered(r.IntN(5), 1+r.Uint64N(40))
			if r.IntN(3) == 0 {
				k = Key{ID: transport.ParseID(fmt.Sprint(r.IntN(40), "@x"))}
			}
			if m.Has(k) != known[k] || m.Add(k, time.Unix(int64(r.IntN(100)), 0)) == known[k] || !m.Has(k) {
				t.Fatalf("%+v", k)
			}
			known[k] = true
			name, value := m.Entry(k)
			stored[string(name)] = value
		}
		fromStore := func(yield func(name, value []byte) bool) {
			for name, value := range stored {
				if !yield([]byte(name), value) {
					return
				}
			}
		}
		for name, entries := range map[string]func(func(name, value []byte) bool){"stored": fromStore, "all": m.Entries, "clone": m.Clone().Entries} {
			again, err := Load(entries)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(dump(m), dump(again)); diff != "" {
				t.Fatalf("%s: (-want +got)\n%s", name, diff)
			}
		}
	}
}

func dump(m *Memory) []string {
	var list []string
	for name, value := range m.Entries {
		list = append(list, fmt.Sprintf("%x %x", name, value))
	}
	return append(list, fmt.Sprint(m.runs, m.clock))
}

func TestMemoryForgets(t *testing.T) {
	m := &Memory{tracking: true}
	first := time.Unix(1000, 0)
	for i := range maxPublishers {
		m.Add(numbered(i, 1), first.Add(time.Duration(i)))
	}
	m.Add(numbered(0, 2), first) // heard of again
	judge := func(publisher int, n uint64, source time.Time) Verdict {
		message := &transport.Message{}
		message.Info.PublisherGID, message.Info.Sequence, message.Info.SourceTime = gid(publisher), n, source
		return m.Judge(message)
	}
	if v := judge(-1, 1, time.Time{}); v != Unknown {
		t.Errorf("before anything is forgotten: %v", v)
	}
	m.Add(numbered(maxPublishers, 1), first.Add(time.Hour))
	if !m.Has(numbered(0, 1)) || m.Has(numbered(1, 1)) || !m.Has(numbered(2, 1)) {
		t.Error("not the publisher is forgotten that has been silent for longest")
	}
	m.Add(numbered(5, 20), first)
	for _, test := range []struct {
		publisher int
		n         uint64
		source    time.Time
		want      Verdict
	}{
		{1, 1, first.Add(1), Forgotten},
		{-1, 1, first.Add(2), Unknown},
		{0, 9, first, Missing},
		{0, 2, first, Handled},
		{5, 2, first, Missing},
	} {
		if got := judge(test.publisher, test.n, test.source); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
	for i := range maxIDs + 1 {
		m.Add(Key{ID: transport.ParseID(fmt.Sprint(i))}, time.Time{})
	}
	if m.Has(Key{ID: transport.ParseID("0")}) || !m.Has(Key{ID: transport.ParseID("1")}) {
		t.Error("not the oldest ID is forgotten")
	}
	gone, name, value := m.Forget()
	if len(gone) != 2 || string(gone[0]) != string(publisherName(gid(1))) || string(name) != forgottenName || value == nil {
		t.Errorf("forgotten entries: %q", gone)
	}
	if again, _, _ := m.Forget(); len(again) > 0 {
		t.Errorf("again: %q", again)
	}
}

// TestMemoryRuns: publishers full of gaps can't take all memory.
func TestMemoryRuns(t *testing.T) {
	var m Memory
	for p := range 20 {
		for n := range uint64(maxRuns) {
			m.Add(numbered(p, 1+2*n), time.Time{})
		}
	}
	total := 0
	for _, p := range m.publishers.all {
		total += len(p.window.runs)
	}
	if total != m.runs || total > maxTotalRuns {
		t.Errorf("%d runs, counted %d", total, m.runs)
	}
}

func FuzzMemory(f *testing.F) {
	var m Memory
	m.Add(numbered(1, 2), time.Unix(5, 0))
	m.Add(Key{ID: transport.ParseID("x")}, time.Time{})
	m.forgotten = time.Unix(1, 0)
	for name, value := range m.Entries {
		f.Add(name, value)
	}
	f.Fuzz(func(t *testing.T, name, value []byte) {
		m, err := Load(func(yield func(name, value []byte) bool) { yield(name, value) })
		if err != nil {
			return
		}
		again, err := Load(m.Entries)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(dump(m), dump(again)); diff != "" {
			t.Fatal(diff)
		}
	})
}
