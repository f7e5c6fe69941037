package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
)

// Carrier sends and receives messages over one connection to NATS. All methods may be called
// concurrently.
type Carrier struct {
	config  Config
	logger  *slog.Logger
	conn    *nats.Conn
	inbox   inbox
	monitor monitor
	dropped atomic.Uint64 // messages for subscriptions that have ended
	lost    atomic.Bool   // the connection, and that has been logged
	again   reconnection
	closed  atomic.Bool
	// complaints are those that have been logged.
	complaints complaints

	js      jetstream.JetStream
	streams []*stream
	bucket  *bucket // for large bodies; nil if there is none
	// confirmations are those of streams.
	confirmations confirmations
	flights       sync.Pool // of *flight that have ended
	cache         *cache    // nil if there is none
	// background ends when Close begins, and settling when it does not wait any longer.
	background, settling context.Context
	stop, giveUp         context.CancelFunc

	mu            sync.Mutex
	subscriptions map[*subscription]struct{}
	// ending counts the goroutines of nats.go: one for each subscription that calls us, and one for the rest.
	ending sync.WaitGroup
	// working counts those of our own.
	working sync.WaitGroup
}

var _ transport.Carrier = (*Carrier)(nil)

// Open connects to a server. ctx bounds only Open.
//
// Its errors say which servers, what failed and what to do; a server that refuses the node
// makes them wrap transport.ErrRefused.
func Open(ctx context.Context, config Config, options Options) (*Carrier, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	config, err := config.complete(options.InProcess != nil)
	if err != nil {
		return nil, fmt.Errorf("nats: configuration: %w", err)
	}
	c := &Carrier{config: config, logger: options.Logger, subscriptions: make(map[*subscription]struct{})}
	opts, err := config.options(options)
	if err != nil {
		return nil, fmt.Errorf("nats: configuration: %w", err)
	}
	if c.conn, err = c.connect(ctx, opts, options.Offline); err != nil {
		return nil, err
	}
	c.inbox = inbox{carrier: c, address: c.conn.NewInbox(), names: make(map[transport.GID]name)}
	c.monitor = newMonitor(c)
	if err := c.openStreams(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("nats: %w", err), c.Close(context.Background()))
	}
	return c, nil
}

// connect opens the connection. If it may be offline, only what a server refuses is an error.
func (c *Carrier) connect(ctx context.Context, opts []nats.Option, offline bool) (*nats.Conn, error) {
	c.ending.Add(1)
	opts = append(opts,
		nats.ClosedHandler(func(conn *nats.Conn) { c.noteEnd(conn) }),
		nats.ConnectHandler(c.noteConnected),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.noteLost(err)
			c.confirmations.disconnected()
		}),
		nats.ReconnectToServer(c.again.next),
		nats.ReconnectHandler(c.noteConnected),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.noteLost(err) }),
		nats.ErrorHandler(c.noteError),
	)
	conn, err := c.dial(ctx, opts)
	if err == nil {
		return conn, nil
	}
	refused := errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked)
	if offline && !refused && ctx.Err() == nil {
		c.noteLost(err)
		conn, err = c.dial(ctx, append(opts, nats.RetryOnFailedConnect(true)))
		if err == nil {
			return conn, nil
		}
	}
	if refused {
		err = fmt.Errorf("%w: %w", transport.ErrRefused, err)
	}
	return nil, fmt.Errorf("nats: connect to %s: %w", c.config.where(), err)
}

// dial calls nats.Connect, which knows no context: when ctx ends first it is left alone, and
// ends soon by its own time limits.
func (c *Carrier) dial(ctx context.Context, opts []nats.Option) (*nats.Conn, error) {
	type result struct {
		conn *nats.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := nats.Connect(strings.Join(c.config.Servers, ","), opts...)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		c.closed.Store(true) // nobody gets this carrier, and there is nothing to log any more
		go func() {
			if r := <-done; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, transport.ContextError(ctx)
	}
}

// noteLost logs that there is no connection, unless that is known.
func (c *Carrier) noteLost(err error) {
	if !c.closed.Load() && !c.lost.Swap(true) {
		c.logger.Warn("nats: no connection; trying again", "servers", c.config.where(), "error", err)
	}
}

// noteConnected logs that there is a connection again.
func (c *Carrier) noteConnected(conn *nats.Conn) {
	c.again.connected(conn)
	c.complaints.clear()
	if c.lost.Swap(false) {
		c.logger.Info("nats: connected again", "server", shown(conn.ConnectedUrl()))
	}
}

// noteEnd notes that the connection has ended for good. Apart from Close it does when the server speaks of an error that
// nats.go does not know.
func (c *Carrier) noteEnd(conn *nats.Conn) {
	if !c.closed.Load() {
		c.logger.Error("nats: the connection has ended for good, the node must be opened anew", "servers", c.config.where(), "error", endOf(conn))
	}
	c.ending.Done()
}

// endOf returns why a connection has ended for good, and what to do if that is known.
func endOf(conn *nats.Conn) error {
	err := conn.LastError()
	switch {
	case err == nil:
		return nats.ErrConnectionClosed
	case strings.Contains(strings.ToLower(err.Error()), "maximum payload"):
		return fmt.Errorf("%w: the server takes less than it has said; set max-payload to what it takes", err)
	}
	return err
}

// complaints are what a server has said since the connection was made: it says the same of each message.
type complaints struct {
	mu    sync.Mutex
	known map[string]bool
}

// maxComplaints bounds what is remembered, and so logged.
const maxComplaints = 100

func (c *complaints) isNew(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[text] || len(c.known) >= maxComplaints {
		return false
	}
	if c.known == nil {
		c.known = make(map[string]bool)
	}
	c.known[text] = true
	return true
}

func (c *complaints) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = nil
}

