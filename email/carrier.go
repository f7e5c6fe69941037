package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/transport"
)

// Options are the options of a carrier. The zero value is useful.
type Options struct {
	// Logger hears what happens in the background. Nil means slog.Default().
	Logger *slog.Logger
	// OnMail, if set, is called with each mail that turns out to be a message, before
	// the message is delivered, and with one that holds several once for each of them: to show or record what travels. raw is only lent, and
	// only the beginning of a large mail of a person or a mail server. m is not to be
	// changed, and the call must not block. It can't be concurrent with itself.
	OnMail func(raw []byte, m *transport.Message)
	// Offline lets Open return though a server can't be reached, after five seconds at most: the
	// carrier goes on trying in the background. Until it gets through, sending fails with an error that
	// says Temporary. An interest that is stated meanwhile begins when the inbox is reached for
	// the first time, a durable one where it should (if its name is new, it may get what arrived in the two minutes before). What
	// a server refuses, as a wrong password, is an error all the same.
	Offline bool
}

// offlinePatience is how long Open tries to reach the servers when it can do without.
const offlinePatience = 5 * time.Second

// Carrier sends and receives messages as mail over one account. All methods may be
// called concurrently.
type Carrier struct {
	address  string
	sender   sender
	receiver receiver
	listener *listener // mail is delivered to it, instead of being looked for; or nil
	groups   groups
	durables durables
	closed   atomic.Bool
}

var _ transport.Carrier = (*Carrier)(nil)

// Open connects to both servers of the account and logs in. Nothing that has arrived in
// the inbox before is received, and everything that arrives after somebody has stated an
// interest. ctx bounds only Open.
//
// Its errors say which server, what failed and what to do; a wrong password wraps
// transport.ErrRefused, a state file that another carrier has open transport.ErrInUse.
func Open(ctx context.Context, config Config, options Options) (*Carrier, error) {
	c, err := newCarrier(config, options)
	if err != nil {
		return nil, fmt.Errorf("email: configuration: %w", err)
	}
	if config.State != "" {
		if c.durables.journal, err = openState(config.State); err == nil {
			err = keepFolder(c.durables.journal, c.receiver.folder)
		}
		if err != nil {
			return nil, errors.Join(err, c.durables.close())
		}
	}
	return c.start(ctx, options.Offline)
}

// start opens both halves.
func (c *Carrier) start(ctx context.Context, offline bool) (*Carrier, error) {
	sendErr, receiveErr := c.connect(ctx, offline)
	if sendErr == nil && receiveErr == nil {
		return c, nil
	}
	if sendErr == nil {
		// What matters is the other one's error.
		_ = c.sender.close(ctx)
	}
	if receiveErr == nil {
		_ = c.closeReceiver(context.WithoutCancel(ctx))
	}
	return nil, errors.Join(sendErr, receiveErr, c.durables.close())
}

// connect opens both halves. If it may be offline only what a server refuses is an error.
func (c *Carrier) connect(ctx context.Context, offline bool) (sendErr, receiveErr error) {
	limited := ctx
	if offline {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, offlinePatience)
		defer cancel()
		forgive := func(err error) bool {
			if isPermanent(err) || ctx.Err() != nil {
				return false
			}
			c.receiver.logger.Warn("email: a server can't be reached; going on without", "mailbox", c.address, "error", err)
			return true
		}
		c.sender.forgive, c.receiver.forgive = forgive, forgive
	}
	if c.listener != nil {
		if receiveErr = c.listener.open(ctx); receiveErr != nil {
			return c.sender.open(limited), receiveErr
		}
		return c.sender.open(limited), nil // it may be for ourselves
	}
	received := make(chan error, 1)
	go func() { received <- c.receiver.open(limited) }()
	sendErr = c.sender.open(limited)
	return sendErr, <-received
}

