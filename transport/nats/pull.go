package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/internal/backoff"
)

// source is a consumer of JetStream and what becomes of its messages. Its methods are called by one goroutine.
type source interface {
	// prepare makes the consumer ready to be pulled from, at first and after each trouble.
	prepare(ctx context.Context) (supply, error)
	// room returns how many more messages can be taken.
	room() int
	// take takes a message.
	take(m *nats.Msg, p place)
	// flush is called after the last take for now. When it fails nothing more can be taken.
	flush(ctx context.Context) error
	// refuse is called in the end with what came too late to be taken, if anything did; since is as in place.
	refuse(late []*nats.Msg, since time.Time)
}

// supply says what can be pulled.
type supply struct {
	consumer string // its name
	// next is the number that the consumer gives its next delivery, or 0 if others get deliveries of it, too.
	next uint64
	// returned says that there are messages that have been delivered before. The server does not keep their order.
	returned bool
	// lease is that of a group: how long a delivery is the member's. Zero if it does not matter when it was made.
	lease time.Duration
}

// place says where a delivery stands.
type place struct {
	stream, consumer uint64 // its number in the stream, and among the deliveries of the consumer
	attempt          int    // how often the message has been delivered
	stored           time.Time
	pending          uint64    // how many messages the consumer has yet to deliver
	since            time.Time // with a lease, a moment before which the server has not delivered it; else when it came
}

// puller asks a consumer for messages, never for more than there is room for, and hands them on.
type puller struct {
	source
	conn   *nats.Conn
	stream string
	size   int // the most that there can be room for
	label  string
	logger *slog.Logger
	// settling ends when Close does not wait any longer.
	settling context.Context
	wake     chan struct{} // gets an element when there is room again
	failed   bool          // it has been said that there is trouble
	begun    chan struct{} // gets an element when messages have been asked for, or could not be
	asked    atomic.Int64  // for so many messages that have not come; the session writes it
}

// wants reports whether with so much room it is time to ask for messages.
func (p *puller) wants(room int) bool {
	asked := int(p.asked.Load())
	return room > asked && (asked == 0 || room-asked >= p.size/4)
}

const (
	// pullExpires is how long a pull waits at the server, and pullHeartbeat how often it says that it does.
	pullExpires   = time.Minute
	pullHeartbeat = 5 * time.Second
	// pullBytes is how much a pull gets at most: a server closes the connection of a client for which too much waits (max_pending, 64
	// MB by default), and would do so each time.
	pullBytes = 8 << 20
	// statusRoom is how many words of the server about pulls may wait to be read.
	statusRoom = 256
	// unsubscribeTimeout bounds the wait for what the server had sent already.
	unsubscribeTimeout = 2 * time.Second
)

const (
	pullSubject  = "$JS.API.CONSUMER.MSG.NEXT."
	ackPrefix    = "$JS.ACK."
	pendingField = "Nats-Pending-Messages"
	// tooLarge is what the server says when the next message does not fit into a pull, or into what is left of it.
	tooLarge = "Message Size Exceeds MaxBytes"
)

var (
	errDisconnected = errors.New("the connection was lost")
	errSilent       = errors.New("the server has forgotten that messages were asked for")
	errMissed       = errors.New("messages were lost on their way")
)

// run pulls until ctx ends.
func (p *puller) run(ctx context.Context) {
	for failures := 0; ; {
		began := time.Now()
		err := p.session(ctx)
		signal(p.begun)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= backoff.Least {
			failures = 0
		}
		if errors.Is(err, errMissed) && failures == 0 {
			failures++
			continue // prepare waits as long as it takes
		}
		if !p.failed && !errors.Is(err, errDisconnected) {
			p.failed = true
			p.logger.Warn("nats: no messages come at the moment; trying again", "for", p.label, "stream", p.stream, "error", err)
		}
		failures++
		if !p.pause(ctx, backoff.Delay(failures)) {
			return
		}
	}
}

// pause waits for a while, or until there is a connection again, or else until ctx ends: then it returns false.
func (p *puller) pause(ctx context.Context, delay time.Duration) bool {
	connected := p.conn.StatusChanged(nats.CONNECTED)
	defer p.conn.RemoveStatusListener(connected)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-connected:
	case <-ctx.Done():
		return false
	}
	return true
}

