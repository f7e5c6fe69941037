// Package postbus is a messaging middleware whose wire is ordinary e-mail: publishers
// and subscriptions, service clients and servers, and wait sets, over any mail account
// with SMTP and IMAP; over NATS, for who has outgrown a mailbox; or in process, for tests.
//
//	node, err := postbus.Open(ctx, "email.yml")
//	defer node.Close(context.Background()) // or with a time limit
//
//	pub, err := pubsub.NewPublisher(node, "/chatter")
//	err = pub.Publish(ctx, []byte("hello"))
//
// This package only opens nodes. What a node is for is in the packages below it:
//
//   - pubsub: publishers and subscriptions of topics
//   - service: clients and servers of request/response services
//   - waitset: waiting for any or all of many of these, and for guard conditions
//   - transport: messages, nodes, errors, and the interface of carriers
//   - email: the mail carrier and its configuration file; email/mailserver: a
//     complete mail server for tests, in process
//   - transport/nats: the carrier over NATS
//   - transport/outbox: messages are kept on disk until they can be sent
//   - transport/bridge: joins two means of transport
//   - intraprocess: the carrier in memory, for tests
//
// The command postbus (cmd/postbus) does the same from a shell.
package postbus

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
	"github.com/postbus/postbus/transport/outbox"
)

// New returns a node over a carrier, which belongs to it from now on. A nil options
// means the zero Options. It fails when the options are invalid.
func New(carrier transport.Carrier, options *transport.Options) (*transport.Node, error) {
	return transport.NewNode(carrier, options)
}

// Open returns a node over the mail account, or the servers of NATS, that a configuration file describes. An empty
// path means the file that email.FindConfig finds. ctx bounds the opening only.
//
// Open connects to both mail servers, or to one of NATS: when one can't be reached or refuses the account, the
// error says which and why. With an outbox, or a state file for mail, which are for programs that outlive outages,
// a server that can't be reached is no error, but logged: see email.Options.Offline and nats.Options.Offline. What has arrived in the mailbox before
// is not received, save by durable names and groups that go on where they stopped.
func Open(ctx context.Context, path string) (*transport.Node, error) {
	if path == "" {
		var err error
		if path, err = email.FindConfig(); err != nil {
			return nil, err
		}
	}
	config, err := email.LoadConfig(path)
	if err != nil {
		return nil, err
	}
	return OpenConfig(ctx, config, nil)
}

// OpenConfig is Open with a configuration that is read already, or made by the program,
// and options. The routes of the configuration come after those of the options. A
// configuration that says "intraprocess" needs no server: its nodes see all others of
// the kind in the process. One that names servers of NATS makes a node over these, and the mail account is not used. One with an outbox makes a node whose Carrier is an
// [outbox.Outbox]; the error wraps transport.ErrInUse when another process has its file.
func OpenConfig(ctx context.Context, config email.Config, options *transport.Options) (*transport.Node, error) {
	var o transport.Options
	if options != nil {
		o = *options
	}
	o.Routes = append(o.Routes[:len(o.Routes):len(o.Routes)], config.Routes...)
	if o.MaxBody == 0 {
		o.MaxBody = config.MaxBody
	}
	carrier, err := openCarrier(ctx, config, o.Logger)
	if err != nil {
		return nil, err
	}
	if config.Outbox.File != "" {
		box, err := outbox.Open(carrier, outboxOptions(config, o.Logger))
		if err != nil {
			return nil, err
		}
		carrier = box
	}
	return New(carrier, &o)
}

// openCarrier opens the carrier that the configuration asks for.
func openCarrier(ctx context.Context, config email.Config, logger *slog.Logger) (transport.Carrier, error) {
	buffered := config.Outbox.File != ""
	switch {
	case config.Intraprocess:
		return processBus().Attach(), nil
	case len(config.NATS.Servers) > 0:
		carrier, err := nats.Open(ctx, natsConfig(config.NATS), nats.Options{Logger: logger, Offline: buffered})
		if err != nil {
			return nil, err
		}
		return carrier, nil
	}
	carrier, err := email.Open(ctx, config, email.Options{Logger: logger, Offline: buffered || config.State != ""})
	if err != nil {
		return nil, err
	}
	return carrier, nil
}

// natsConfig returns what the section nats of a configuration means.
func natsConfig(c email.NATS) nats.Config {
	config := nats.Config{
		Servers: c.Servers, Name: c.Name, Version: c.Version, Description: c.Description,
		User: c.User, Password: c.Password, Token: c.Token, Credentials: c.Credentials, NKey: c.NKey, Insecure: c.Insecure,
		CA: c.CA, Certificate: c.Certificate, Key: c.Key, InboxPrefix: c.InboxPrefix, MaxPayload: c.MaxPayload,
		Objects: nats.Objects(c.Objects),
		Cache:   nats.Cache{Bucket: c.Cache.Bucket, MaxBytes: c.Cache.MaxBytes, Storage: c.Cache.Storage, Replicas: c.Cache.Replicas},
	}
	for _, s := range c.Streams {
		config.Streams = append(config.Streams, nats.Stream(s))
	}
	return config
}

func outboxOptions(config email.Config, logger *slog.Logger) outbox.Options {
	c := config.Outbox
	o := outbox.Options{File: c.File, MaxEntries: c.MaxEntries, MaxBytes: c.MaxBytes, MaxAge: c.MaxAge, Logger: logger}
	if c.DropOldest {
		o.WhenFull = outbox.DropOldest
	}
	if config.Batch.On {
		o.Batch = cmp.Or(config.Batch.Messages, email.DefaultBatchMessages)
	}
	return o
}

// processBus is what nodes share whose configuration says "intraprocess": as in the
// origin of that key, it means the process, not a bus of the program's choice. Like a mailbox
// it has something to show to those who come late.
var processBus = sync.OnceValue(func() *intraprocess.Bus {
	return &intraprocess.Bus{History: transport.DefaultDepth}
})
