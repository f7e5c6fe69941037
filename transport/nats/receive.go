package nats

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// The bounds of what nats.go keeps of an interest until deliver has been called with it. Since deliver does
// not block they are only reached when the process can't keep up at all; what comes beyond is dropped.
const (
	pendingMessages = 1 << 16
	pendingBytes    = 64 << 20
)

// subscription is an interest in topic messages or requests that the server matches.
type subscription struct {
	carrier  *Carrier
	interest transport.Interest
	pattern  bool // the interest's name has wildcards
	deliver  func(transport.Delivery)
	sub      *nats.Subscription
	endpoint *endpoint // of an interest in requests
	stopped  atomic.Bool
	slow     atomic.Bool // messages have been dropped, and it has not caught up since
	// delivered has the topic messages that have been: what a sender does not know to have been taken comes again, and a stream keeps
	// it once, but hands it on each time. It is for handle only.
	delivered order.Memory
}

// subscribe states an interest to the server. A group is a queue group: what a member has got is not
// tracked.
func (c *Carrier) subscribe(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	s := &subscription{carrier: c, interest: interest, deliver: deliver, pattern: strings.ContainsAny(interest.Name, "*>")}
	earlier := c.conn.LastError()
	if err := s.begin(); err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	if err := s.announce(earlier); err != nil {
		s.stop()
		return nil, fmt.Errorf("nats: subscribe to %s: %w", s.sub.Subject, err)
	}
	return s.stop, nil
}

// begin lists the subscription and makes nats.go call it.
func (s *subscription) begin() (err error) {
	c := s.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return c.closedError()
	}
	if s.interest.Kind == transport.Request {
		if s.endpoint, err = c.monitor.add(s.interest); err != nil {
			return err
		}
	}
	if s.sub, err = c.listen(Subject(s.interest.Name), queueOf(s.interest), s.handle); err != nil {
		s.leave()
		return err
	}
	c.subscriptions[s] = struct{}{}
	return nil
}

// queueOf returns the name of the queue group for a group without a stream. The server matches it by the name alone, and a group is of one kind and one name or
// pattern. Servers of one name have the group's own, which those of other programs share.
func queueOf(in transport.Interest) string {
	queue := in.Group
	if queue == "" {
		return ""
	}
	pattern := strings.ContainsAny(in.Name, "*>")
	switch {
	case in.Kind == transport.TopicMessage:
		queue += ":topic"
	case pattern:
		queue += ":service"
	}
	if pattern {
		queue += ":" + wildcards.Replace(Subject(in.Name))
	}
	return queue
}

// wildcards writes those of a subject as other escapes are.
var wildcards = strings.NewReplacer("*", "%2A", ">", "%3E")

// listen has handle called with what comes at a subject, to one of a queue group if it has a name. Close waits
// until the last call has returned.
func (c *Carrier) listen(subject, group string, handle nats.MsgHandler) (*nats.Subscription, error) {
	var sub *nats.Subscription
	var err error
	if group == "" {
		sub, err = c.conn.Subscribe(subject, handle)
	} else {
		sub, err = c.conn.QueueSubscribe(subject, group, handle)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	c.ending.Add(1)
	ended := sync.OnceFunc(c.ending.Done)
	sub.SetClosedHandler(func(string) { ended() })
	if !sub.IsValid() {
		ended() // the connection was closed for good before it could have been told
	}
	if err := sub.SetPendingLimits(pendingMessages, pendingBytes); err != nil {
		_ = sub.Unsubscribe() // it is not valid any more
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return sub, nil
}

// announce waits until the server has heard of the subscription, or the connection is lost: then it will
// with the next one. earlier is the last error before.
func (s *subscription) announce(earlier error) error {
	conn := s.carrier.conn
	if !conn.IsConnected() {
		return nil
	}
	if err := conn.FlushTimeout(roundTrip); err != nil {
		return nil
	}
	// The server does not answer a subscription unless it refuses it, and then before the round trip ends.
	err := conn.LastError()
	if err != earlier && errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), fmt.Sprintf("Subscription to %q", s.sub.Subject)) {
		return fmt.Errorf("%w: %w", transport.ErrRefused, err)
	}
	return nil
}

// stop ends the interest, unless that has been done.
func (s *subscription) stop() {
	c := s.carrier
	c.mu.Lock()
	delete(c.subscriptions, s)
	c.mu.Unlock()
	s.end()
}

