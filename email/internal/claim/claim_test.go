package claim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postbus/postbus/transport"
)

func TestKeyOf(t *testing.T) {
	m := &transport.Message{}
	if key := KeyOf(m, 3, 4); key != "@3.4" {
		t.Error(key)
	}
	m.ID = transport.ParseID("a@b")
	foreign := KeyOf(m, 3, 4)
	if !strings.HasPrefix(string(foreign), "#") || foreign != KeyOf(m, 5, 6) || !plain(string(foreign), maxKey) {
		t.Error(foreign)
	}
	m.Info.PublisherGID, m.Info.Sequence = transport.GID{1}, 7
	if key := KeyOf(m, 3, 4); key != "01000000000000000000000000000000/7" {
		t.Error(key)
	}
}

func full() *Record {
	state := Fresh(1, 2)
	state.UID, state.Start, state.Now = 3, 4, 5
	state.Members = map[string]*Member{"b": {Number: 1, Until: 9, Seen: 2, Lost: []Key{"x/1"}}}
	state.Open = map[Key]*Open{"x/1": {UID: 4, Member: "b", Attempts: 2, Reason: "ü"}}
	state.Settled.add("x/5", 1)
	state.Settled.add("#y", 1)
	state.Dead = []DeadLetter{{Key: "x/2", Reason: "no"}}
	return &Record{Member: "a", Number: 1, Lease: 30, Validity: 1, Read: 2, Resync: true, Limit: 3, Done: []Key{"x/1"},
		Dead: []Refusal{{"x/2", "no"}}, Released: []Release{{"x/3", 4, "later", true}}, Gone: []Key{"x/4"},
		Claims: []Claim{{"x/5", 6}}, Leave: true, Ask: true, Recall: []Key{"x/6"}, State: state}
}

func encoded(t testing.TB, r *Record) []byte {
	t.Helper()
	body, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("Subject: x\r\n\r\n"), body...)
}

func TestRecordRoundTrip(t *testing.T) {
	r := full()
	mail := encoded(t, r)
	back, err := Parse(mail)
	if diff := cmp.Diff(r, back, cmpopts.IgnoreUnexported(Memory{})); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for line := range strings.Lines(string(mail)) {
		if len(line) > 998 || !strings.HasSuffix(line, "\r\n") {
			t.Errorf("a line that mail servers may change: %q", line)
		}
	}
	if got, want := r.Subject("g"), "group g: a: 1 claimed, 1 done, 1 dead, 1 released, 1 gone, 1 recalled, checkpoint of 3"; got != want {
		t.Errorf("subject %q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for body, want := range map[string]error{
		"":                      ErrForeign,
		"Hello,\r\nyou":         ErrForeign,
		"{}":                    ErrForeign,
		`{"postbus-group": 2}`:  ErrNewer,
		`{"postbus-group": 1}`:  ErrForeign,
		`{"postbus-group": -1}`: ErrForeign,
		`{"postbus-group": 1, "member": "a b", "number": 1, "lease": 30}`:                                                     ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 0}`:                                                        ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 30, "done": ["\n"]}`:                                       ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 30, "state": {"validity": 0}}`:                             ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 30, "state": {"validity": 1, "members": {"b": null}}}`:     ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 30, "state": {"validity": 1, "open": {"b": null}}}`:        ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 30, "done": [` + strings.Repeat(`"a",`, MaxKeys) + `"a"]}`: ErrForeign,
		`{"postbus-group": 1, "member": "a", "number": 1, "lease": 30, "future": 1}`:                                          nil,
	} {
		if _, err := Parse([]byte("Subject: x\r\n\r\n" + body)); !errors.Is(err, want) {
			t.Errorf("%.100s: %v", body, err)
		}
	}
	if _, err := Parse([]byte("Subject: x\r\n")); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

// log applies records to a state, each a second later than the one before.
type log struct {
	State
	at int64
}

