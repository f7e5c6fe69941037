package email

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/transport"
)

// What a listener grants to those who connect. They may be anybody who reaches the address.
const (
	// maxDeliveries is how many connections there may be at once.
	maxDeliveries = 64
	// maxDeliveryRecipients is how many recipients a mail may have (RFC 5321 section 4.5.3.1.8).
	maxDeliveryRecipients = 100
	// maxDeliveryLine is the longest line in bytes: programs that do not fold are more than RFC 5321 knows.
	maxDeliveryLine = 64 << 10
	// deliveryTimeout is for the next command (RFC 5321 section 4.5.3.2.7), and for a whole mail.
	deliveryTimeout = 5 * time.Minute
	// closingTimeout is for what is left of a transaction when the listener closes, until its data come.
	closingTimeout = 5 * time.Second
	// greetTimeout is for a connection to be set up, if it takes more than accepting it.
	greetTimeout = 30 * time.Second
	// settleTime is how long after the first interest mail is waited with: programs state one after the
	// other. interestTimeout is how long a client is kept waiting for the first interest; later it is
	// told to come again.
	settleTime      = 100 * time.Millisecond
	interestTimeout = 2 * time.Second
	// heldMails is how many of the largest mails may be on their way in at once; more small ones may.
	heldMails = 4
)

// listener is the receiving half of a carrier to which a mail server delivers, by LMTP or SMTP: there
// is no mailbox, so nothing is looked for and nothing kept. It decodes and delivers what comes with
// the receiver's code, as one who is always up to date.
type listener struct {
	receiver   *receiver
	at         server
	recipients people // whose mail is taken
	socket     net.Listener
	server     *smtp.Server
	served     chan struct{} // closed when no more connections are accepted
	held       atomic.Int64  // bytes of mails on their way in

	// delivering is held while a mail is delivered: they come one at a time.
	delivering sync.Mutex
	closed     atomic.Bool // nothing is delivered any more

	// ready is closed when it is time to take mail: what has waited in a queue while there was no node is
	// not to come before the interests in it. overdue is closed when the first interest has not come in
	// time; opening closes it.
	ready, overdue chan struct{}
	opening        *time.Timer
	stated         sync.Once
	interested     atomic.Bool // an interest has been stated

	mu      sync.Mutex
	conns   map[*inbound]struct{}
	closing bool
	since   time.Time     // when closing was set
	over    chan struct{} // closed when closing is set
	reading int           // mails; they may outlive their connections
	gone    chan struct{} // closed when nothing is left of these, while closing
}

// inbound is a connection to a listener.
type inbound struct {
	net.Conn
	listener *listener

	// listener.mu guards the rest.
	busy  bool      // in a transaction
	begun time.Time // when it was
	data  bool      // its mail is on its way
	ended bool      // nothing more comes
}

// Listen is Open for a program that has a listener already: on a free port, of its service manager, or
// with TLS (crypto/tls.NewListener). Config.IMAP says by its scheme, lmtp+unix, lmtp+insecure or smtp+insecure, what is spoken; its
// address is not used. The listener belongs to the carrier from now on, also if there is an error.
func Listen(ctx context.Context, socket net.Listener, config Config, options Options) (*Carrier, error) {
	c, err := newCarrier(config, options)
	if err == nil && c.listener == nil {
		err = fmt.Errorf("email.user.url-imap: %s is for watching a folder, not for listening", config.IMAP)
	}
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("email: configuration: %w", err)
	}
	c.listener.socket = socket
	return c.start(ctx, options.Offline)
}

// listenFor makes mail be taken at an address: for the account and for those on the list.
func (c *Carrier) listenFor(at server, list []string) error {
	recipients, err := newPeople(append([]string{c.address}, list...))
	if err != nil {
		return fmt.Errorf("email.listen.recipients: %w", err)
	}
	c.listener = &listener{receiver: &c.receiver, at: at, recipients: recipients}
	return nil
}

