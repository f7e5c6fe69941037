package email

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/transport"
)

// groups are the groups that a carrier is a member of.
type groups struct {
	address  string
	logger   *slog.Logger
	receiver *receiver
	connect  func(ctx context.Context, folder string) (*logFolder, error)

	mu      sync.Mutex
	open    map[string]*group // by folder
	running sync.WaitGroup
	closed  bool
	// ctx ends what is under way.
	ctx    context.Context
	cancel context.CancelFunc
}

// group makes the carrier a member of a group: it has a copy of the group's state, and speaks for
// all interests in the group that the carrier has, its seats.
//
// A message that the receiver offers becomes an item: first a candidate, which the member claims by appending a
// record to the log. When the record has been read back, the state says whether the member has the
// message. Then a seat gets it, and what the seat says of it goes into a record, too.
type group struct {
	groups   *groups
	interest transport.Interest // Kind, Name and Group
	folder   string
	member   string
	lease    time.Duration
	position position // in the inbox, when the interest was stated
	wake     chan struct{}
	closing  chan struct{}
	renewed  atomic.Pointer[time.Time] // when the last record that was applied was first written; written by the loop

	mu    sync.Mutex
	state *claim.State // changed by the loop only
	seats []*seat
	items map[claim.Key]*item
	queue []*item // settled by their seats, and not on record
	over  bool    // the loop has ended
	inbox groupInbox
	// due says when what was given back here is to be claimed again, and avoid by which seat not, if there is another.
	due   map[claim.Key]due
	avoid map[claim.Key]*seat
	// absent are members that were waited for in vain, by the last record of each.
	absent map[string]uint32

	// The rest belongs to the loop.
	log        *logFolder
	validity   uint32    // of the log; 0 before it has been opened
	next       imap.UID  // of the log's mails, to be read
	number     uint64    // of the last record
	pending    *sent     // it may be in the log, or not
	read       time.Time // when the log was last read, and clock when there was something new
	clock      time.Time
	hello      bool         // the others are to know this member
	stale      bool         // the log is to be read
	wanted     bool         // somebody asks for a checkpoint
	lost       *claim.State // what was known of a log that has been lost
	checked    time.Time    // when the log was last seen to be there
	reclaim    bool         // a log has been lost: say what this member has, and has done
	recent     []claim.Key  // what it has done
	unreadable struct {
		uid   imap.UID
		tries int
	}
	failing bool
	opened  time.Time // when the log could be used, in this session
}

// due is when to claim a message again; back that it was given back untried, so that others come first.
type due struct {
	at   time.Time
	back bool
}

// position is a place in the inbox.
type position struct {
	validity uint32
	next     imap.UID
}

// sent is a record that is being written.
type sent struct {
	record *claim.Record
	mail   []byte
	items  []*item   // that it settles
	first  time.Time // when it was sent first
	// checkpoint says that it has one; up to prune mails are not needed when it is there.
	checkpoint bool
	prune      uint32
}

// seat is an interest in the group.
type seat struct {
	deliver  func(transport.Delivery)
	inFlight int
	most     int // deliveries of a message
	busy     int
	stopped  time.Time
}

// join states an interest in a group.
func (s *groups) join(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	seat := &seat{deliver: deliver, inFlight: interest.InFlight, most: interest.MaxDeliver}
	if seat.inFlight == 0 {
		seat.inFlight = transport.DefaultInFlight
	}
	if seat.most == 0 {
		seat.most = transport.DefaultMaxDeliver
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("email carrier is %w", transport.ErrClosed)
	}
	folder := groupFolder(interest)
	g := s.open[folder]
	if g == nil {
		g = newGroup(s, interest, folder)
		if s.open == nil {
			s.open = make(map[string]*group)
			s.ctx, s.cancel = context.WithCancel(context.Background())
		}
		s.open[folder] = g
		s.running.Go(func() { g.run(s.ctx) })
	}
	g.mu.Lock()
	g.seats = append(g.seats, seat)
	g.mu.Unlock()
	signal(g.wake)
	return sync.OnceFunc(func() { g.leave(seat) }), nil
}

