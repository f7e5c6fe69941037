package nats

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// consumer is a durable name or a group, as a carrier knows it: a durable consumer of JetStream, what has been got from it
// here, and who has got it. It outlives the interests that are stated with the name.
//
// What it has got is a ticket until it is settled, and the server knows that. A durable name is one carrier's at a time,
// which has it by a claim; a group is everybody's. Nobody but the server knows what a group has open, and the server knows all.
type consumer struct {
	stream *stream
	name   string // that of JetStream's consumer
	label  string // for people: durable name "x", group "y"
	// interest is that of the first to use the name here: Kind and Name count, and Durable or Group.
	interest transport.Interest
	lease    time.Duration // AckWait of JetStream's consumer
	book     book
	page     *page
	claim    *claim // of a durable name
	back     backlog
	opened   chan struct{} // gets an element when something is open
	ended    chan struct{} // closed when it is forgotten
	found    atomic.Bool   // JetStream has had it
	// joining is how many are about to join, and joined says that somebody has; stream.mu guards them.
	joining int
	joined  bool
	// unanswerable says that a plain message to a service has been left out, and that this has been logged.
	unanswerable atomic.Bool

	mu      sync.Mutex
	members []*member            // that are there
	acking  int                  // Acks that have not returned
	acked   sync.Cond            // there are less of these
	open    map[uint64]*ticket   // delivered and not settled on record, by their numbers in the stream
	known   map[order.Key]uint64 // the numbers of those that are open or delayed
	delayed map[uint64]delayed   // given back to the server for a while; of a durable name only
	handled order.Memory
	// leaseNoted says that it has been logged that a member wants another lease.
	leaseNoted bool
	// uncounted says how many deliveries of a message do not count as attempts to handle it.
	uncounted map[uint64]int
	// waiting is how many messages a former user of the durable name had left with the server.
	waiting int
	// doneElsewhere and openElsewhere are what the pages of others have said last; left is what was left to those who
	// have it open, in any case until a time.
	doneElsewhere map[uint64]struct{}
	openElsewhere map[uint64]int
	left          map[uint64]struct{}
	leave         time.Time
}

const (
	// durableLease is for how long a message of a durable name is its reader's without a word of it. Nobody
	// else takes it meanwhile or after, so it only says how soon what was lost on the way, or with a process, comes again.
	durableLease = 2 * time.Second
	// leaseMargin is for what lies between a look at the clock and what is done then: a lease counts as ended so much before its end for
	// who has it, and so much after it for who waits for it.
	leaseMargin = 250 * time.Millisecond
	// unsettledMessages is how many messages of a consumer may be unsettled or delayed; then the server holds
	// the others back.
	unsettledMessages = 1 << 16
)

// What the metadata of a consumer say of the interest that it is for.
const (
	metaKind = "postbus-kind"
	metaName = "postbus-name"
)

// join adds an interest to its durable name or group. What nobody has been able to join is forgotten: the next one
// may use the name otherwise.
func (s *stream) join(ctx context.Context, in transport.Interest, deliver func(transport.Delivery)) (*member, error) {
	c, err := s.consumer(in)
	if err != nil {
		return nil, err
	}
	m, err := c.join(ctx, in, deliver)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.joining--
	c.joined = c.joined || err == nil
	if !c.joined && c.joining == 0 {
		delete(s.consumers, c.name)
		close(c.ended)
		c.releaseIfIdle()
	}
	return m, err
}

// consumer returns what the carrier knows of the interest's durable name or group, for join.
func (s *stream) consumer(in transport.Interest) (*consumer, error) {
	name, label := "durable-"+in.Durable, fmt.Sprintf("durable name %q", in.Durable)
	if in.Group != "" {
		if in.Durable != "" {
			return nil, fmt.Errorf("an interest with Durable and Group, which remembers by itself: %w", transport.ErrNotSupported)
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", in.Kind, in.Name))
		name, label = "group-"+in.Group+"-"+hex.EncodeToString(sum[:6]), fmt.Sprintf("group %q", in.Group)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.consumers[name]
	if c == nil {
		c = &consumer{
			stream: s, name: name, label: label, interest: in, lease: durableLease, book: book{s, name},
			opened: make(chan struct{}, 1), ended: make(chan struct{}),
			open: make(map[uint64]*ticket), known: make(map[order.Key]uint64), delayed: make(map[uint64]delayed), uncounted: make(map[uint64]int),
			left: make(map[uint64]struct{}),
		}
		c.page, c.acked.L = newPage(c), &c.mu
		if in.Group != "" {
			c.lease = cmp.Or(in.Lease, transport.DefaultLease)
		} else {
			c.claim = &claim{consumer: c}
		}
		s.consumers[name] = c
		s.carrier.work(c.renewLeases)
	}
	if err := c.check(c.interest.Kind.String(), c.interest.Name, in); err != nil {
		return nil, err
	}
	c.joining++
	return c, nil
}

// check says that the durable name, or the group, is for an interest in another kind or name.
func (c *consumer) check(kind, name string, in transport.Interest) error {
	if kind != in.Kind.String() || name != in.Name {
		return fmt.Errorf("%s is that of an interest in %s %s: %w", c.label, kind, name, transport.ErrInUse)
	}
	return nil
}

// config returns what JetStream is to know of the consumer when it is created.
func (c *consumer) config() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       c.name,
		Description:   c.label + " of postbus",
		Metadata:      map[string]string{metaKind: c.interest.Kind.String(), metaName: c.interest.Name},
		FilterSubject: Subject(c.interest.Name),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       c.lease,
		MaxDeliver:    -1, // who can't handle a message says so
		MaxAckPending: unsettledMessages,
		DeliverPolicy: jetstream.DeliverNewPolicy,
	}
}