func (l *log) add(r Record) {
	l.at++
	r.Lease, r.Validity = 10, 1
	l.Advance([]Entry{{l.UID + 1, time.Unix(l.at, 0), &r}})
}

func TestLease(t *testing.T) {
	l := &log{at: 100}
	l.add(Record{Member: "a", Number: 1, State: Fresh(1, 5)})
	l.add(Record{Member: "a", Number: 2, Claims: []Claim{{"k", 5}}})
	until := l.at + 10
	l.at = until - 1
	l.add(Record{Member: "b", Number: 1, Claims: []Claim{{"k", 5}}})
	if l.Standing("k", "b") != Others || !l.Lost("b", "k") {
		t.Error("the lease may last as long as this second does, and is over")
	}
	if free := l.Free("b"); len(free) != 1 || free[0].At != until+1 {
		t.Errorf("free: %v", free)
	}
	l.add(Record{Member: "b", Number: 2, Claims: []Claim{{"k", 5}}})
	if l.Standing("k", "b") != Mine || l.Lost("b", "k") || l.Open["k"].Attempts != 2 {
		t.Error("the lease is over, but nobody can take the message")
	}
	l.add(Record{Member: "a", Number: 3, Done: []Key{"k"}})
	if l.Standing("k", "a") != Others || !l.Lost("a", "k") {
		t.Error("who has lost a message can settle it")
	}
	l.add(Record{Member: "b", Number: 3, Done: []Key{"k"}})
	if l.Standing("k", "a") != Settled || l.Lost("b", "k") {
		t.Error("who has it can't settle it")
	}
	l.add(Record{Member: "a", Number: 4, Claims: []Claim{{"k", 9}}})
	if !l.Lost("a", "k") {
		t.Error("what is settled can be claimed")
	}
}

func TestReleaseAndDead(t *testing.T) {
	l := &log{at: 100}
	l.add(Record{Member: "a", Number: 1, State: Fresh(1, 5)})
	l.add(Record{Member: "a", Number: 2, Claims: []Claim{{"k", 5}}})
	l.add(Record{Member: "a", Number: 3, Released: []Release{{Key: "k", Delay: 2, Reason: "no"}}})
	l.add(Record{Member: "b", Number: 1, Claims: []Claim{{"k", 5}}})
	if !l.Lost("b", "k") {
		t.Error("claimed before its time")
	}
	l.add(Record{Member: "b", Number: 2, Claims: []Claim{{"k", 5}}})
	l.add(Record{Member: "b", Number: 2, Claims: []Claim{{"j", 6}}}) // no new record
	l.add(Record{Member: "b", Number: 3, Dead: []Refusal{{"k", "never"}}})
	if l.Standing("k", "b") != Settled || l.Standing("j", "b") != Unknown {
		t.Error("standings")
	}
	want := []DeadLetter{{Key: "k", UID: 5, Validity: 1, At: l.at, Attempts: 2, Reason: "never"}}
	if diff := cmp.Diff(want, l.Dead); diff != "" || l.DeadCount != 1 {
		t.Error(diff)
	}
	l.add(Record{Member: "b", Number: 4, Claims: []Claim{{"j", 6}}})
	l.add(Record{Member: "b", Number: 5, Leave: true})
	if free := l.Free("a"); len(free) != 1 || free[0].At > l.at || l.Applied("b", 5) {
		t.Errorf("after it has left: %v", free)
	}
}