// session pulls until something is wrong.
func (p *puller) session(ctx context.Context) error {
	connected, disconnect := p.whileConnected(ctx)
	defer disconnect()
	supply, err := p.prepare(connected)
	if err != nil {
		if connected.Err() != nil {
			return errDisconnected
		}
		return err
	}
	s := &session{puller: p, supply: supply, msgs: make(chan *nats.Msg, p.size+statusRoom), connected: connected}
	if s.sub, err = p.conn.ChanSubscribe(p.conn.NewInbox(), s.msgs); err != nil {
		return err
	}
	defer s.end()
	s.asked.Store(0)
	s.silence = time.NewTimer(2 * pullHeartbeat)
	defer s.silence.Stop()
	defer func() { _ = s.flush(connected) }() // something else is wrong already
	for ctx.Err() == nil {
		if len(s.msgs) == 0 {
			if err := s.flush(connected); err != nil {
				return err
			}
		}
		room := p.room()
		if s.returned && room > 0 {
			if err := s.gather(ctx, room); err != nil {
				return err
			}
			s.returned = false
			continue
		}
		if p.wants(room) && !s.returned && s.mayAdd() {
			if err := s.pull(room - int(s.asked.Load())); err != nil {
				return err
			}
			signal(s.begun)
		}
		if err := s.step(ctx, p.take); err != nil {
			return err
		}
	}
	return nil
}

// whileConnected returns a context that ends with the connection: what was on its way then does not come.
func (p *puller) whileConnected(ctx context.Context) (connected context.Context, end func()) {
	lost := p.conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	connected, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-lost:
			cancel()
		case <-connected.Done():
		}
	})
	return connected, func() {
		cancel()
		watching.Wait()
		p.conn.RemoveStatusListener(lost)
	}
}

// session is a subscription to what is pulled, until something is wrong.
type session struct {
	*puller
	supply
	sub  *nats.Subscription
	msgs chan *nats.Msg
	// connected ends with the connection, and with the interest.
	connected context.Context
	silence   *time.Timer
	since     time.Time // when the first of those messages was asked for that may be to come
	fresh     bool      // nothing has come since messages were last asked for
	large     bool      // the next message does not fit into a pull
}

// pull asks for so many messages. In a group the server forgets soon that it was asked, so that it is known of each message how long ago
// it was delivered at most, however long it was on its way.
func (s *session) pull(n int) error {
	expires := pullExpires
	if s.lease > 0 {
		expires = min(expires, s.lease/4)
	}
	heartbeat := min(pullHeartbeat, expires/2)
	return s.ask(n, fmt.Sprintf(`"expires":%d,"idle_heartbeat":%d`, expires.Nanoseconds(), heartbeat.Nanoseconds()))
}

// mayAdd reports whether more can be asked for before all has come, or will not, that was asked for: not when the next message has to come alone,
// and with a lease only soon after.
func (s *session) mayAdd() bool {
	return s.asked.Load() == 0 || !s.large && (s.lease == 0 || time.Since(s.since) < s.lease/8)
}

// ask asks for so many messages, or fewer. The next one may be larger than such a pull gets in all, as one that is from before the server's
// max_payload was made smaller: it comes alone.
func (s *session) ask(n int, how string) error {
	bound := fmt.Sprintf(`,"max_bytes":%d`, max(pullBytes, 2*s.conn.MaxPayload()))
	if s.large {
		n, bound = 1, ""
	}
	if s.asked.Load() == 0 {
		s.since = time.Now()
	}
	if err := s.conn.PublishRequest(pullSubject+s.stream+"."+s.consumer, s.sub.Subject, fmt.Appendf(nil, `{"batch":%d%s,%s}`, n, bound, how)); err != nil {
		return err
	}
	s.fresh = true
	s.asked.Add(int64(n))
	s.silence.Reset(2 * pullHeartbeat)
	return nil
}

// gather takes those messages first that have been delivered before, in the order of the stream, if there is room for
// them: there was when they were delivered.
func (s *session) gather(ctx context.Context, room int) error {
	type message struct {
		*nats.Msg
		place
	}
	var got []message
	for more := true; more && len(got) < room; {
		before, large := len(got), s.large
		if err := s.ask(room-len(got), `"no_wait":true`); err != nil {
			return err
		}
		for s.asked.Load() > 0 && ctx.Err() == nil {
			err := s.step(ctx, func(m *nats.Msg, at place) { got = append(got, message{m, at}) })
			if err != nil {
				return err // they come again
			}
		}
		more = (len(got) > before || s.large && !large) && ctx.Err() == nil
	}
	slices.SortStableFunc(got, func(a, b message) int { return cmp.Compare(a.place.stream, b.place.stream) })
	for _, m := range got {
		s.take(m.Msg, m.place)
	}
	return nil
}