func newGroup(s *groups, interest transport.Interest, folder string) *group {
	g := &group{
		groups:   s,
		interest: transport.Interest{Kind: interest.Kind, Name: interest.Name, Group: interest.Group},
		folder:   folder,
		member:   rand.Text(),
		lease:    interest.Lease,
		position: s.receiver.feeds.at(),
		wake:     make(chan struct{}, 1),
		closing:  make(chan struct{}),
		state:    new(claim.State),
		items:    make(map[claim.Key]*item),
		due:      make(map[claim.Key]due),
		avoid:    make(map[claim.Key]*seat),
		absent:   make(map[string]uint32),
		next:     1,
	}
	if g.lease == 0 {
		g.lease = transport.DefaultLease
	}
	return g
}

// groupFolder returns the name of the folder of a group. Groups of the same name
// for other messages are other groups.
func groupFolder(interest transport.Interest) string {
	sum := sha256.Sum256([]byte(interest.Kind.String() + " " + interest.Name))
	return "postbus-group-" + interest.Group + "-" + hex.EncodeToString(sum[:4])
}

// leave ends an interest. What it has, it can still settle.
func (g *group) leave(s *seat) {
	g.mu.Lock()
	s.stopped = time.Now()
	g.seats = slices.DeleteFunc(g.seats, func(other *seat) bool { return other == s })
	if len(g.seats) == 0 {
		g.detach()
	}
	g.mu.Unlock()
	signal(g.wake)
}

// detach lets go of what the receiver has offered and the log does not know yet: it is offered
// again. g.mu is held.
func (g *group) detach() {
	if g.inbox.feed != nil {
		g.inbox.feed.stop()
	}
	g.inbox = groupInbox{}
	for _, it := range g.items {
		if it.stage == stageCandidate {
			delete(g.items, it.key)
		}
	}
}

// unfed reports whether there is a group that is not fed, and so can't say what it needs of the
// inbox: its log can't be reached, or it has been left with something unsettled.
func (s *groups) unfed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.open {
		g.mu.Lock()
		fed := g.inbox.feed != nil
		g.mu.Unlock()
		if !fed {
			return true
		}
	}
	return false
}

// retire ends the group if nobody is interested in it any more.
func (s *groups) retire(g *group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.seats) > 0 || len(g.items) > 0 || g.pending != nil {
		return false
	}
	delete(s.open, g.folder)
	return true
}

// close makes all groups leave, so that others get at once what is not settled, and waits
// for that.
func (s *groups) close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, g := range s.open {
		close(g.closing)
	}
	begun := s.cancel != nil
	s.mu.Unlock()
	if !begun {
		return nil
	}
	defer s.cancel()
	stop := context.AfterFunc(ctx, s.cancel)
	s.running.Wait()
	if stop() {
		return nil
	}
	return ctx.Err()
}

// GroupDeadLetter is a message that a group has given up. It is still in the inbox.
type GroupDeadLetter struct {
	// Group, Kind and Name are those of the interest.
	Group string
	Kind  transport.Kind
	Name  string
	// Message is the GID of the publisher and the number of the message, or what stands for a
	// message without number. UID is where it is in the inbox with this UIDVALIDITY.
	Message          string
	UIDValidity, UID uint32
	// At is when it was given up, by the server's clock, after so many Attempts, and Reason why.
	At       time.Time
	Attempts int
	Reason   string
}

// GroupDeadLetters returns the newest dead letters of the groups that the carrier is a member
// of, at most 200 of each, the oldest first.
func (c *Carrier) GroupDeadLetters() (letters []GroupDeadLetter) {
	c.groups.mu.Lock()
	defer c.groups.mu.Unlock()
	for _, g := range c.groups.open {
		g.mu.Lock()
		for _, d := range g.state.Dead {
			letters = append(letters, GroupDeadLetter{g.interest.Group, g.interest.Kind, g.interest.Name, string(d.Key), d.Validity, d.UID, time.Unix(d.At, 0), d.Attempts, d.Reason})
		}
		g.mu.Unlock()
	}
	slices.SortStableFunc(letters, func(a, b GroupDeadLetter) int { return a.At.Compare(b.At) })
	return letters
}
