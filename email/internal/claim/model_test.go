package claim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// mailbox is the model of a mailbox: an inbox with messages, and a log that many append to.
type mailbox struct {
	*testing.T
	rand  *rand.Rand
	now   int64
	next  uint32
	log   []stored
	late  [][]byte // appended, as its writer does not know, but not stored yet
	inbox []Key    // the UID is the index plus 1

	members []*fake
	started int
	truth   State // of all records, whether they have been expunged or not
	acked   map[Key]string
}

type stored struct {
	uid      uint32
	at       int64
	mail     []byte
	expunged bool
}

// fake is a member.
type fake struct {
	name    string
	state   *State
	number  uint64
	pending []byte // appended, not yet known to be applied
	record  *Record
	has     map[Key]bool
	alive   bool
	lease   int64
}

func (b *mailbox) encode(r *Record) []byte {
	body, err := r.Encode()
	if err != nil {
		b.Fatal(err)
	}
	return append([]byte("Subject: "+r.Subject("g")+"\r\n\r\n"), body...)
}

func (b *mailbox) parse(mail []byte) *Record {
	r, err := Parse(mail)
	if err != nil {
		b.Fatalf("%v: %s", err, mail)
	}
	return r
}

// store puts a record into the log, and checks what has changed by it.
func (b *mailbox) store(mail []byte) {
	b.next += 1 + uint32(b.rand.IntN(3))
	b.log = append(b.log, stored{uid: b.next, at: b.now, mail: mail})
	before := make(map[Key]Open)
	for key, o := range b.truth.Open {
		before[key] = *o
	}
	untils := make(map[string]int64)
	for name, m := range b.truth.Members {
		untils[name] = m.Until
		if b.now < b.truth.Now-clockBack {
			untils[name] -= b.truth.Now - b.now
		}
	}
	r := b.parse(mail)
	b.truth.Advance([]Entry{{b.next, time.Unix(b.now, 0), r}})
	for key, o := range b.truth.Open {
		if was, ok := before[key]; ok && was.Member != "" && o.Member != was.Member && was.Member != r.Member && untils[was.Member] >= b.now {
			b.Fatalf("%s was taken from %s at %d, whose lease goes until %d", key, was.Member, b.now, untils[was.Member])
		}
	}
	for key := range before {
		if o := b.truth.Open[key]; o == nil && before[key].Member != r.Member {
			b.Fatalf("%s settled %s, which %q had", r.Member, key, before[key].Member)
		}
	}
}

// read brings a member up to date.
func (b *mailbox) read(m *fake) {
	var entries []Entry
	for _, e := range b.log {
		if e.uid > m.state.UID && !e.expunged {
			entries = append(entries, Entry{e.uid, time.Unix(e.at, 0), b.parse(e.mail)})
		}
	}
	m.state.Advance(entries)
	if m.state.UID != b.truth.UID {
		return // the log does not begin yet
	}
	if b.rand.IntN(8) > 0 {
		return // to compare takes time
	}
	got, _ := json.Marshal(m.state)
	want, _ := json.Marshal(&b.truth)
	if !bytes.Equal(got, want) {
		b.Fatalf("%s believes\n%s\nbut it is\n%s", m.name, got, want)
	}
}

func (b *mailbox) join() {
	b.started++
	b.members = append(b.members, &fake{name: fmt.Sprintf("m%d", b.started), state: new(State), has: make(map[Key]bool), alive: true, lease: 2 + b.rand.Int64N(20)})
}

// append sends a record, and may lose it or the answer.
func (b *mailbox) append(m *fake, faults bool) {
	switch n := b.rand.IntN(10); {
	case faults && n == 0: // lost
	case faults && n == 1:
		b.late = append(b.late, m.pending)
	default:
		b.store(m.pending)
	}
}

// step lets a member do what it does next.
func (b *mailbox) step(m *fake, faults bool) {
	b.read(m)
	if m.pending != nil {
		if m.state.Start == 0 || !m.state.Applied(m.name, m.number) {
			b.append(m, faults)
			return
		}
		b.outcome(m)
	}
	r := &Record{Member: m.name, Number: m.number + 1, Lease: m.lease, Validity: 1}
	if m.state.Start == 0 {
		r.State = Fresh(1, 1)
	} else {
		b.fill(m, r)
	}
	if r.Empty() && len(m.has) == 0 {
		return
	}
	m.number++
	m.record, m.pending = r, b.encode(r)
	b.append(m, faults)
}

