package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// rawNATS is the floor of NATS: nats.go alone, with a connection for those who send and one for those who receive. Its
// messages have the header fields of postbus', for without any they would be half as large and say less. What
// a stream keeps is published with Nats-Msg-Id, and if the load has several messages in flight, ahead
// of the confirmations.
type rawNATS struct {
	connect func() (*natsgo.Conn, error)
	name    func() string // a new one each time
	kept    bool          // by a stream
}

var _ System = rawNATS{}

// natsPatience is how long a call may take.
const natsPatience = time.Minute

// natsPair are the connections.
type natsPair struct{ from, to *natsgo.Conn }

func (n rawNATS) open() (natsPair, error) {
	from, err := n.connect()
	if err != nil {
		return natsPair{}, err
	}
	to, err := n.connect()
	if err != nil {
		from.Close()
		return natsPair{}, err
	}
	return natsPair{from, to}, nil
}

// Close implements Session and Caller.
func (p natsPair) Close(context.Context) error {
	p.from.Close()
	p.to.Close()
	return nil
}

type natsSession struct {
	natsPair
	subject, inbox string
	gids           []string // of the publishers
	numbers        map[string]int
	subscriptions  []*natsgo.Subscription
	timed          bool
	js             jetstream.JetStream // nil if no stream keeps the messages
}

// aheadSession is a session that does not wait for confirmations.
type aheadSession struct {
	*natsSession
	failed atomic.Pointer[error] // the first confirmation that was none
}

var _ Ahead = (*aheadSession)(nil)

// Open implements System.
func (n rawNATS) Open(_ context.Context, load Load) (Session, error) {
	pair, err := n.open()
	if err != nil {
		return nil, err
	}
	s := &natsSession{natsPair: pair, subject: nats.Subject(n.name()), inbox: pair.from.NewInbox(), numbers: make(map[string]int), timed: load.Timed}
	for i := range load.Publishers {
		gid := transport.NewGID().String()
		s.gids = append(s.gids, gid)
		s.numbers[gid] = i
	}
	if err := s.subscribe(load.Subscribers); err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	session := Session(s)
	if !n.kept {
		return session, nil
	}
	var options []jetstream.JetStreamOpt
	if load.InFlight > 1 {
		ahead := &aheadSession{natsSession: s}
		session = ahead
		options = append(options, jetstream.WithPublishAsyncMaxPending(load.InFlight*load.Publishers), jetstream.WithPublishAsyncErrHandler(ahead.noteFailure))
	}
	if s.js, err = jetstream.New(s.from, options...); err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	return session, nil
}

func (s *natsSession) subscribe(count int) error {
	for range count {
		sub, err := s.to.SubscribeSync(s.subject)
		if err == nil {
			err = sub.SetPendingLimits(-1, -1)
		}
		if err != nil {
			return err
		}
		s.subscriptions = append(s.subscriptions, sub)
	}
	return s.to.Flush()
}

// Publish implements Session.
func (s *natsSession) Publish(ctx context.Context, publisher int, number uint64, body []byte) error {
	m := s.message(publisher, number, body)
	if s.js == nil {
		return s.from.PublishMsg(m)
	}
	_, err := s.js.PublishMsg(ctx, m)
	return err
}

// The header fields of NATS that package transport does not name.
const (
	natsID        = "Message-ID"
	natsInReplyTo = "In-Reply-To"
	natsSubject   = "Subject"
)

// natsHeader returns the fields that all messages of postbus have.
func natsHeader(gid, inbox string, number uint64) natsgo.Header {
	text := strconv.FormatUint(number, 10)
	return natsgo.Header{
		natsID:                            {text + "." + gid + "@" + inbox},
		transport.HeaderPublisherGID:      {gid},
		transport.HeaderPublisherSequence: {text},
		transport.HeaderSourceTimestamp:   {strconv.FormatInt(time.Now().UnixNano(), 10)},
	}
}

// message makes a message of a topic.
func (s *natsSession) message(publisher int, number uint64, body []byte) *natsgo.Msg {
	m := &natsgo.Msg{Subject: s.subject, Data: body, Header: natsHeader(s.gids[publisher], s.inbox, number)}
	if s.js != nil {
		m.Header[natsgo.MsgIdHdr] = m.Header[natsID]
	}
	return m
}

