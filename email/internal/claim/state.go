package claim

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	// clockBack is by how many seconds the time of a record may lie before that of an earlier one
	// because servers tell it so; beyond, somebody has set the clock back.
	clockBack = 60
	// maxMembers is how many members are known; fewMembers how many are, however long
	// they have been silent.
	maxMembers, fewMembers = 1 << 10, 1 << 5
	// silence is after how many seconds a member that has nothing counts as gone.
	silence = 3600
	// holdSeconds is for how long messages are held back at most after a log has been lost. Everybody has
	// to notice that within CheckEvery.
	holdSeconds = 90
)

// State is what the records up to one of them amount to. The zero value is the state before the first record.
type State struct {
	// UID is the record up to which the state goes, and Now its time; time never goes back, but by
	// more than a minute. Start is the time at which the group began, or 0 if it has not yet.
	UID   uint32 `json:"uid"`
	Now   int64  `json:"now"`
	Start int64  `json:"start"`
	// Log is the name of the log, which it has kept if the server has renumbered it or it was moved to another.
	Log string `json:"log,omitempty"`

	// Validity is the UIDVALIDITY of the inbox. All messages below Read are settled, or among Open.
	Validity uint32 `json:"validity"`
	Read     uint32 `json:"read"`
	// Limit is, after the inbox was renumbered, behind what has to be looked at again.
	Limit uint32 `json:"limit,omitempty"`

	// Below and Hold are set in the state that a new log begins with because one has been lost: what is in the inbox
	// below the UID may have been handled by the Silent members, and can't be claimed before they have said what they have done,
	// or that time has come.
	Below  uint32          `json:"below,omitempty"`
	Hold   int64           `json:"hold,omitempty"`
	Silent map[string]bool `json:"silent,omitempty"`

	Members map[string]*Member `json:"members,omitempty"`
	Open    map[Key]*Open      `json:"open,omitempty"`
	Settled Memory             `json:"settled"`
	// Dead are the newest dead letters, DeadCount is how many there have been.
	Dead      []DeadLetter `json:"dead,omitempty"`
	DeadCount uint64       `json:"dead-count,omitempty"`

	// Checkpoint is up to which record the newest checkpoint seen goes. It, and Records, how many
	// records have come after it, are not part of the checkpoint.
	Checkpoint uint32 `json:"-"`
	Records    int    `json:"-"`
}

// Member is somebody who has written a record.
type Member struct {
	// Number is that of its last record, Until when its lease ends, Seen the UID of the record.
	Number uint64 `json:"number"`
	Until  int64  `json:"until"`
	Seen   uint32 `json:"seen"`
	// Lost are the messages in its last record that it did not have, or did not get.
	Lost []Key `json:"lost,omitempty"`
}

// Open is a message that somebody has claimed and nobody has settled.
type Open struct {
	// UID is where it is in the inbox, or 0 if that is not known since the inbox was renumbered.
	UID uint32 `json:"uid"`
	// Member has it; "" if it was given back. Then nobody gets it before After.
	Member string `json:"member,omitempty"`
	After  int64  `json:"after,omitempty"`
	// Attempts is how often it has been claimed.
	Attempts int    `json:"attempts"`
	Reason   string `json:"reason,omitempty"` // of the last release
}

// DeadLetter is a message that could not be handled.
type DeadLetter struct {
	Key      Key    `json:"key"`
	UID      uint32 `json:"uid"` // in the inbox of Validity
	Validity uint32 `json:"validity"`
	At       int64  `json:"at"`
	Attempts int    `json:"attempts"`
	Reason   string `json:"reason,omitempty"`
}

// Entry is a record with its place and time in the log.
type Entry struct {
	UID    uint32
	At     time.Time // when the mail server has stored it
	Record *Record
}