// fill says what is to be said.
func (b *mailbox) fill(m *fake, r *Record) {
	for _, key := range sorted(m.has) {
		switch b.rand.IntN(6) {
		case 0, 1:
			r.Done = append(r.Done, key)
		case 2:
			r.Released = append(r.Released, Release{Key: key, Delay: b.rand.Int64N(5)})
		case 3:
			if m.state.Open[key] != nil && m.state.Open[key].Attempts > 5 {
				r.Dead = append(r.Dead, Refusal{key, "why"})
			}
		}
	}
	wanted := 1 + b.rand.IntN(4)
	mails := make(map[Key]uint32)
	for i, key := range b.inbox {
		uid := uint32(i + 1)
		if uid < m.state.Read {
			continue
		}
		if _, known := mails[key]; !known {
			mails[key] = uid
		}
		if m.state.Standing(key, m.name) == Unknown && len(r.Claims) < wanted && b.rand.IntN(2) == 0 {
			r.Claims = append(r.Claims, Claim{key, uid})
		}
	}
	for _, f := range m.state.Free(m.name) {
		if len(r.Claims) < wanted && f.At <= b.now+2 { // some try too early
			r.Claims = append(r.Claims, Claim{f.Key, f.UID})
		}
	}
	r.Read = min(m.state.Unread(mails), uint32(len(b.inbox)+1))
	if m.state.Records > 6 {
		state, _ := json.Marshal(m.state)
		r.State = new(State)
		_ = json.Unmarshal(state, r.State)
	}
}

// outcome notes what became of a record that has been applied.
func (b *mailbox) outcome(m *fake) {
	for _, c := range m.record.Claims {
		if !m.state.Lost(m.name, c.Key) {
			m.has[c.Key] = true
		}
	}
	for _, key := range m.record.Done {
		delete(m.has, key)
		if !m.state.Lost(m.name, key) {
			if other, twice := b.acked[key]; twice {
				b.Fatalf("%s and %s have handled %s", other, m.name, key)
			}
			b.acked[key] = m.name
		}
	}
	for _, d := range m.record.Released {
		delete(m.has, d.Key)
	}
	for _, d := range m.record.Dead {
		delete(m.has, d.Key)
	}
	m.pending = nil
	if c := m.state.Checkpoint; c > 0 && b.rand.IntN(2) == 0 {
		for i := range b.log {
			b.log[i].expunged = b.log[i].expunged || b.log[i].uid <= c
		}
	}
}

// event is something that happens.
func (b *mailbox) event() {
	b.now += b.rand.Int64N(3)
	switch n := b.rand.IntN(40); {
	case n == 0 && len(b.members) > 1:
		b.members = slices.Delete(b.members, 0, 1) // it has crashed
	case n == 1 && len(b.members) < 6:
		b.join()
	case n < 4 && len(b.inbox) < 200:
		key := Key(fmt.Sprintf("%032d/%d", 1+b.rand.IntN(3), 1+b.rand.IntN(100))) // some come twice
		b.inbox = append(b.inbox, key)
	case n == 4 && len(b.late) > 0:
		i := b.rand.IntN(len(b.late))
		b.store(b.late[i])
		b.late = slices.Delete(b.late, i, i+1)
	case n == 5 && b.now > 1e6:
		b.now -= 100 + b.rand.Int64N(1000) // somebody sets the clock
	default:
		b.step(b.members[b.rand.IntN(len(b.members))], true)
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			testModel(t, seed)
		})
	}
}

func testModel(t *testing.T, seed uint64) {
	b := &mailbox{T: t, rand: rand.New(rand.NewPCG(seed, 1)), now: 1e6, acked: make(map[Key]string)}
	b.join()
	b.join()
	for range 1500 {
		b.event()
	}
	for range 1000 { // now all goes well, and those that have crashed are missed
		b.now += 2
		b.step(b.members[b.rand.IntN(len(b.members))], false)
	}
	for i, key := range b.inbox {
		if !b.truth.Settled.has(key) {
			t.Fatalf("message %d, %s, was not settled", i+1, key)
		}
	}
	left := 0
	for _, e := range b.log {
		if !e.expunged {
			left++
		}
	}
	if left > 60 {
		t.Fatalf("%d records are left", left)
	}
}

func sorted(set map[Key]bool) []Key {
	var keys []Key
	for key := range set {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
