package bench

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// Nodes is postbus, through its whole public surface.
type Nodes struct {
	// New makes the nodes: one that publishes and calls, and one that receives and serves.
	// They may be the same.
	New func(ctx context.Context) (from, to *transport.Node, err error)
	// Word is part of the names of topics and services: it tells them from those of others.
	Word string
}

var _ System = (*Nodes)(nil)

// name returns a name that nobody else uses.
func (n *Nodes) name() string { return "/bench/" + n.Word + "/" + rand.Text()[:8] }

// nodePair are the nodes of a session or a caller.
type nodePair struct{ from, to *transport.Node }

func (n *Nodes) open(ctx context.Context) (nodePair, error) {
	from, to, err := n.New(ctx)
	return nodePair{from, to}, err
}

// Close implements Session and Caller.
func (n nodePair) Close(ctx context.Context) error {
	err := n.from.Close(ctx)
	if n.to != n.from {
		err = errors.Join(err, n.to.Close(ctx))
	}
	return err
}

// nodesSession is a topic with publishers and subscriptions.
type nodesSession struct {
	nodePair
	publishers    []*pubsub.Publisher
	subscriptions []*subscription
}

// subscription is a subscription that knows the publishers by number.
type subscription struct {
	*pubsub.Subscription
	numbers map[transport.GID]int
	// The publisher of the message before is likely to be that of the next.
	latest       transport.GID
	latestNumber int
}

// Open implements System.
func (n *Nodes) Open(ctx context.Context, load Load) (Session, error) {
	nodes, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	s := &nodesSession{nodePair: nodes}
	if err := s.populate(n.name(), load); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

func (s *nodesSession) populate(topic string, load Load) error {
	numbers := make(map[transport.GID]int)
	for i := range load.Publishers {
		p, err := pubsub.NewPublisher(s.from, topic)
		if err != nil {
			return err
		}
		s.publishers = append(s.publishers, p)
		numbers[p.GID()] = i
	}
	return s.subscribe(topic, load.Subscribers, numbers)
}

// subscribe makes subscriptions, which know the publishers by their numbers.
func (s *nodesSession) subscribe(topic string, count int, numbers map[transport.GID]int) error {
	for range count {
		sub, err := pubsub.NewSubscription(s.to, topic, pubsub.KeepAll())
		if err != nil {
			return err
		}
		s.subscriptions = append(s.subscriptions, &subscription{Subscription: sub, numbers: numbers, latestNumber: -1})
	}
	return nil
}

// Publish implements Session.
func (s *nodesSession) Publish(ctx context.Context, publisher int, _ uint64, body []byte) error {
	return s.publishers[publisher].Publish(ctx, body)
}

// Next implements Session.
func (s *nodesSession) Next(ctx context.Context, subscriber int) (Arrival, error) {
	sub := s.subscriptions[subscriber]
	m, err := sub.Next(ctx)
	if err != nil {
		return Arrival{}, err
	}
	if m.Info.PublisherGID != sub.latest || sub.latestNumber < 0 {
		number, ok := sub.numbers[m.Info.PublisherGID]
		if !ok {
			return Arrival{}, errForeign
		}
		sub.latest, sub.latestNumber = m.Info.PublisherGID, number
	}
	return Arrival{Publisher: sub.latestNumber, Number: m.Info.Sequence, Bytes: len(m.Body), Sent: m.Info.SourceTime}, nil
}

// nodesCaller are clients with a server that sends back what it gets.
type nodesCaller struct {
	nodePair
	clients []*service.Client
}

// OpenCaller makes clients, as many as the load has publishers, and a server.
func (n *Nodes) OpenCaller(ctx context.Context, load Load) (Caller, error) {
	nodes, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	c := nodesCaller{nodePair: nodes}
	if err := c.populate(n.name(), load); err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

func (c *nodesCaller) populate(name string, load Load) error {
	server, err := service.NewServer(c.to, name)
	if err != nil {
		return err
	}
	echo := func(_ context.Context, r *transport.Message) ([]byte, error) { return r.Body, nil }
	if err := server.Handle(echo); err != nil {
		return err
	}
	for range load.Publishers {
		client, err := service.NewClient(c.from, name)
		if err != nil {
			return err
		}
		c.clients = append(c.clients, client)
	}
	return nil
}

// Call implements Caller.
func (c nodesCaller) Call(ctx context.Context, client int, body []byte) ([]byte, error) {
	m, err := c.clients[client].Call(ctx, body)
	if err != nil {
		return nil, err
	}
	return m.Body, nil
}

// OpenIdle opens a node that only listens, and returns its Close.
func (n *Nodes) OpenIdle(ctx context.Context) (func(context.Context) error, error) {
	nodes, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	if nodes.from != nodes.to { // one node is the unit
		if err := nodes.from.Close(ctx); err != nil {
			return nil, errors.Join(err, nodes.to.Close(ctx))
		}
		nodes.from = nodes.to
	}
	if _, err := pubsub.NewSubscription(nodes.to, n.name()); err != nil {
		return nil, errors.Join(err, nodes.Close(ctx))
	}
	return nodes.Close, nil
}