// noteError logs what the server or nats.go says apart from any call, each thing once for a connection.
func (c *Carrier) noteError(conn *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
		c.noteSlow(sub)
		c.inbox.noteSlow(sub)
		return
	}
	if !c.complaints.isNew(err.Error()) {
		return
	}
	c.logger.Warn("nats: the server complains", "server", shown(conn.ConnectedUrl()), "error", err)
}

// Address implements transport.Sender: it returns the subject below which the carrier gets its answers.
func (c *Carrier) Address() string { return c.inbox.address }

// Receive implements transport.Receiver. Unlike other carriers it waits for the server to know of an interest in
// topic messages or requests: one round trip. So what is published once it has returned is delivered (in a
// cluster, what is published at the same server). While there is no connection it does not wait, and the interest begins with the next one.
func (c *Carrier) Receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	switch {
	case c.closed.Load(), c.conn.IsClosed():
		return nil, c.closedError()
	case interest.Kind == transport.Response || interest.Kind == transport.Undeliverable:
		return c.inbox.receive(interest, deliver)
	case interest.Kind != transport.TopicMessage && interest.Kind != transport.Request:
		return nil, fmt.Errorf("nats: an interest in %v: %w", interest.Kind, transport.ErrNotSupported)
	}
	if s, ok := c.kept(interest); ok {
		return c.receiveKept(s, interest, deliver)
	}
	return c.subscribe(interest, deliver)
}

// closedError returns the error of a carrier that has been closed, or whose connection has ended for good.
func (c *Carrier) closedError() error {
	if !c.closed.Load() {
		return fmt.Errorf("the connection to %s is %w for good (%w); the node must be opened anew", c.config.where(), transport.ErrClosed, endOf(c.conn))
	}
	return fmt.Errorf("nats carrier is %w", transport.ErrClosed)
}

// neededMajor and neededMinor are the first version of nats-server whose messages have ages of their own.
const neededMajor, neededMinor = 2, 11

// checkVersion refuses a server that is too old for streams and the cache: it would not say so, but ignore what it does not know.
func (c *Carrier) checkVersion() error {
	version, major, minor := c.conn.ConnectedServerVersion(), 0, 0
	if n, _ := fmt.Sscanf(version, "%d.%d.", &major, &minor); n < 2 || major > neededMajor || major == neededMajor && minor >= neededMinor {
		return nil
	}
	return fmt.Errorf("it needs nats-server %d.%d or later, and the server is %s: %w", neededMajor, neededMinor, version, transport.ErrNotSupported)
}

// lastFlush bounds how long Close waits for what has been sent to reach the server.
const lastFlush = 5 * time.Second

// Close implements transport.Carrier. What has been sent is brought to the server first.
func (c *Carrier) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed.Swap(true) {
		c.mu.Unlock()
		return nil
	}
	all := c.subscriptions
	c.subscriptions = nil
	c.mu.Unlock()
	for s := range all {
		s.end()
	}
	c.inbox.close()
	c.closeStreams(ctx)
	err := c.flush(ctx)
	c.conn.Close()

	ended := make(chan struct{})
	go func() {
		c.ending.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("nats: close: messages are still being delivered: %w", ctx.Err()))
	}
	return err
}

// flush waits until the server has all that was sent, or the connection is lost: then there is nothing to wait for any more.
func (c *Carrier) flush(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, lastFlush)
	defer cancel()
	lost := c.conn.StatusChanged(nats.RECONNECTING, nats.CLOSED) // from here on: FlushWithContext misses what was a moment before
	var watching sync.WaitGroup
	defer watching.Wait()
	defer c.conn.RemoveStatusListener(lost) // which closes it
	watching.Go(func() {
		if _, ok := <-lost; ok {
			cancel()
		}
	})
	if !c.conn.IsConnected() || ctx.Err() != nil {
		return nil
	}
	if err := c.conn.FlushWithContext(limited); err != nil && c.conn.IsConnected() {
		return fmt.Errorf("nats: close: the last messages may not have been sent: %w", err)
	}
	return nil
}