// TestRenumbered: what was claimed is found again in the new inbox, or dropped.
func TestRenumbered(t *testing.T) {
	l := &log{at: 100}
	l.add(Record{Member: "a", Number: 1, State: Fresh(1, 5)})
	l.add(Record{Member: "a", Number: 2, Claims: []Claim{{"k", 5}, {"j", 6}}})
	l.add(Record{Member: "a", Number: 3, Leave: true})
	again := func(r Record) {
		l.at++
		r.Lease, r.Validity = 10, 2
		l.Advance([]Entry{{l.UID + 1, time.Unix(l.at, 0), &r}})
	}
	again(Record{Member: "b", Number: 1, Resync: true, Read: 1, Limit: 10})
	if free := l.Free("b"); len(free) != 0 || l.Unread(map[Key]uint32{"k": 3}) != 3 {
		t.Error("the place of a message in a former inbox is used")
	}
	l.add(Record{Member: "c", Number: 1, Claims: []Claim{{"i", 7}}})
	if !l.Lost("c", "i") {
		t.Error("who looks at the former inbox gets something from it")
	}
	again(Record{Member: "b", Number: 2, Claims: []Claim{{"k", 3}}})
	again(Record{Member: "b", Number: 3, Read: 12})
	if len(l.Open) != 1 || l.Open["k"].UID != 3 || l.Limit != 0 {
		t.Errorf("open: %v", l.Open)
	}
}

// TestLostLog: a new log begins with what a member remembers, and others add to it.
func TestLostLog(t *testing.T) {
	l := &log{at: 100}
	l.add(Record{Member: "a", Number: 1, State: Fresh(1, 5)})
	l.add(Record{Member: "a", Number: 2, Claims: []Claim{{"k", 5}, {"j", 6}}})
	l.add(Record{Member: "a", Number: 3, Done: []Key{"k"}})
	n := &log{at: 200}
	n.add(Record{Member: "c", Number: 1, Claims: []Claim{{"i", 7}}})
	n.add(Record{Member: "a", Number: 4, State: l.Again(9)})
	n.add(Record{Member: "b", Number: 1, State: Fresh(1, 9)}) // comes too late
	n.add(Record{Member: "b", Number: 2, Recall: []Key{"i", "j"}})
	if len(n.Silent) != 1 {
		t.Errorf("silent: %v", n.Silent)
	}
	n.add(Record{Member: "b", Number: 3, Claims: []Claim{{"h", 8}, {"g", 9}}})
	if !n.Lost("b", "h") || n.Lost("b", "g") {
		t.Error("what may have been handled is not held back")
	}
	n.add(Record{Member: "a", Number: 5})
	n.add(Record{Member: "b", Number: 4, Claims: []Claim{{"h", 8}}})
	if n.Lost("b", "h") {
		t.Error("what has not been handled is held back for ever")
	}
	if n.Standing("k", "b") != Settled || n.Standing("j", "a") != Mine || n.Standing("i", "a") != Settled || n.Read != 5 {
		t.Errorf("%+v", n.State)
	}
}

// TestRecordForALostLog: what was meant for a log that has been lost does not count in the one in its place. A log keeps its name.
func TestRecordForALostLog(t *testing.T) {
	l := &log{at: 100}
	l.add(Record{Log: "1", Member: "a", Number: 1, State: Fresh(1, 5)})
	l.add(Record{Log: "1", Member: "b", Number: 1})
	n := &log{at: 200}
	n.add(Record{Log: "2", Member: "a", Number: 2, State: l.Again(9)})
	n.add(Record{Log: "2", Member: "a", Number: 3})
	n.add(Record{Log: "1", Member: "b", Number: 2, Claims: []Claim{{"h", 9}}})
	n.add(Record{Log: "1", Member: "b", Number: 3, Leave: true})
	if !n.Silent["b"] || !n.OnHold(8) || n.Standing("h", "a") != Unknown || n.Applied("b", 2) {
		t.Errorf("%+v", n.State)
	}
	n.add(Record{Log: "3", Member: "b", Number: 4, State: l.Again(9)}) // comes too late
	n.add(Record{Log: "2", Member: "b", Number: 5, Claims: []Claim{{"h", 9}}})
	if len(n.Silent) > 0 || n.Log != "2" || n.Standing("h", "b") != Mine {
		t.Errorf("%+v", n.State)
	}
	n.add(Record{Member: "c", Number: 1, Claims: []Claim{{"i", 9}}})
	if n.Standing("i", "c") != Mine {
		t.Error("a record that names no log does not count")
	}
}

