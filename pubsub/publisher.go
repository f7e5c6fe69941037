package pubsub

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

// Publisher publishes messages to a topic. Its methods may be called concurrently.
// Make one with NewPublisher and, if it has OnUndeliverable, Close it when done, unless
// its node is closed anyway; any other publisher holds nothing that needs to be released.
type Publisher struct {
	node     *transport.Node
	name     string
	gid      transport.GID
	lifespan time.Duration
	sequence atomic.Uint64
	bounced  func(sequence uint64, err error) // nil without OnUndeliverable
	bounces  *queue.Inbox
}

// NewPublisher returns a publisher for the topic called name. Errors: those of
// transport.ValidateName, and with OnUndeliverable those of transport.Node.Receive.
func NewPublisher(node *transport.Node, name string, options ...PublisherOption) (*Publisher, error) {
	if err := transport.ValidateName(name); err != nil {
		return nil, fmt.Errorf("publisher: %w", err)
	}
	p := &Publisher{node: node, name: name, gid: transport.NewGID()}
	for _, o := range options {
		o.publisher(p)
	}
	if p.bounced == nil {
		return p, nil
	}
	var err error
	interest := transport.Interest{Kind: transport.Undeliverable, Name: name, Client: p.gid}
	if p.bounces, err = queue.Attach(node, interest, queue.Options{QoS: transport.QoS{KeepAll: true}}); err != nil {
		return nil, fmt.Errorf("publisher: %w", err)
	}
	return p, p.bounces.Handle(1, p.report)
}

// report tells the program of a message that came back.
func (p *Publisher) report(_ context.Context, d transport.Delivery) {
	_, sequence, _ := d.Message.Caller()
	p.bounced(sequence, fmt.Errorf("publish: message %d: %w", sequence, d.Message.Bounce(p.name)))
	d.Ack()
}

// Name returns the name of the topic.
func (p *Publisher) Name() string { return p.name }

// GID returns the identity of the publisher, which receivers find in
// Info.PublisherGID.
func (p *Publisher) GID() transport.GID { return p.gid }

// Close ends the reports of OnUndeliverable. It always returns nil; a second Close does
// nothing, and messages can still be published.
func (p *Publisher) Close() error {
	if p.bounces != nil {
		p.bounces.Close()
	}
	return nil
}

// Publish sends a message to all subscriptions of the topic. It returns nil when the
// next hop has durably taken the message, however many subscriptions there are. body
// is free for other use when Publish has returned.
//
// Messages are numbered from 1 in the order of the calls (Info.Sequence). A call that certainly
// failed gives its number back for the next one, unless a later call has begun meanwhile: then, and
// when it is unknown whether the message was sent, it looks to subscriptions like a message lost.
//
// Errors are those of [transport.Node.Send]: a [*transport.SendError] says whether
// trying again can help and whether the message may be on its way.
func (p *Publisher) Publish(ctx context.Context, body []byte, options ...transport.MessageOption) error {
	sequence := p.sequence.Add(1)
	m := &transport.Message{
		Kind: transport.TopicMessage,
		Name: p.name,
		Body: body,
		Info: transport.Info{PublisherGID: p.gid, Sequence: sequence},
	}
	for _, o := range options {
		o(m)
	}
	if p.lifespan > 0 {
		if m.Info.SourceTime.IsZero() {
			m.Info.SourceTime = time.Now()
		}
		m.Deadline = m.Info.SourceTime.Add(p.lifespan)
	}
	if err := p.node.Send(ctx, m); err != nil {
		if failed, ok := errors.AsType[*transport.SendError](err); !ok || failed.Outcome != transport.Unknown {
			p.sequence.CompareAndSwap(sequence, sequence-1)
		}
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}