// end ends the deliveries.
func (s *subscription) end() {
	if s.stopped.Swap(true) {
		return
	}
	s.carrier.dropped.Add(s.dropped())
	_ = s.sub.Unsubscribe() // it fails when there is nothing left to end
	s.leave()
}

// leave takes the subscription off the monitoring.
func (s *subscription) leave() {
	if s.endpoint != nil {
		s.carrier.monitor.remove(s.endpoint)
	}
}

// handle delivers a message that has come. Calls come one at a time.
func (s *subscription) handle(msg *nats.Msg) {
	if s.stopped.Load() {
		return
	}
	if s.slow.Load() {
		s.noteCaughtUp()
	}
	name := s.interest.Name
	if s.pattern {
		var ok bool
		if name, ok = s.matches(msg.Subject); !ok {
			return
		}
	}
	m := s.message(msg)
	if m == nil {
		return
	}
	if m.Kind == transport.TopicMessage {
		if key := keyOf(m, msg.Header); !key.IsZero() && !s.delivered.Add(key, order.SourceTime(m)) {
			return
		}
	}
	m.Name = name
	s.deliver(transport.Delivery{Message: m})
}

// matches returns the name of a subject that matches that of the pattern, if the pattern stands for it: the
// subject of "*.b" matches that of "/b", and that of ">" inboxes.
func (s *subscription) matches(subject string) (name string, ok bool) {
	if first := s.interest.Name[0]; (first == '*' || first == '>') && s.carrier.isInbox(subject) {
		return "", false
	}
	name, ok = Name(subject)
	return name, ok && transport.MatchName(s.interest.Name, name)
}

// isInbox reports whether answers come at a subject.
func (c *Carrier) isInbox(subject string) bool {
	for _, prefix := range [...]string{defaultInbox, c.config.InboxPrefix} {
		if rest, ok := strings.CutPrefix(subject, prefix); ok && strings.HasPrefix(rest, ".") {
			return true
		}
	}
	return false
}

// message returns the message that has come, but for its name, or nil if it is not of the kind
// that is wanted. One of another program is what the interest is in: a topic message in any case, and a
// request if it can be answered.
func (s *subscription) message(msg *nats.Msg) *transport.Message {
	m, ours := read(msg.Header, msg.Data)
	m.Info.ReceivedTime = time.Now()
	if ours && m.Kind != s.interest.Kind {
		return nil
	}
	if !ours {
		m.Kind, m.InReplyTo, m.Error = s.interest.Kind, transport.ID{}, nil
	}
	if m.Kind == transport.Request {
		reply := s.carrier.replySubject(msg, ours)
		switch {
		case canAnswer(reply):
			m.ReplyTo = replyAddress{reply, !ours, s.endpoint.number, m.Info.ReceivedTime}.String()
		case !ours:
			return nil
		}
		s.endpoint.requests.Add(1)
		if m.From == "" {
			m.From = reply
		}
	}
	if ours {
		if err := s.carrier.bodyOf(s.carrier.background, msg.Header, m); err != nil {
			s.carrier.logger.Warn("nats: a message is lost that can't be read", "subject", msg.Subject, "message_id", m.ID.String(), "error", err)
			return nil
		}
	}
	if m.Info.SourceTime.IsZero() {
		m.Info.SourceTime = m.Info.ReceivedTime
	}
	return m
}

// Dropped returns how many messages, answers among them, have been dropped because the process was too slow to take them from
// the connection.
func (c *Carrier) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.dropped.Load() + c.inbox.dropped()
	for s := range c.subscriptions {
		n += s.dropped()
	}
	return n
}

// dropped returns how many messages for the subscription have been dropped.
func (s *subscription) dropped() uint64 { return droppedOf(s.sub) }

func droppedOf(sub *nats.Subscription) uint64 {
	n, err := sub.Dropped()
	if err != nil || n < 0 {
		return 0 // it has ended
	}
	return uint64(n)
}

// noteSlow counts and logs that messages for a subscription are being dropped.
func (c *Carrier) noteSlow(sub *nats.Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subscriptions {
		if s.sub == sub && !s.slow.Swap(true) {
			c.logger.Warn("nats: messages are dropped: the process is too slow to take them", "name", s.interest.Name)
		}
	}
}

// noteCaughtUp logs how many messages have been dropped, when no more are.
func (s *subscription) noteCaughtUp() {
	if waiting, _, err := s.sub.Pending(); err != nil || waiting > 1 {
		return
	}
	s.slow.Store(false)
	s.carrier.logger.Info("nats: messages are taken again", "name", s.interest.Name, "dropped", s.dropped())
}