// TestMemory compares with a plain set, as long as nothing has to be forgotten.
func TestMemory(t *testing.T) {
	rand := rand.New(rand.NewPCG(1, 2))
	var m Memory
	set := make(map[Key]bool)
	for range 20000 {
		key := Key(fmt.Sprintf("p%d/%d", rand.IntN(20), 1+rand.IntN(400)))
		if m.has(key) != set[key] {
			t.Fatalf("%s: %v", key, m.has(key))
		}
		m.add(key, 1)
		set[key] = true
		if !m.has(key) {
			t.Fatal(key)
		}
	}
	ranges := m.ranges
	if err := m.restore(); err != nil || m.ranges != ranges {
		t.Error(err, m.ranges, ranges)
	}
}

func TestMemoryBounds(t *testing.T) {
	var m Memory
	for n := range uint64(10000) {
		m.add(Key(fmt.Sprintf("gaps/%d", 2*n+1)), uint32(n))
		m.add(Key(fmt.Sprintf("p%d/1", n)), uint32(n))
		m.add(Key(fmt.Sprintf("#%d", 3*n)), uint32(n))
		m.add(Key(fmt.Sprintf("#%d", 3*n+1)), uint32(n))
		m.add(Key(fmt.Sprintf("#%d", 3*n+2)), uint32(n))
	}
	if m.has("p1/1") || !m.has("p9999/1") || m.has("#1") || !m.has("#29999") {
		t.Error("not the oldest are forgotten")
	}
	if len(m.Publishers) > maxPublishers || len(m.Publishers["gaps"].Ranges) > 2*maxGaps || !m.has("gaps/2") || m.has("gaps/19998") {
		t.Error("gaps")
	}
	if err := m.restore(); err != nil {
		t.Error(err)
	}
}

// TestAhead: every message has one first, and the messages are shared evenly.
func TestAhead(t *testing.T) {
	s := &State{Members: map[string]*Member{"a": {}, "b": {}, "c": {}}}
	first := make(map[string]int)
	for n := range 3000 {
		key := Key(fmt.Sprintf("p/%d", n))
		ranks := 0
		for name := range s.Members {
			rank := len(s.Ahead(key, name))
			ranks |= 1 << rank
			if rank == 0 {
				first[name]++
			}
		}
		if ranks != 7 {
			t.Fatalf("%s: ranks %b", key, ranks)
		}
	}
	for name, n := range first {
		if n < 850 || n > 1150 {
			t.Errorf("%s is the first for %d of 3000", name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(encoded(f, full()))
	f.Add(encoded(f, &Record{Member: "a", Number: 1, Lease: 30, State: Fresh(1, 1)}))
	f.Add([]byte("Subject: hello\r\n\r\nhow are you?\r\n"))
	f.Fuzz(func(t *testing.T, mail []byte) {
		r, err := Parse(mail)
		if err != nil {
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) {
				t.Error(err)
			}
			return
		}
		r.Subject("g")
		again, err := Parse(encoded(t, r))
		if err != nil {
			t.Fatalf("what was read can't be read again: %v", err)
		}
		s := new(State)
		s.Advance([]Entry{{1, time.Unix(1, 0), &Record{Member: "z", Number: 1, Lease: 1, State: Fresh(1, 1)}}, {math32, time.Unix(2, 0), again}})
		s.Free("a")
		checkpoint, err := Parse(encoded(t, &Record{Member: "z", Number: 2, Lease: 1, State: s}))
		if err != nil {
			t.Fatalf("the state that follows can't be a checkpoint: %v", err)
		}
		if diff := cmp.Diff(s, checkpoint.State, cmpopts.IgnoreUnexported(Memory{}), cmpopts.IgnoreFields(State{}, "Checkpoint", "Records"), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

const math32 = 1<<32 - 1
