package nats

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// member is an interest with a durable name or in a group: it pulls from the consumer, and gets what comes. It
// implements source.
type member struct {
	consumer   *consumer
	interest   transport.Interest
	deliver    func(transport.Delivery)
	inFlight   int
	maxDeliver int
	puller     *puller
	delivering atomic.Bool

	// The puller's: taken has what is delivered with the next flush, and doubtful what is to be taken then if no other member has it.
	// connection is the number of the connection to the server since which it pulls.
	taken      []*ticket
	doubtful   []arrival
	connection uint64

	// consumer.mu guards the rest.
	held int       // deliveries that are not settled
	rest time.Time // it asks for nothing before, so that others get what it has given back
}

// arrival is a message as it has come.
type arrival struct {
	msg   *nats.Msg
	place place
}

func newMember(c *consumer, in transport.Interest, deliver func(transport.Delivery)) *member {
	m := &member{
		consumer: c, interest: in, deliver: deliver,
		inFlight:   cmp.Or(in.InFlight, transport.DefaultInFlight),
		maxDeliver: cmp.Or(in.MaxDeliver, transport.DefaultMaxDeliver),
	}
	carrier := c.stream.carrier
	m.puller = &puller{
		source: m, conn: carrier.conn, stream: c.stream.Name, size: m.inFlight, label: c.label,
		logger: carrier.logger, settling: carrier.settling, wake: make(chan struct{}, 1), begun: make(chan struct{}, 1),
	}
	return m
}

// leave ends the interest, which gets nothing more. What it has can still be settled.
func (m *member) leave() {
	c := m.consumer
	c.mu.Lock()
	c.members = slices.DeleteFunc(c.members, func(other *member) bool { return other == m })
	c.mu.Unlock()
	c.releaseIfIdle()
}