// Next implements Session.
func (s *natsSession) Next(ctx context.Context, subscriber int) (Arrival, error) {
	m, err := s.subscriptions[subscriber].NextMsgWithContext(ctx)
	if err != nil {
		return Arrival{}, err
	}
	publisher, known := s.numbers[m.Header.Get(transport.HeaderPublisherGID)]
	number, err := strconv.ParseUint(m.Header.Get(transport.HeaderPublisherSequence), 10, 64)
	if !known || err != nil {
		return Arrival{}, errForeign
	}
	a := Arrival{Publisher: publisher, Number: number, Bytes: len(m.Data)}
	if s.timed {
		ns, err := strconv.ParseInt(m.Header.Get(transport.HeaderSourceTimestamp), 10, 64)
		if err != nil {
			return Arrival{}, errForeign
		}
		a.Sent = time.Unix(0, ns)
	}
	return a, nil
}

// PublishesAhead implements Ahead.
func (*aheadSession) PublishesAhead() {}

// Publish implements Session. It waits while too many messages are not confirmed.
func (s *aheadSession) Publish(ctx context.Context, publisher int, number uint64, body []byte) error {
	m := s.message(publisher, number, body)
	for {
		if failed := s.failed.Load(); failed != nil {
			return *failed
		}
		_, err := s.js.PublishMsgAsync(m)
		if !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (s *aheadSession) noteFailure(_ jetstream.JetStream, _ *natsgo.Msg, err error) {
	s.failed.CompareAndSwap(nil, &err)
}

// Close implements Session. It waits for the confirmations.
func (s *aheadSession) Close(ctx context.Context) error {
	var err error
	select {
	case <-s.js.PublishAsyncComplete():
		if failed := s.failed.Load(); failed != nil {
			err = *failed
		}
	case <-ctx.Done():
		err = fmt.Errorf("%d confirmations have not come: %w", s.js.PublishAsyncPending(), ctx.Err())
	}
	return errors.Join(err, s.natsSession.Close(ctx))
}

// natsCaller are clients on one connection, and a server on the other.
type natsCaller struct {
	natsPair
	subject, name, inbox string
	gids                 []string
	numbers              []uint64 // of the clients' latest requests
}

// openCaller makes clients with nats.go's Request, and a server that sends back what it gets. No stream may keep the
// requests, for its confirmation would come as the answer: the subject is not the one of the name.
func (n rawNATS) openCaller(_ context.Context, load Load) (Caller, error) {
	pair, err := n.open()
	if err != nil {
		return nil, err
	}
	c := &natsCaller{natsPair: pair, subject: pair.to.NewInbox(), name: n.name(), inbox: pair.from.NewInbox(), numbers: make([]uint64, load.Publishers)}
	for range load.Publishers {
		c.gids = append(c.gids, transport.NewGID().String())
	}
	if err := c.serve(); err != nil {
		return nil, errors.Join(err, c.Close(context.Background()))
	}
	return c, nil
}

func (c *natsCaller) serve() error {
	gid, number := transport.NewGID().String(), uint64(0)
	_, err := c.to.Subscribe(c.subject, func(m *natsgo.Msg) {
		number++
		answer := &natsgo.Msg{Data: m.Data, Header: natsHeader(gid, c.subject, number)}
		answer.Header[transport.HeaderClientGID] = m.Header[transport.HeaderClientGID]
		answer.Header[transport.HeaderRequestSequence] = m.Header[transport.HeaderRequestSequence]
		answer.Header[natsInReplyTo] = m.Header[natsID]
		answer.Header[natsSubject] = []string{c.name}
		_ = m.RespondMsg(answer) // who gets none fails
	})
	if err != nil {
		return err
	}
	return c.to.Flush()
}

// Call implements Caller.
func (c *natsCaller) Call(ctx context.Context, client int, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, natsPatience)
	defer cancel()
	c.numbers[client]++
	m := &natsgo.Msg{Subject: c.subject, Data: body, Header: natsHeader(c.gids[client], c.inbox, c.numbers[client])}
	deadline, _ := ctx.Deadline()
	m.Header[transport.HeaderClientGID] = m.Header[transport.HeaderPublisherGID]
	m.Header[transport.HeaderRequestSequence] = m.Header[transport.HeaderPublisherSequence]
	m.Header[transport.HeaderDeadline] = []string{strconv.FormatInt(deadline.UnixNano(), 10)}
	answer, err := c.from.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, err
	}
	return answer.Data, nil
}
