package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/internal/bench/raw"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// Listening is the mail carrier without a mail server: a node listens at a socket, and delivers to
// itself by LMTP. The floor is the transaction alone: a raw client that delivers the same mails to such a node,
// until that has taken them.
type Listening struct {
	// Change, if set, changes the configuration of both nodes.
	Change func(*email.Config)
}

var _ Bed = Listening{}

// Name implements Bed.
func (Listening) Name() string { return "listen" }

// Start implements Bed.
func (b Listening) Start(context.Context) (Ground, error) {
	dir, err := os.MkdirTemp("", "postbus-bench-")
	if err != nil {
		return Ground{}, err
	}
	socket := "lmtp+unix://" + filepath.ToSlash(filepath.Join(dir, "node"))
	config := email.Config{SMTP: socket, IMAP: socket, Username: "node@localhost.test", Password: "unused", To: []string{"node@localhost.test"}}
	if b.Change != nil {
		b.Change(&config)
	}
	open := func(ctx context.Context) (*transport.Node, error) { return postbus.OpenConfig(ctx, config, quietly()) }
	ours := &Nodes{Word: word(), New: func(ctx context.Context) (from, to *transport.Node, err error) {
		node, err := open(ctx)
		return node, node, err
	}}
	floor := Mail{Account: raw.Account{SMTP: socket, IMAP: socket, Address: config.Username}, Write: writer(config.Username, ours.name())}
	return Ground{
		Ours: ours, Floor: behindNode{floor, open}, Numbered: true, OpenCaller: ours.OpenCaller, OpenIdle: ours.OpenIdle,
		Close: func(context.Context) error { return os.RemoveAll(dir) },
	}, nil
}

// writer returns what writes the mails of publishers as a node does.
func writer(address, topic string) func(publisher int, number uint64, body []byte) ([]byte, error) {
	gid := transport.NewGID()
	envelope := wire.Envelope{From: address, To: []string{address}}
	return func(publisher int, number uint64, body []byte) ([]byte, error) {
		publisherGID := gid
		publisherGID[0] += byte(publisher)
		m := &transport.Message{
			Kind: transport.TopicMessage, Name: topic, Body: body, ID: transport.NewID(publisherGID, number, "localhost"),
			Info: transport.Info{PublisherGID: publisherGID, Sequence: number, SourceTime: time.Now()},
		}
		return wire.Encode(m, envelope)
	}
}

// behindNode is a system that needs a node to deliver to, which has subscribed to everything of the bench.
type behindNode struct {
	System
	open func(context.Context) (*transport.Node, error)
}

type behindNodeSession struct {
	Session
	node *transport.Node
}

// Open implements System.
func (b behindNode) Open(ctx context.Context, load Load) (Session, error) {
	node, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	_, err = pubsub.NewSubscription(node, "/bench/>")
	if err != nil {
		return nil, errors.Join(err, node.Close(ctx))
	}
	session, err := b.System.Open(ctx, load)
	if err != nil {
		return nil, errors.Join(err, node.Close(ctx))
	}
	return behindNodeSession{session, node}, nil
}

// Close implements Session.
func (s behindNodeSession) Close(ctx context.Context) error {
	return errors.Join(s.Session.Close(ctx), s.node.Close(ctx))
}