// prepareGroup is prepare for a member of a group.
func (m *member) prepareGroup(ctx context.Context) (supply, error) {
	c := m.consumer
	err := c.readPages(ctx)
	if err == nil && (m.connection == 0 || m.connection != c.stream.carrier.connection()) {
		err = errDisconnected
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave = time.Now().Add(c.lease)
	return supply{consumer: c.name, lease: c.lease}, err
}

// prepare implements source. What was lost on its way to the reader of a durable name comes first, so that it comes in order:
// it is the reader's until its lease ends.
func (m *member) prepare(ctx context.Context) (s supply, err error) {
	c := m.consumer
	began := time.Now()
	m.connection = c.stream.carrier.connection()
	info, err := c.ensure(ctx)
	if err != nil {
		return supply{}, err
	}
	if c.claim != nil {
		c.claim.doubt()
		if err := c.claim.confirm(ctx); err != nil {
			return supply{}, err
		}
	}
	if err := c.page.mend(ctx); err != nil {
		return supply{}, err
	}
	if c.claim == nil {
		return m.prepareGroup(ctx)
	}
	for busy := c.back.busy(); busy || c.lost(info, m.connection); busy = c.back.busy() {
		c.mu.Lock()
		left := time.Until(began.Add(c.lease + leaseMargin))
		c.mu.Unlock()
		if left <= 0 && !busy { // what is being given back comes first, too
			break
		}
		if !backoff.Sleep(ctx, lookAgain) {
			return supply{}, ctx.Err()
		}
		if info, err = c.ensure(ctx); err != nil {
			return supply{}, err
		}
	}
	return supply{consumer: c.name, next: info.Delivered.Consumer + 1, returned: info.NumAckPending > 0}, c.readPages(ctx)
}

// lookAgain is how long to wait before the server is asked again what is unsettled.
const lookAgain = 100 * time.Millisecond

// lost reports whether the server may have more unsettled messages than are known here.
func (c *consumer) lost(info *jetstream.ConsumerInfo, connection uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if info.NumAckPending == 0 && len(c.open) == 0 { // what was delayed the stream has removed
		for seq, d := range c.delayed {
			c.forget(seq, d.key)
		}
		c.waiting = 0
	}
	return info.NumAckPending > c.surelyAtServer(connection)
}

// room implements source.
func (m *member) room() int {
	m.consumer.mu.Lock()
	defer m.consumer.mu.Unlock()
	if time.Now().Before(m.rest) {
		return 0
	}
	return m.inFlight - m.held - len(m.doubtful)
}

// restAWhile makes others come first. consumer.mu is held.
func (m *member) restAWhile() {
	if m.consumer.claim == nil {
		m.rest = time.Now().Add(givenBackDelay)
		time.AfterFunc(givenBackDelay, m.hasRoom)
	}
}

// hasRoom says that room has become more.
func (m *member) hasRoom() { signal(m.puller.wake) }

// signal puts an element into a channel, unless one waits there.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// The words to the server about a delivery.
var (
	wordAck      = []byte("+ACK")
	wordNak      = []byte("-NAK")
	wordProgress = []byte("+WPI")
	wordTerm     = []byte("+TERM")
)

// nak asks for a message to be delivered again after a delay.
func nak(delay time.Duration) []byte {
	if delay <= 0 {
		return wordNak
	}
	return append(strconv.AppendInt(append([]byte(nil), `-NAK {"delay":`...), delay.Nanoseconds(), 10), '}')
}

// refuse implements source. These deliveries do not count.
func (m *member) refuse(late []*nats.Msg, since time.Time) {
	c := m.consumer
	ctx, cancel := context.WithTimeout(c.stream.carrier.settling, apiTimeout) // for all: more may wait than there is time for one after the other
	defer cancel()
	counts := make(map[uint64]int, len(late))
	for _, msg := range late {
		p, ok := placeOf(msg.Reply)
		if !ok {
			continue // a word of the server
		}
		n := 1
		if p.attempt > 1 {
			n += c.deliveriesNotCounted(ctx, p)
		}
		counts[p.stream] = n
	}
	c.mu.Lock()
	maps.Copy(c.uncounted, counts)
	c.mu.Unlock()
	c.book.writeUncounted(ctx, counts)
	for _, msg := range late {
		if strings.HasPrefix(msg.Reply, ackPrefix) {
			c.refuse(msg.Reply, since, wordNak)
		}
	}
}

// take implements source.
func (m *member) take(msg *nats.Msg, p place) {
	c := m.consumer
	if m.comesAgain(msg.Reply, p) || c.leaveForgotten(msg.Reply, p) {
		return
	}
	if c.isDoubtful(p) {
		m.doubtful = append(m.doubtful, arrival{msg, p})
		return
	}
	m.takeOwn(m.consumer.stream.carrier.settling, msg, p)
}

// takeDoubtful takes what nobody else has, or has settled.
func (m *member) takeDoubtful(ctx context.Context) {
	c, all := m.consumer, m.doubtful
	if len(all) == 0 {
		return
	}
	m.doubtful = nil
	err := c.readPages(ctx)
	asking, cancel := context.WithTimeout(ctx, apiTimeout) // for all
	defer cancel()
	for _, a := range all {
		wait := givenBackDelay
		if err == nil {
			wait = c.leaveFor(a.place)
		}
		switch {
		case wait <= 0:
			m.takeOwn(asking, a.msg, a.place)
		case ctx.Err() == nil: // else it comes again by itself
			c.refuse(a.msg.Reply, a.place.since, nak(wait))
		}
	}
}

// takeOwn takes a message that no other member has.
func (m *member) takeOwn(ctx context.Context, msg *nats.Msg, p place) {
	c := m.consumer
	carrier := c.stream.carrier
	message, err := carrier.stored(msg, c.interest)
	if err != nil {
		carrier.logger.Warn("nats: a message can't be read", "for", c.label, "stream", c.stream.Name, "number", p.stream, "attempt", p.attempt, "error", err)
		if p.attempt < m.maxDeliver || carrier.background.Err() != nil {
			c.refuse(msg.Reply, p.since, nak(unreadableDelay))
			return
		}
	}
	if message == nil { // of another kind
		c.noteUnanswerable(msg, p)
		_ = c.reply(msg.Reply, wordAck)
		return
	}
	uncounted := 0
	if p.attempt > 1 {
		uncounted = c.deliveriesNotCounted(ctx, p)
	}
	t := c.accept(m, message, msg, p, uncounted)
	switch {
	case t == nil:
		_ = c.reply(msg.Reply, wordAck) // it has been handled, or is here already
	case err != nil:
		t.Term(err.Error())
	default:
		m.taken = append(m.taken, t)
	}
}

// flush implements source. What a group delivers is put on the page first, so that a server that is killed and has forgotten that
// it has delivered something does not deliver it to somebody else. When nothing can be put there it is given back, not having been tried.
func (m *member) flush(ctx context.Context) error {
	m.takeDoubtful(ctx)
	if len(m.taken) == 0 {
		return nil
	}
	tickets := m.taken
	m.taken = nil
	m.delivering.Store(true)
	defer m.delivering.Store(false)
	if err := m.hold(ctx, tickets); err != nil {
		m.delivering.Store(m.consumer.claim == nil) // what a durable name gives back comes at once, before anything else
		for _, t := range tickets {
			t.Nack(-1, "")
		}
		return err
	}
	for _, t := range tickets {
		if t.isLost() { // it has been on its way for too long
			t.passOn(0)
			continue
		}
		m.deliver(transport.Delivery{Message: t.message, Settler: t, Attempt: t.attempt, Repeated: t.repeated})
	}
	return nil
}

// hold puts on the page what is about to be delivered to a group. For a durable name it only makes sure that what is settled can be put
// there. If the server has been out of reach meanwhile the messages are lost: others who have found it again sooner did not see them on the page.
func (m *member) hold(ctx context.Context, tickets []*ticket) error {
	c := m.consumer
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if c.claim != nil {
		return c.page.mend(ctx)
	}
	attempts := make(map[uint64]int, len(tickets))
	c.mu.Lock()
	for _, t := range tickets {
		attempts[t.seq] = t.delivered
	}
	c.mu.Unlock()
	err := c.page.hold(ctx, attempts)
	if at := c.stream.carrier.connection(); at == 0 || at != m.connection {
		for _, t := range tickets {
			t.lost.Store(true)
		}
		return errDisconnected
	}
	return err
}

// noteUnanswerable logs once that a plain message to a service is no request.
func (c *consumer) noteUnanswerable(msg *nats.Msg, p place) {
	if c.interest.Kind != transport.Request || c.unanswerable.Load() {
		return
	}
	if _, ours := read(msg.Header, nil); !ours && !c.unanswerable.Swap(true) {
		c.stream.carrier.logger.Warn("nats: plain messages to a service are left out: without a field "+headerReplyTo+" nobody can be answered", "for", c.label, "stream", c.stream.Name, "name", c.interest.Name, "number", p.stream)
	}
}

// unreadableDelay is how long a message waits whose body can't be had now.
const unreadableDelay = 5 * time.Second

// comesAgain reports whether a delivery is one of a message that is being handled here: its lease had ended, or the
// server did not know that it had come.
func (m *member) comesAgain(reply string, p place) bool {
	c := m.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.open[p.stream]
	if t == nil {
		return false
	}
	if c.claim == nil || c.claim.isSure() {
		t.lost.Store(false) // nobody else has it, or not any more
	}
	t.reply, t.connection = reply, m.connection
	t.uncounted += p.attempt - t.delivered
	t.delivered = p.attempt
	t.extend(p.since, c.lease)
	return true
}

// wantedElsewhere reports whether a request is a repetition of one that is open, by another sender: the answer is wanted there, too. c.mu is held.
func (c *consumer) wantedElsewhere(open uint64, request *transport.Message) bool {
	t := c.open[open]
	return t != nil && request.Kind == transport.Request && t.message.From != request.From
}

// accept makes out the ticket for a message, unless it has been handled or is here already.
func (c *consumer) accept(m *member, message *transport.Message, msg *nats.Msg, p place, uncounted int) *ticket {
	key := keyOf(message, msg.Header)
	if key.IsZero() {
		key = order.Key{ID: transport.ParseID(fmt.Sprintf("%s.%d", c.stream.Name, p.stream))}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.delayed[p.stream]; ok {
		delete(c.delayed, p.stream)
	} else if p.attempt > 1 && c.waiting > 0 {
		c.waiting--
	}
	if _, ok := c.doneElsewhere[p.stream]; ok {
		return nil
	}
	repeated := c.handled.Has(key)
	if other, ok := c.known[key]; ok && other != p.stream && !c.wantedElsewhere(other, message) || repeated && message.Kind != transport.Request {
		return nil
	}
	t := &ticket{
		member: m, connection: m.connection, message: message, key: key, seq: p.stream, stored: p.stored, reply: msg.Reply, repeated: repeated,
		delivered: p.attempt, uncounted: uncounted, attempt: max(p.attempt-uncounted, 1),
	}
	t.extend(p.since, c.lease)
	if c.open[p.stream] = t; len(c.open) == 1 {
		signal(c.opened)
	}
	c.known[key] = p.stream
	m.held++
	return t
}