// newCarrier checks the configuration.
func newCarrier(config Config, options Options) (*Carrier, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	address, err := config.address()
	if err != nil {
		return nil, fmt.Errorf("email.user.from: %w", err)
	}
	var smtpServers []server
	for _, url := range slices.Concat([]string{config.SMTP}, config.SMTPFallbacks) {
		s, err := parseServer(url, sendSchemes)
		if err != nil {
			return nil, fmt.Errorf("email.user.url-smtp: %w", err)
		}
		smtpServers = append(smtpServers, s)
	}
	from, err := parseServer(config.IMAP, receiveSchemes)
	if err != nil {
		return nil, fmt.Errorf("email.user.url-imap: %w", err)
	}
	pool, err := certPool(config.CA)
	if err != nil {
		return nil, fmt.Errorf("email.tls.ca-file: %w", err)
	}
	if err := config.check(); err != nil {
		return nil, err
	}
	people, err := newPeople(config.People)
	if err != nil {
		return nil, fmt.Errorf("email.people: %w", err)
	}
	if config.MaxBody == 0 {
		config.MaxBody = transport.DefaultMaxBody
	}
	login := func(s server) account {
		return account{server: s, username: config.Username, password: config.Password,
			tls: &tls.Config{ServerName: s.host, RootCAs: pool, MinVersion: tls.VersionTLS12}}
	}
	var submission []account
	for _, s := range smtpServers {
		submission = append(submission, login(s))
	}
	c := &Carrier{
		address: address,
		sender: sender{
			servers: newServers(submission, options.Logger),
			from:    address,
			appends: submission[0].server.scheme.protocol == imapProtocol,
			compat:  compat{config.RMWEmail, config.RMWEmailRoutes, config.Routes},
		},
		receiver: receiver{
			address:   address,
			folder:    from.folder,
			logger:    options.Logger,
			onMail:    options.OnMail,
			people:    people,
			skips:     skips{flag: config.SkippedFlag, folder: config.SkippedFolder},
			retention: retention{Retention: config.Retention, pause: retentionPause},
			period:    config.PollingPeriod,
			maxBody:   config.MaxBody,
			maxMail:   headBytes + int64(float64(config.MaxBody)*mailPerBody),
		},
	}
	for _, list := range []struct{ from, to *[]string }{{&config.To, &c.sender.to}, {&config.Cc, &c.sender.cc}, {&config.Bcc, &c.sender.bcc}} {
		for _, recipient := range *list.from {
			if err := addAddress(list.to)(recipient); err != nil {
				return nil, fmt.Errorf("email.recipients: %w", err)
			}
		}
	}
	c.receiver.sent = new(sentBatches)
	c.sender.sent = c.receiver.sent
	c.sender.collector = collector{limits: config.Batch.complete(), single: c.sender.travelsAlone, lanes: make(map[string]*lane), full: make(chan struct{}, 1)}
	c.sender.batchGID = transport.NewGID()
	if from.scheme.protocol != imapProtocol {
		return c, c.listenFor(from, config.ListenFor)
	}
	c.watch(login(from), config, options)
	return c, nil
}

// watch makes mail be looked for in a folder of an account.
func (c *Carrier) watch(mailbox account, config Config, options Options) {
	logs := mailbox
	mailbox.writable = config.SkippedFlag != "" || config.SkippedFolder != "" || config.Retention.Action != RetainMessages
	c.receiver.connect = mailbox.openInbox
	c.durables = durables{receiver: &c.receiver, logger: options.Logger}
	c.receiver.remembered = func(validity uint32) (from imap.UID, open []imap.UID) {
		if c.groups.unfed() {
			return 0, nil // nobody knows yet what they still need
		}
		return c.durables.keeps(validity)
	}
	c.groups = groups{address: c.address, logger: options.Logger, receiver: &c.receiver, connect: logs.openLog}
}

// Send implements transport.Sender. Each message is one mail to its recipients, or else
// to those of the configuration, unless batches are made; all of them get it or none. Recipients are not
// repeated, whatever the case of their spelling.
func (c *Carrier) Send(ctx context.Context, msgs ...*transport.Message) error {
	calling := false
	for _, m := range msgs {
		if m.Kind == transport.Request {
			calling = true
			c.receiver.awaited.add(m)
		}
	}
	err := c.sender.send(ctx, msgs)
	if calling {
		c.receiver.expect()
	}
	if failed, ok := errors.AsType[*transport.SendError](err); ok && calling {
		c.receiver.awaited.drop(msgs, failed)
	}
	return err
}

// Address implements transport.Sender: it returns the address of the account.
func (c *Carrier) Address() string { return c.address }

// Receive implements transport.Receiver.
func (c *Carrier) Receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	switch interest.Kind {
	case transport.TopicMessage, transport.Request, transport.Response, transport.Undeliverable:
	default:
		return nil, fmt.Errorf("email: an interest in %v: %w", interest.Kind, transport.ErrNotSupported)
	}
	if interest.Durable != "" && interest.Group != "" {
		return nil, fmt.Errorf("email: a durable member of a group, which remembers by itself: %w", transport.ErrNotSupported)
	}
	if interest.Group != "" && interest.Last > 0 {
		return nil, fmt.Errorf("email: the last messages for a group, which remembers by itself: %w", transport.ErrNotSupported)
	}
	if c.closed.Load() {
		return nil, fmt.Errorf("email carrier is %w", transport.ErrClosed)
	}
	if c.listener != nil {
		if err := c.listener.lacks(interest); err != nil {
			return nil, err
		}
		defer c.listener.expect()
	}
	switch {
	case interest.Group != "":
		return c.groups.join(interest, deliver)
	case interest.Durable != "":
		return c.durables.receive(interest, deliver)
	}
	return c.receiver.receive(interest, deliver), nil
}

// Close implements transport.Carrier.
func (c *Carrier) Close(ctx context.Context) error {
	if c.closed.Swap(true) {
		return nil
	}
	return errors.Join(c.groups.close(ctx), c.closeReceiver(ctx), c.durables.close(), c.sender.close(ctx))
}

// closeReceiver ends the receiving half.
func (c *Carrier) closeReceiver(ctx context.Context) error {
	if c.listener == nil {
		return c.receiver.close(ctx)
	}
	err := c.listener.close(ctx)
	c.receiver.stopLives(err == nil)
	return err
}