// open begins to listen.
func (l *listener) open(ctx context.Context) (err error) {
	if l.socket == nil {
		if l.socket, err = l.at.listen(ctx); err != nil {
			return fmt.Errorf("email: listening at %s: %w", l.at, err)
		}
	}
	l.conns = make(map[*inbound]struct{})
	l.served, l.gone, l.over, l.ready = make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	l.overdue = make(chan struct{})
	l.opening = time.AfterFunc(interestTimeout, func() { close(l.overdue) })
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &delivery{listener: l, conn: c.Conn().(*inbound)}, nil
	}))
	s.LMTP = l.at.scheme.protocol == lmtpProtocol
	s.Domain = "postbus.localhost" // a server that meets its own name suspects a loop
	s.MaxRecipients, s.MaxLineLength, s.MaxMessageBytes = maxDeliveryRecipients, maxDeliveryLine, l.receiver.maxBatch()
	s.ReadTimeout, s.WriteTimeout = deliveryTimeout, writeTimeout
	s.ErrorLog = deliveryLog{l.receiver.logger}
	l.server = s
	go func() {
		defer close(l.served)
		if err := s.Serve((*gate)(l)); err != nil && !l.isClosing() {
			l.receiver.logger.Error("email: nothing is received any more: the listener has failed", "listener", l.at.String(), "error", err)
		}
	}()
	return nil
}

// listen opens the address. A socket that a crash has left behind is replaced.
func (s server) listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, s.network(), s.address())
	if !errors.Is(err, syscall.EADDRINUSE) || s.socket == "" {
		return l, err
	}
	var dialer net.Dialer
	conn, dialErr := dialer.DialContext(ctx, s.network(), s.address())
	if dialErr == nil {
		conn.Close()
		return nil, fmt.Errorf("%w by another process: %w", transport.ErrInUse, err)
	}
	if file, statErr := os.Lstat(s.socket); statErr != nil || file.Mode()&fs.ModeSocket == 0 || !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, err
	}
	if err := os.Remove(s.socket); err != nil {
		return nil, err
	}
	return config.Listen(ctx, s.network(), s.address())
}

// gate is the listener as package smtp sees it. It lets no more than maxDeliveries connections in.
type gate listener

func (g *gate) Accept() (net.Conn, error) {
	l := (*listener)(g)
	for {
		conn, err := l.socket.Accept()
		if err != nil {
			return nil, err
		}
		c := &inbound{Conn: conn, listener: l}
		// It counts until the first command is waited for.
		if err := conn.SetReadDeadline(time.Now().Add(greetTimeout)); err == nil && l.admit(c) {
			return c, nil
		}
		c.dismiss("too many connections")
	}
}

func (g *gate) Addr() net.Addr { return g.socket.Addr() }
func (g *gate) Close() error   { return g.socket.Close() }

// admit notes a connection, unless there are too many.
func (l *listener) admit(c *inbound) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing || len(l.conns) >= maxDeliveries {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

// dismiss closes a connection on which nothing is under way, with a word that tells the other side to try
// again later (RFC 5321 section 3.8).
func (c *inbound) dismiss(why string) {
	if _, plain := c.Conn.(syscall.Conn); plain { // else it might first have to be set up
		if c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
			_, _ = fmt.Fprintf(c.Conn, "421 4.3.2 %s\r\n", why)
		}
	}
	c.Close()
}

// Read reads, and closes the connection if nothing comes in time: package smtp would go on with the rest of a
// mail as if it were commands.
func (c *inbound) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.dismiss("nothing more came in time")
	}
	if err != nil {
		c.listener.mu.Lock()
		c.ended = true
		c.listener.mu.Unlock()
	}
	return n, err
}

// hasEnded reports whether more was to be read than there is.
func (c *inbound) hasEnded() bool {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	return c.ended
}

// SetReadDeadline is called before each command. A transaction has one end, whatever commands it is made of.
func (c *inbound) SetReadDeadline(t time.Time) error {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	return c.limit(t)
}

