package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postbus/postbus/email/wire"
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
	waiting := func(err error) error {
		return &transport.SendError{Name: msgs[0].Name, Outcome: transport.Temporary, Err: err}
	}
	if ctx.Err() != nil {
		return waiting(transport.ContextError(ctx))
	}
	var conn *submission
	select {
	case <-s.closed:
		return fmt.Errorf("send %s: email carrier is %w", msgs[0].Name, transport.ErrClosed)
	case conn = <-s.slot:
	case <-ctx.Done():
		return waiting(fmt.Errorf("email: waiting for earlier messages: %w", transport.ContextError(ctx)))
	}
	defer func() { s.slot <- conn }()
	select {
	case <-s.closed:
		return fmt.Errorf("send %s: email carrier is %w", msgs[0].Name, transport.ErrClosed)
	default:
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(errClosing) })()
	conn = s.servers.prefer(s.life, conn)
	for i, m := range msgs {
		mail, err := s.compose(m)
		if err != nil {
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Taken: i, Err: fmt.Errorf("email: %w", err)}
		}
		var unsure bool
		if conn, unsure, err = s.submit(ctx, conn, mail); err != nil {
			return sendError(m.Name, i, unsure, err)
		}
	}
	return nil
}

// compose encodes a message and finds out who receives it.
func (s *sender) compose(m *transport.Message) (outgoing, error) {
	envelope := wire.Envelope{From: s.from, To: s.to, Cc: s.cc}
	all := slices.Concat(s.to, s.cc, s.bcc)
	if len(m.To) > 0 {
		all = make([]string, len(m.To))
		for i, to := range m.To {
			var err error
			// It may come from a mail: a reply address that is none, or worse.
			if all[i], err = parseAddress(to); err != nil {
				return outgoing{}, fmt.Errorf("recipient: %w: %w", transport.ErrUndeliverable, err)
			}
		}
		envelope.To, envelope.Cc = all, nil
	}
	if len(all) == 0 && s.appends {
		all = []string{s.from} // so that the mail is addressed to somebody
		envelope.To = all
	}
	if len(all) == 0 {
		return outgoing{}, errors.New("no recipients: set email.recipients.to in the configuration, or a route for this name")
	}
	seen := make(map[string]bool)
	recipients := slices.DeleteFunc(slices.Clone(all), func(a string) bool {
		key := strings.ToLower(a)
		defer func() { seen[key] = true }()
		return seen[key]
	})
	raw, eightBit, err := s.compat.encode(m, envelope)
	return outgoing{s.from, recipients, raw, eightBit}, err
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