// Advance applies further records, which follow the state in ascending order, and takes what a checkpoint
// among them contains: records that it covers may be missing. The records pass to the state.
func (s *State) Advance(entries []Entry) {
	newest := -1
	for i, e := range entries {
		if state := e.Record.State; state != nil && state.UID > s.UID && state.UID < e.UID &&
			(newest < 0 || state.UID > entries[newest].Record.State.UID) {
			newest = i
		}
	}
	if newest >= 0 {
		*s = *entries[newest].Record.State
		s.Checkpoint = s.UID
	}
	for _, e := range entries {
		s.apply(e)
	}
}

// apply applies a record.
func (s *State) apply(e Entry) {
	if e.UID <= s.UID {
		return
	}
	r := e.Record
	s.UID = e.UID
	s.Records++
	s.tick(e.At.Unix())
	if s.Start == 0 && !s.begin(r) {
		return
	}
	if r.Log != "" && s.Log != "" && r.Log != s.Log {
		return // it is for a log that has been lost
	}
	if r.State != nil && r.State.UID > s.Checkpoint && r.State.UID < e.UID {
		s.Checkpoint = r.State.UID
		s.Records = 0
	}
	m := s.member(r.Member)
	if r.Number <= m.Number {
		return // it has come before
	}
	m.Number, m.Until, m.Seen, m.Lost = r.Number, s.Now+r.Lease, e.UID, nil
	if !r.Ask && (r.State == nil || r.State.UID != 0) {
		delete(s.Silent, r.Member)
	}
	s.settle(r, m)
	s.move(r)
	for _, c := range r.Claims {
		if !s.claim(r, c) {
			m.Lost = append(m.Lost, c.Key)
		}
	}
	if r.Leave {
		s.leave(r.Member)
	}
	s.prune()
}

// tick sets the time.
func (s *State) tick(now int64) {
	if now < s.Now-clockBack {
		// Nobody's lease lasts longer because of the time that there was.
		for _, m := range s.Members {
			m.Until -= s.Now - now
		}
		for _, o := range s.Open {
			o.After -= s.Now - now
		}
		s.Now = now
	}
	s.Now = max(s.Now, now)
}

// begin takes the state that a log begins with.
func (s *State) begin(r *Record) bool {
	if r.State == nil || r.State.UID != 0 || r.State.Validity == 0 {
		return false
	}
	uid, now, records := s.UID, s.Now, s.Records
	*s = *r.State
	s.UID, s.Records, s.Log = uid, records, r.Log
	s.tick(now)
	if s.Start == 0 {
		s.Start = max(now, 1)
	}
	if s.Below != 0 {
		s.Hold, s.Silent = s.Now+holdSeconds, make(map[string]bool)
		for name := range s.Members {
			s.Silent[name] = true
		}
	}
	return true
}

func (s *State) member(name string) *Member {
	if s.Members == nil {
		s.Members = make(map[string]*Member)
	}
	m := s.Members[name]
	if m == nil {
		m = new(Member)
		s.Members[name] = m
	}
	return m
}

// settle applies what a member says about what it has.
func (s *State) settle(r *Record, m *Member) {
	his := func(key Key) *Open {
		o := s.Open[key]
		if o == nil || o.Member != r.Member {
			m.Lost = append(m.Lost, key)
			return nil
		}
		return o
	}
	finish := func(key Key) {
		delete(s.Open, key)
		s.Settled.add(key, s.UID)
	}
	for _, key := range r.Done {
		if his(key) != nil {
			finish(key)
		}
	}
	for _, d := range r.Dead {
		if o := his(d.Key); o != nil {
			s.Dead = append(s.Dead, DeadLetter{d.Key, o.UID, s.Validity, s.Now, o.Attempts, d.Reason})
			s.Dead = s.Dead[max(0, len(s.Dead)-MaxDead):]
			s.DeadCount++
			finish(d.Key)
		}
	}
	for _, d := range r.Released {
		if o := his(d.Key); o != nil {
			o.Member, o.After, o.Reason = "", s.Now+d.Delay, d.Reason
			if d.Untried {
				o.Attempts--
			}
		}
	}
	for _, key := range r.Gone {
		if his(key) != nil {
			delete(s.Open, key) // not settled: it may come in another mail
		}
	}
	for _, key := range r.Recall {
		if o := s.Open[key]; o == nil || o.Member == r.Member || !s.held(o) {
			finish(key)
		}
	}
}