// limit sets the time until which what comes next is waited for, or the end of the transaction if that is
// before. listener.mu is held.
func (c *inbound) limit(t time.Time) error {
	if c.busy {
		t = sooner(t, c.begun.Add(deliveryTimeout))
		if c.listener.closing && !c.data {
			t = sooner(t, c.listener.since.Add(closingTimeout))
		}
	}
	return c.Conn.SetReadDeadline(t)
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// carry notes that the mail of a transaction is on its way.
func (c *inbound) carry() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.data = true
	_ = c.limit(time.Now().Add(deliveryTimeout)) // if it fails the connection is broken, and reading says so
}

// Close closes the connection, and forgets it.
func (c *inbound) Close() error {
	l := c.listener
	l.mu.Lock()
	delete(l.conns, c)
	l.left()
	l.mu.Unlock()
	return c.Conn.Close()
}

// enter notes that a mail is read. It returns false if that is not waited for any more.
func (l *listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing && len(l.conns)+l.reading == 0 {
		return false
	}
	l.reading++
	return true
}

// leave notes the end of it.
func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reading--
	l.left()
}

// left notes if nobody is there any more. l.mu is held.
func (l *listener) left() {
	if l.closing && len(l.conns)+l.reading == 0 {
		select {
		case <-l.gone:
		default:
			close(l.gone)
		}
	}
}

// expect notes that an interest has been stated.
func (l *listener) expect() {
	l.stated.Do(func() {
		l.interested.Store(true)
		time.AfterFunc(settleTime, func() { close(l.ready) })
	})
}

// begin notes that a transaction has begun, which may end before the listener does. It returns an
// error if none may begin now.
func (c *inbound) begin() error {
	l := c.listener
	select {
	case <-l.ready:
	case <-l.overdue:
		if !l.interested.Load() {
			return errEarly
		}
	case <-l.over:
	}
	select {
	case <-l.ready:
	case <-l.over:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return errGone
	}
	c.busy, c.begun, c.data = true, time.Now(), false
	return nil
}

// end notes that no transaction is under way.
func (c *inbound) end() {
	c.listener.mu.Lock()
	closing := c.listener.closing
	c.busy = false
	c.listener.mu.Unlock()
	if closing {
		c.dismiss("closing")
	}
}

func (l *listener) isClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}

// close takes no new mails and waits for those that are on their way in. When ctx ends it gives them up.
func (l *listener) close(ctx context.Context) error {
	if l.server == nil {
		return nil
	}
	l.mu.Lock()
	l.closing, l.since = true, time.Now()
	close(l.over)
	l.opening.Stop()
	var idle, busy []*inbound
	for c := range l.conns {
		if c.busy {
			busy = append(busy, c)
			_ = c.limit(l.since.Add(deliveryTimeout)) // as in carry
		} else {
			idle = append(idle, c)
		}
	}
	l.left()
	l.mu.Unlock()
	l.socket.Close()
	<-l.served
	for _, c := range idle {
		c.dismiss("closing")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-l.gone
		_ = l.server.Shutdown(context.Background()) // it waits for the goroutines that have served the connections
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		l.closed.Store(true)
		for _, c := range busy {
			c.Close()
		}
		return fmt.Errorf("email: close: mails were still being received: %w", ctx.Err())
	}
}

// deliveryLog passes on what package smtp has to say. That clients go away is no news; that it has
// caught a panic is.
type deliveryLog struct{ *slog.Logger }

func (l deliveryLog) Printf(format string, args ...any) {
	level := slog.LevelDebug
	if strings.HasPrefix(format, "panic") {
		level = slog.LevelError
	}
	l.Log(context.Background(), level, "email: listener: "+fmt.Sprintf(format, args...))
}

func (l deliveryLog) Println(args ...any) { l.Debug("email: listener: " + fmt.Sprintln(args...)) }
