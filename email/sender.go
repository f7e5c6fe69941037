package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/postbus/postbus/transport"
)

// quitTimeout is for the server's last word on Close.
const quitTimeout = 5 * time.Second

// sender submits mails over one connection, one after the other.
type sender struct {
	servers servers
	from    string
	// to, cc and bcc receive messages without recipients of their own.
	to, cc, bcc []string
	appends     bool // mails are appended to a folder, whoever their recipients are
	compat      compat
	sent        *sentBatches     // what the receiver makes of bounces
	forgive     func(error) bool // says whether the first connection can wait; nil: no

	collector collector
	batchGID  transport.GID // of the batches' own IDs
	batches   uint64        // how many there have been

	// slot holds the connection, or nil if there is none, while nobody sends.
	slot   chan *submission
	closed chan struct{}
	// life ends when close runs out of time: then what is being sent ends, too.
	life context.Context
	end  context.CancelFunc
}

// open connects for the first time.
func (s *sender) open(ctx context.Context) error {
	conn, err := s.servers.connect(ctx, nil)
	if err != nil && (s.forgive == nil || !s.forgive(err)) {
		return err
	}
	s.slot = make(chan *submission, 1)
	s.closed = make(chan struct{})
	s.life, s.end = context.WithCancel(context.Background())
	s.slot <- conn
	return nil
}

// send implements transport.Sender.
func (s *sender) send(ctx context.Context, msgs []*transport.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return waitingError(msgs[0], transport.ContextError(ctx))
	}
	if s.collector.limits.On {
		call, err := s.collector.enter(ctx, msgs)
		switch {
		case err != nil:
			return err
		case call != nil:
			return s.collector.await(call)
		}
		defer func() {
			if s.collector.pass() {
				go s.drain()
			}
		}()
	}
	var conn *submission
	select {
	case <-s.closed:
		return closedError(msgs[0])
	case conn = <-s.slot:
	case <-ctx.Done():
		return waitingError(msgs[0], stillWaiting(ctx))
	}
	defer func() { s.slot <- conn }()
	select {
	case <-s.closed:
		return closedError(msgs[0])
	default:
	}
	ctx, cancel := s.bound(ctx)
	defer cancel(nil)
	conn = s.servers.prefer(s.life, conn)
	var err error
	conn, err = s.sendAll(ctx, conn, msgs, 0)
	return err
}

// waitingError is the error of a message of which nothing has been tried.
func waitingError(m *transport.Message, err error) error {
	return &transport.SendError{Name: m.Name, Outcome: transport.Temporary, Err: err}
}

// bound returns a context that ends with ctx, or when close runs out of time.
func (s *sender) bound(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(errClosing) })
	return ctx, func(cause error) { stop(); cancel(cause) }
}

// sendAll sends messages in order, in as few mails as may be, until one fails. It returns the connection to
// use next. The first so many messages go alone.
func (s *sender) sendAll(ctx context.Context, conn *submission, msgs []*transport.Message, alone int) (next *submission, err error) {
	for i := 0; i < len(msgs); {
		if ctx.Err() != nil {
			return conn, sendError(msgs[i].Name, i, false, ended(ctx))
		}
		run := 1
		if i >= alone {
			run = s.collector.run(msgs[i:]).count
		}
		mail, n, err := s.pack(msgs[i:i+run], conn)
		if err != nil {
			return conn, composeError(msgs[i], i, err)
		}
		var unsure bool
		conn, unsure, err = s.submit(ctx, conn, mail)
		switch {
		case err == nil:
			i += n
		case n > 1 && !unsure && isAboutOne(err):
			alone = i + n
		default:
			e := sendError(msgs[i].Name, i, unsure, err)
			e.With = n - 1
			return conn, e
		}
	}
	return conn, nil
}

// composeError is the error of a message that can't be a mail.
func composeError(m *transport.Message, taken int, err error) error {
	return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Taken: taken, Err: fmt.Errorf("email: %w", err)}
}

// submit hands a mail over, on conn if it is there and alive, and returns the
// connection to use next. taken says that the server may have taken the mail.
func (s *sender) submit(ctx context.Context, conn *submission, m outgoing) (next *submission, taken bool, err error) {
	var errs []error // of new connections
	for {
		if !conn.usable() {
			conn.drop()
			conn = nil
		}
		reused := conn != nil
		if !reused || time.Since(conn.lastUsed) >= trustIdle {
			old := conn
			if conn, err = s.servers.connect(ctx, old); err != nil {
				return nil, false, noConnection{together(append(errs, err))}
			}
			reused = conn == old
		}
		taken, err = conn.submit(ctx, m)
		if err != nil {
			err = fmt.Errorf("email: %s at %s: %w", conn.protocol, conn.server, err)
		}
		s.servers.learn(conn, err)
		if !conn.broken {
			s.servers.work()
		}
		if taken || ctx.Err() != nil || !conn.again(err) {
			return conn, taken, err
		}
		// A server may close a connection at any time between two mails. That is
		// nobody's error as long as the mail was certainly not taken. And what it does not understand
		// when it comes in advance it may understand step by step.
		if reused || replyIn(err) != nil && conn.stumbled {
			continue
		}
		s.servers.shun(conn.rank)
		if errs = append(errs, err); len(errs) == len(s.servers.list) {
			err = together(errs)
			s.servers.fail(err)
			return conn, false, err
		}
	}
}

// close says goodbye and closes the connection, when nobody sends any more.
func (s *sender) close(ctx context.Context) error {
	close(s.closed)
	s.collector.shut()
	var conn *submission
	var err error
	select {
	case conn = <-s.slot:
		if conn != nil && !conn.broken {
			limited, cancel := bounded(ctx, quitTimeout)
			defer cancel()
			// Whether the server answers makes no difference any more.
			_ = guard(limited, conn.bare, conn.quit)
		}
	case <-ctx.Done():
		s.end()
		conn = <-s.slot
		err = fmt.Errorf("email: close: messages were still being sent: %w", ctx.Err())
	}
	conn.drop()
	s.end()
	s.servers.close()
	s.slot <- nil // for who was waiting and finds it closed
	s.collector.draining.Wait()
	return err
}

// sendError returns the error of a message that could not be submitted, after so many others of the
// same call that were.
func sendError(name string, taken int, unsure bool, err error) *transport.SendError {
	e := &transport.SendError{Name: name, Outcome: transport.Temporary, Taken: taken, Err: err}
	_, e.NextHop = errors.AsType[noConnection](err)
	if reply := replyIn(err); reply != nil {
		e.Code = reply.Code
	}
	switch {
	case unsure:
		e.Outcome = transport.Unknown
	case isPermanent(err):
		e.Outcome = transport.Permanent
	}
	return e
}

// noConnection is the error of a message for which there is no connection to any server.
type noConnection struct{ error }

func (e noConnection) Unwrap() error { return e.error }

// isPermanent reports whether err says that trying again makes no difference.
func isPermanent(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate) || errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrUndeliverable) ||
		errors.Is(err, transport.ErrTooLarge) || errors.Is(err, transport.ErrNotSupported)
}
