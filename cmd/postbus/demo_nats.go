package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
)

// natsDemo runs the demo on a NATS server of its own.
func (a *app) natsDemo(ctx context.Context) (err error) {
	s, err := a.startNATS(ctx, "127.0.0.1", 0, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	d := a.newNATSDemo([]string{s.ClientURL()}, "A server in this process; everything goes over its TCP socket.")
	end, err := d.lookOn(s.ClientURL())
	if err != nil {
		return fmt.Errorf("look on: %w", err)
	}
	defer end()
	d.showWire = func() error {
		end()
		return d.showMessages("The messages", "Some of the above as it travelled, as any NATS client sees it.")
	}
	config := email.Config{NATS: email.NATS{Servers: []string{s.ClientURL()}, Name: "demo"}}
	return d.run(ctx, config, config)
}

// lookOn records the messages of the demo with a connection of its own, until end is called, which returns when all
// that was sent before has been recorded.
func (d *demo) lookOn(server string) (end func(), err error) {
	ended := make(chan struct{})
	conn, err := nats.Connect(server, nats.Name("looking on"), nats.ClosedHandler(func(*nats.Conn) { close(ended) }))
	if err != nil {
		return nil, err
	}
	var taken atomic.Uint64
	d.taken = taken.Load
	_, err = conn.Subscribe(">", func(msg *nats.Msg) {
		if m := natsMetadata(msg); !m.ID.IsZero() { // others are the server's own
			taken.Add(1)
			d.wire.record(natsText(msg), m)
		}
	})
	if err == nil {
		err = conn.Flush() // from now on the server knows
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return func() {
		if conn.Drain() != nil { // it has been closed, or is being
			conn.Close()
		}
		<-ended
	}, nil
}

// configuredNATSDemo runs the demo on the servers of a configuration.
func (a *app) configuredNATSDemo(ctx context.Context, config email.Config) error {
	d := a.newNATSDemo(config.NATS.Servers, "Both nodes are connected to the servers of the configuration.")
	return d.run(ctx, email.Config{NATS: config.NATS}, email.Config{NATS: config.NATS})
}

// newNATSDemo returns a demo whose nodes are on NATS.
func (a *app) newNATSDemo(servers []string, text string) *demo {
	d := newDemo(a, localPatience, "over NATS")
	d.unit = "messages"
	d.openNode = func(ctx context.Context, config email.Config) (*transport.Node, error) {
		return postbus.OpenConfig(ctx, config, &transport.Options{Logger: a.logger})
	}
	d.section("NATS server", text)
	d.printf("")
	for _, s := range servers {
		d.printf("   URL    %s", withoutIdentity(s))
	}
	d.printf("   robot  talker on %s, client of %s", topicName, adderName)
	d.printf("   peer   listener on %s, server of %s", topicName, adderName)
	return d
}

// withoutIdentity returns a URL as it may be shown: a user alone is a token.
func withoutIdentity(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	u.User = nil
	return u.String()
}

// natsText writes a message as people read it: the subject, the header, the body.
func natsText(msg *nats.Msg) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "subject: %s\n", msg.Subject)
	if msg.Reply != "" {
		fmt.Fprintf(&b, "reply: %s\n", msg.Reply)
	}
	b.WriteByte('\n')
	for _, field := range slices.Sorted(maps.Keys(msg.Header)) {
		for _, value := range msg.Header[field] {
			fmt.Fprintf(&b, "%s: %s\n", field, value)
		}
	}
	b.WriteByte('\n')
	b.Write(msg.Data)
	return b.Bytes()
}

// natsMetadata returns what the header of a message says about which one it is. What can't be read is none of
// the demo's.
func natsMetadata(msg *nats.Msg) *transport.Message {
	m := &transport.Message{
		Kind: transport.TopicMessage, ID: transport.ParseID(msg.Header.Get("Message-ID")),
		InReplyTo: transport.ParseID(msg.Header.Get("In-Reply-To")),
	}
	m.Info.PublisherGID, _ = transport.ParseGID(msg.Header.Get("Publisher-GID"))
	switch {
	case !m.InReplyTo.IsZero():
		m.Kind = transport.Response
	case msg.Header.Get("Client-GID") != "":
		m.Kind = transport.Request
	}
	return m
}