// move applies what a record says about the inbox.
func (s *State) move(r *Record) {
	if r.Resync {
		s.Validity, s.Read, s.Limit = r.Validity, r.Read, r.Limit
		for _, o := range s.Open {
			o.UID = 0
		}
		return
	}
	if r.Validity != s.Validity || r.Read <= s.Read {
		return
	}
	s.Read = r.Read
	if s.Limit != 0 && s.Read >= s.Limit {
		s.Limit = 0
		maps.DeleteFunc(s.Open, func(_ Key, o *Open) bool { return o.UID == 0 && !s.held(o) }) // not there any more
	}
}

// claim gives a message to the writer of a record, or not.
func (s *State) claim(r *Record, c Claim) bool {
	if r.Validity != s.Validity || c.UID == 0 {
		return false
	}
	o := s.Open[c.Key]
	if o != nil && o.UID == 0 {
		o.UID = c.UID // found again, whoever gets it
	}
	switch {
	case o == nil && (s.Settled.has(c.Key) || len(s.Open) >= MaxOpen || s.OnHold(c.UID)):
		return false
	case o == nil:
		if s.Open == nil {
			s.Open = make(map[Key]*Open)
		}
		o = new(Open)
		s.Open[c.Key] = o
	case o.Member == r.Member:
		return true
	case s.held(o) || o.After > s.Now:
		return false
	}
	o.UID, o.Member, o.After = c.UID, r.Member, 0
	o.Attempts = min(o.Attempts+1, math.MaxInt32)
	return true
}

// held reports whether somebody has a message whose lease has not ended. Times are
// in whole seconds, so a lease that ends now may last as long as this second does.
func (s *State) held(o *Open) bool {
	m := s.Members[o.Member]
	return m != nil && m.Until >= s.Now
}

// leave gives back all that a member has, and forgets it.
func (s *State) leave(member string) {
	for _, o := range s.Open {
		if o.Member == member {
			o.Member, o.After = "", 0
		}
	}
	delete(s.Members, member)
}

// prune forgets members that have nothing and have been silent for long.
func (s *State) prune() {
	if len(s.Members) <= fewMembers {
		return
	}
	busy := make(map[string]bool)
	for _, o := range s.Open {
		busy[o.Member] = true
	}
	names := slices.SortedFunc(maps.Keys(s.Members), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.Members[a].Seen, s.Members[b].Seen), cmp.Compare(a, b))
	})
	for _, name := range names {
		if !busy[name] && (s.Members[name].Until < s.Now-silence || len(s.Members) > maxMembers) {
			delete(s.Members, name)
		}
	}
}

// check says what is wrong with a state that was read, and completes it.
func (s *State) check() error {
	if max(len(s.Members), len(s.Silent)) > maxMembers+1 || len(s.Open) > MaxOpen || len(s.Dead) > MaxDead || s.Validity == 0 || s.UID != 0 && s.Start == 0 || s.Log != "" && !plain(s.Log, maxLog) {
		return errors.New("a state out of bounds")
	}
	for name, m := range s.Members {
		if m == nil || !plain(name, maxMember) || len(m.Lost) > 4*MaxKeys {
			return errors.New("no member")
		}
	}
	for key, o := range s.Open {
		if o == nil || !plain(string(key), maxKey) || o.Member != "" && !plain(o.Member, maxMember) || o.Attempts < 0 {
			return errors.New("no message")
		}
		o.Reason = cut(o.Reason)
	}
	for i := range s.Dead {
		s.Dead[i].Reason = cut(s.Dead[i].Reason)
	}
	return s.Settled.restore()
}