// step waits for something to happen. What comes is taken.
func (s *session) step(ctx context.Context, take func(*nats.Msg, place)) error {
	select {
	case m := <-s.msgs:
		s.silence.Reset(2 * pullHeartbeat)
		at, ok := placeOf(m.Reply)
		if !ok {
			return s.status(m)
		}
		if at.since = s.since; s.lease == 0 {
			at.since = time.Now()
		}
		s.got(1)
		if s.next != 0 {
			if at.consumer != s.next {
				return errMissed // this one, too, will come again
			}
			s.next++
		}
		s.works()
		s.fresh, s.large = false, false
		take(m, at)
	case <-s.wake:
	case <-s.silence.C:
		if s.asked.Load() > 0 {
			return errSilent
		}
	case <-s.connected.Done():
		if ctx.Err() == nil {
			return errDisconnected
		}
	}
	return nil
}

// works notes that the server gives messages, or says that there are none.
func (p *puller) works() {
	if p.failed {
		p.failed = false
		p.logger.Info("nats: messages come again", "for", p.label, "stream", p.stream)
	}
}

// got notes that so many messages have come, or will not.
func (s *session) got(n int) { s.asked.Store(max(s.asked.Load()-int64(n), 0)) }

// end ends what was asked for, and gives back what comes all the same.
func (s *session) end() {
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) }) // it is called again when the connection breaks just then
	s.sub.SetClosedHandler(func(string) { end() })
	if !s.conn.IsConnected() || s.sub.Drain() != nil {
		_ = s.sub.Unsubscribe() // of a connection that is closed
		return
	}
	timeout := time.NewTimer(unsubscribeTimeout)
	defer timeout.Stop()
	var late []*nats.Msg
	for waiting := true; waiting; {
		select {
		case m := <-s.msgs:
			late = append(late, m)
		case <-ended:
			waiting = false
		case <-timeout.C:
			waiting = false
		case <-s.settling.Done():
			waiting = false
		}
	}
	_ = s.sub.Unsubscribe() // unless it has ended
	for len(s.msgs) > 0 {
		late = append(late, <-s.msgs)
	}
	if len(late) > 0 {
		s.refuse(late, s.since)
	}
}

// status reads what the server says about pulls: that some of the messages that were asked for do not come, or that it is
// in trouble.
func (s *session) status(m *nats.Msg) error {
	code, text := m.Header.Get(headerStatus), m.Header.Get("Description")
	left, err := strconv.Atoi(m.Header.Get(pendingField))
	switch {
	case err == nil && (code == "408" || code == "409"):
		s.got(left)
		s.large = s.large || s.fresh && text == tooLarge
	case code == "404" || code == "408": // nothing waits for what gather has asked for
		s.asked.Store(0)
		s.works()
	case code == "100": // a heartbeat
		s.works()
	case code == "409" && text == "Batch Completed": // all has come of a pull that had a bound in bytes
	case code == noResponders:
		return errors.New("the consumer does not answer: its server is only starting, or it has been deleted")
	default:
		return fmt.Errorf("the server says %s %s", code, text)
	}
	return nil
}

// placeOf reads the reply subject of a delivery. It returns false if it is none.
func placeOf(reply string) (p place, ok bool) {
	if !strings.HasPrefix(reply, ackPrefix) {
		return place{}, false
	}
	// $JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.attempt.stream.consumer.stored.pending[.random]
	tokens := strings.Count(reply, ".") + 1
	skip := 4
	if tokens >= 11 {
		skip = 6
	} else if tokens != 9 {
		return place{}, false
	}
	var n [5]uint64
	rest := reply
	for i := range skip + len(n) {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		if i < skip {
			continue
		}
		var err error
		if n[i-skip], err = strconv.ParseUint(token, 10, 64); err != nil {
			return place{}, false
		}
	}
	return place{stream: n[1], consumer: n[2], attempt: int(min(n[0], 1<<30)), stored: time.Unix(0, int64(n[3])), pending: n[4]}, true
}