// ensure finds JetStream's consumer, or creates it: then the name begins now, or with the last messages if the interest
// asks for them.
func (c *consumer) ensure(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	if err := c.stream.ensure(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	connection := c.stream.carrier.connection()
	js := c.stream.carrier.js
	found, err := js.Consumer(ctx, c.stream.Name, c.name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		config := c.config()
		if c.interest.Last > 0 {
			first, err := c.stream.firstOfLast(ctx, c.interest)
			if err != nil {
				return nil, err
			}
			config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, first
		}
		if c.found.Load() {
			c.stream.carrier.logger.Error("nats: a consumer has been deleted, and with it what it knew; it begins anew", "for", c.label, "stream", c.stream.Name)
		}
		found, err = js.CreateConsumer(ctx, c.stream.Name, config)
		if errors.Is(err, jetstream.ErrConsumerExists) { // somebody else was faster
			found, err = js.Consumer(ctx, c.stream.Name, c.name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s of stream %s: %w", c.label, c.stream.Name, c.stream.failure(err))
	}
	c.found.Store(true)
	info := found.CachedInfo()
	return info, c.adopt(info, connection)
}

// adopt checks that JetStream's consumer is for the interest, and takes over the lease that it has.
func (c *consumer) adopt(info *jetstream.ConsumerInfo, connection uint64) error {
	meta := info.Config.Metadata
	if kind, name := meta[metaKind], meta[metaName]; kind != "" || name != "" {
		if err := c.check(kind, name, c.interest); err != nil {
			return err
		}
	} else if info.Config.FilterSubject != Subject(c.interest.Name) {
		return fmt.Errorf("%s is that of an interest in the subject %s: %w", c.label, info.Config.FilterSubject, transport.ErrInUse)
	}
	if info.Config.AckPolicy != jetstream.AckExplicitPolicy || info.Config.DeliverSubject != "" {
		return fmt.Errorf("%s: the consumer %s of stream %s has not been made by postbus: %w", c.label, c.name, c.stream.Name, transport.ErrInUse)
	}
	if err := c.differs(info.Config); err != nil {
		return err
	}
	anew := c.page.begin(info.Created, info.Config.AckWait, connection)
	c.mu.Lock()
	defer c.mu.Unlock()
	if anew {
		c.beginAnew()
	}
	if wait := info.Config.AckWait; wait != c.lease && wait > 0 {
		c.stream.carrier.logger.Warn("nats: the lease of a consumer is that of its first user", "for", c.label, "stream", c.stream.Name, "lease", wait, "wanted", c.lease)
		c.lease = wait
	}
	return nil
}

// differs says in what JetStream's consumer is not as it has to be: it would lose messages, or keep them back, without a word.
func (c *consumer) differs(have jetstream.ConsumerConfig) error {
	want := c.config()
	return differs("consumer "+c.name+" of stream "+c.stream.Name,
		field{"filter", want.FilterSubject, cmp.Or(have.FilterSubject, strings.Join(have.FilterSubjects, " "))},
		field{"backoff", 0, len(have.BackOff)},
		field{"max deliver", want.MaxDeliver, have.MaxDeliver},
		field{"headers only", false, have.HeadersOnly},
		field{"replay", want.ReplayPolicy.String(), have.ReplayPolicy.String()},
		field{"inactive threshold", want.InactiveThreshold, have.InactiveThreshold},
		field{"max request batch", 0, have.MaxRequestBatch},
		field{"max request expires", time.Duration(0), have.MaxRequestExpires},
		field{"max request bytes", 0, have.MaxRequestMaxBytes},
	)
}

// beginAnew forgets what an earlier consumer of the name had delivered: the numbers mean other messages now, if any. c.mu is held.
func (c *consumer) beginAnew() {
	for _, t := range c.open {
		t.lost.Store(true)
		if !t.used {
			t.member.held--
		}
	}
	clear(c.open)
	clear(c.known)
	clear(c.delayed)
	clear(c.uncounted)
	clear(c.left)
	c.openElsewhere, c.doneElsewhere, c.waiting = nil, nil, 0
}

// join adds an interest. When nobody else is there it gets what others have left unsettled here. It fails for good
// reasons only: what the network does not let it do now is done later.
func (c *consumer) join(ctx context.Context, in transport.Interest, deliver func(transport.Delivery)) (*member, error) {
	m := newMember(c, in, deliver)
	if c.claim != nil {
		c.claim.mu.Lock() // until the claim has been tried: others wait
		defer c.claim.mu.Unlock()
	}
	c.mu.Lock()
	if c.claim != nil && len(c.members) > 0 {
		c.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", c.label, transport.ErrInUse)
	}
	var left []*ticket
	if len(c.members) == 0 {
		left = c.unsettled()
	}
	c.mu.Unlock()
	c.passOn(ctx, left)
	_, err := c.ensure(ctx)
	if err == nil && c.claim != nil {
		err = c.claim.take(ctx)
	}
	if lasting(err) {
		return nil, err
	}
	if err != nil {
		c.stream.carrier.logger.Warn("nats: an interest begins later", "for", c.label, "name", in.Name, "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = append(c.members, m)
	c.noteLease(in)
	return m, nil
}

// noteLease logs once that a further member of a group wants another lease than it has. That the first one does adopt has logged. c.mu is held.
func (c *consumer) noteLease(in transport.Interest) {
	wanted := cmp.Or(in.Lease, transport.DefaultLease)
	if c.claim != nil || wanted == c.lease || wanted == cmp.Or(c.interest.Lease, transport.DefaultLease) || c.leaseNoted {
		return
	}
	c.leaseNoted = true
	c.stream.carrier.logger.Warn("nats: the lease of a consumer is that of its first user", "for", c.label, "stream", c.stream.Name, "lease", c.lease, "wanted", wanted)
}

// lasting reports whether an error will be the same in a while.
func lasting(err error) bool {
	return errors.Is(err, transport.ErrInUse) || errors.Is(err, transport.ErrNotSupported) || errors.Is(err, transport.ErrRefused) || errors.Is(err, errDiffers)
}

// releaseIfIdle lets others have the durable name, if nobody here uses it and all is settled.
func (c *consumer) releaseIfIdle() {
	if c.claim == nil {
		return
	}
	c.mu.Lock()
	idle := len(c.members) == 0 && len(c.open) == 0
	c.mu.Unlock()
	if idle {
		c.stream.carrier.work(func(context.Context) { c.claim.releaseIfIdle(c.stream.carrier.settling) })
	}
}

// unsettled returns the tickets that have not been used, in the order of their messages. c.mu is held, here and below.
func (c *consumer) unsettled() []*ticket {
	var all []*ticket
	for _, seq := range slices.Sorted(maps.Keys(c.open)) {
		if t := c.open[seq]; !t.used {
			all = append(all, t)
		}
	}
	return all
}

// delayed is a message that has been given back to the server.
type delayed struct {
	key  order.Key
	over uint64 // the number of the connection over which the server was told so, or 0
}

// atServer returns how many messages the server has as unsettled, if nothing was lost: at most, for it may not
// know yet of some that they are settled.
func (c *consumer) atServer() int { return len(c.open) + len(c.delayed) + c.waiting }

// surelyAtServer returns how many messages the server has as unsettled at least, and does not deliver before it is to, if nothing was lost. What it was told over
// an earlier connection it may not have heard.
func (c *consumer) surelyAtServer(connection uint64) int {
	n := len(c.unsettled()) + c.waiting
	for _, d := range c.delayed {
		if d.over != 0 && d.over == connection {
			n++
		}
	}
	return n
}

// passOn gives messages back to the server, unless they are settled.
func (c *consumer) passOn(ctx context.Context, tickets []*ticket) {
	if c.claim == nil && len(tickets) > 0 {
		c.page.release(ctx, tickets)
	}
	for _, t := range tickets {
		t.passOn(0)
	}
}

// forget takes a message out of the books.
func (c *consumer) forget(seq uint64, key order.Key) {
	if c.known[key] == seq {
		delete(c.known, key)
	}
	delete(c.delayed, seq)
	delete(c.uncounted, seq)
}

// done notes that a message needs no further handling.
func (c *consumer) done(t *ticket) {
	c.handled.Add(t.key, order.SourceTime(t.message))
	c.forget(t.seq, t.key)
}

// close gives everything back to the server, when the carrier is closed and nothing is under way any more.
func (c *consumer) close() {
	c.mu.Lock()
	left := c.unsettled()
	c.mu.Unlock()
	c.passOn(c.stream.carrier.settling, left)
	c.mu.Lock()
	for c.acking > 0 { // they end with carrier.settling at the latest
		c.acked.Wait()
	}
	c.mu.Unlock()
	if c.claim != nil {
		c.claim.release(c.stream.carrier.settling)
	}
}

// reply tells the server something about a delivery. If it does not hear it the message comes again when its lease has ended.
func (c *consumer) reply(subject string, word []byte) error {
	return c.stream.carrier.conn.PublishMsg(&nats.Msg{Subject: subject, Data: word})
}
