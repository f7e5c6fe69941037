package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

const (
	// submissionTimeout is for the answer to a whole mail. Servers filter mail then
	// and RFC 5321 section 4.5.3.2.6 grants them ten minutes; giving up too early
	// makes duplicates.
	submissionTimeout = 2 * time.Minute
	// trustIdle is how long a connection may have been idle and be used without
	// asking whether it is still there.
	trustIdle = 30 * time.Second
	// probeTimeout is for the answer to that question, and for the last word on Close.
	probeTimeout = 5 * time.Second
)

// sender submits mails over one connection, one after the other.
type sender struct {
	account account
	from    string
	// to, cc and bcc receive messages without recipients of their own.
	to, cc, bcc []string
	compat      compat

	// slot holds the connection, or nil if there is none, while nobody sends.
	slot   chan *submission
	closed chan struct{}
	// life ends when close runs out of time: then what is being sent ends, too.
	life context.Context
	end  context.CancelFunc
}

// submission is a connection to the server, logged in.
type submission struct {
	link
	client   *smtp.Client
	lastUsed time.Time
	broken   bool // must not be used again
}

// outgoing is a message as a mail, ready to be submitted.
type outgoing struct {
	from       string
	recipients []string
	raw        []byte
	eightBit   bool // raw has bytes beyond ASCII
}

// open connects for the first time.
func (s *sender) open(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
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
	for _, m := range msgs {
		mail, err := s.compose(m)
		if err != nil {
			return &transport.SendError{Name: m.Name, Outcome: transport.Permanent, Err: fmt.Errorf("email: %w", err)}
		}
		var taken bool
		if conn, taken, err = s.submit(ctx, conn, mail); err != nil {
			return sendError(m.Name, taken, err)
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
	if conn != nil && !conn.alive(ctx) {
		conn.drop()
		conn = nil
	}
	for {
		reused := conn != nil
		if !reused {
			if conn, err = s.connect(ctx); err != nil {
				return nil, false, err
			}
		}
		taken, err = conn.submit(ctx, m)
		if err == nil {
			return conn, true, nil
		}
		err = fmt.Errorf("email: smtp at %s: %w", s.account.server, err)
		if !conn.broken {
			return conn, taken, err
		}
		conn.drop()
		conn = nil
		// A server may close a connection at any time between two mails. That is
		// nobody's error as long as the mail was certainly not taken.
		if !reused || taken || ctx.Err() != nil {
			return nil, taken, err
		}
	}
}

// connect opens a connection and logs in.
func (s *sender) connect(ctx context.Context) (*submission, error) {
	limited, cancel := bounded(ctx, connectTimeout)
	defer cancel()
	link, err := s.account.dial(limited)
	if err != nil {
		if limited.Err() != nil {
			err = ended(limited)
		}
		return nil, s.account.explain("email: smtp connection", err)
	}
	conn := &submission{link: link, lastUsed: time.Now()}
	what := "email: smtp greeting"
	err = guard(limited, link.bare, func() (err error) {
		if s.account.server.scheme.security == startTLS {
			what = "email: smtp STARTTLS"
			if conn.client, err = smtp.NewClientStartTLS(link, s.account.tls); err != nil {
				return err
			}
		} else {
			conn.client = smtp.NewClient(link)
		}
		conn.client.CommandTimeout = commandTimeout
		conn.client.SubmissionTimeout = submissionTimeout
		if err := conn.client.Hello(addressLiteral(link.LocalAddr())); err != nil {
			return err
		}
		what = "email: smtp login"
		return conn.login(s.account)
	})
	if err != nil {
		conn.drop()
		return nil, s.account.explain(what, err)
	}
	return conn, nil
}

// addressLiteral returns how a client without a name introduces itself (RFC 5321 section
// 4.1.4).
func addressLiteral(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	switch {
	case !ok:
		return "localhost"
	case tcp.IP.To4() != nil:
		return "[" + tcp.IP.String() + "]"
	}
	return "[IPv6:" + tcp.IP.String() + "]"
}

// login authenticates by a mechanism that the server offers.
func (c *submission) login(a account) error {
	switch {
	case c.client.SupportsAuth(sasl.Plain):
		return c.client.Auth(sasl.NewPlainClient("", a.username, a.password))
	case c.client.SupportsAuth(sasl.Login):
		return c.client.Auth(sasl.NewLoginClient(a.username, a.password))
	}
	_, offered := c.client.Extension("AUTH")
	return fmt.Errorf("%w: the server offers neither AUTH PLAIN nor LOGIN on this port (but %q): check port and scheme", transport.ErrRefused, offered)
}

// alive reports whether a connection can be used; it asks the server if it has not
// been used for long.
func (c *submission) alive(ctx context.Context) bool {
	if c.broken || time.Since(c.lastUsed) < trustIdle {
		return !c.broken
	}
	limited, cancel := bounded(ctx, probeTimeout)
	defer cancel()
	return guard(limited, c.bare, c.client.Noop) == nil
}

// submit runs one mail transaction. All recipients get the mail or none: the first
// one that is refused ends the transaction. taken says that the server may have taken
// the mail.
func (c *submission) submit(ctx context.Context, m outgoing) (taken bool, err error) {
	err = guard(ctx, c.bare, func() error {
		if limit, _ := c.client.MaxMessageSize(); limit > 0 && len(m.raw) > limit {
			return fmt.Errorf("%w: the mail has %d bytes, the server's limit is %d", transport.ErrTooLarge, len(m.raw), limit)
		}
		// go-smtp says BODY=8BITMIME whenever it can (RFC 6152).
		if ok, _ := c.client.Extension("8BITMIME"); m.eightBit && !ok {
			return fmt.Errorf("%w: the server does not take 8-bit mail, which rmw_email needs for other characters than ASCII", transport.ErrNotSupported)
		}
		data, err := c.offer(m)
		if err != nil {
			// Without RSET the next mail would be part of this transaction.
			c.broken = replyIn(err) == nil || c.client.Reset() != nil
			return err
		}
		if _, err = data.Write(m.raw); err != nil {
			c.broken = true
			return fmt.Errorf("sending the mail: %w", err)
		}
		_, err = data.CloseWithResponse()
		taken = replyIn(err) == nil
		c.broken = taken && err != nil
		return explainReply("the mail", err, false)
	})
	c.broken = c.broken || ctx.Err() != nil // which has closed it
	c.lastUsed = time.Now()
	return taken, err
}

// offer says from whom to whom the mail goes, and returns where to write it.
func (c *submission) offer(m outgoing) (*smtp.DataCommand, error) {
	if err := c.client.Mail(m.from, &smtp.MailOptions{Size: int64(len(m.raw))}); err != nil {
		return nil, explainReply("sender "+m.from, err, false)
	}
	for _, to := range m.recipients {
		if err := c.client.Rcpt(to, nil); err != nil {
			return nil, explainReply("recipient "+to, err, true)
		}
	}
	data, err := c.client.Data()
	return data, explainReply("DATA", err, false)
}

// drop closes the connection, if there is one, without a word.
func (c *submission) drop() {
	if c != nil {
		c.bare.Close()
	}
}

// close says goodbye and closes the connection, when nobody sends any more.
func (s *sender) close(ctx context.Context) error {
	close(s.closed)
	defer s.end()
	select {
	case conn := <-s.slot:
		if conn != nil && !conn.broken {
			limited, cancel := bounded(ctx, probeTimeout)
			defer cancel()
			// Whether the server answers makes no difference any more.
			_ = guard(limited, conn.bare, conn.client.Quit)
		}
		conn.drop()
		s.slot <- nil // for who was waiting and finds it closed
		return nil
	case <-ctx.Done():
		s.end()
		conn := <-s.slot
		conn.drop()
		s.slot <- nil
		return fmt.Errorf("email: close: messages were still being sent: %w", ctx.Err())
	}
}

// replyIn returns the server's reply that err is about, or nil.
func replyIn(err error) *smtp.SMTPError {
	reply, _ := errors.AsType[*smtp.SMTPError](err)
	return reply
}

// explainReply says what an error is about and, if it is a reply that says no for good,
// which of transport's conditions it means.
func explainReply(about string, err error, recipient bool) error {
	if err == nil {
		return nil
	}
	reply := replyIn(err)
	if reply == nil || reply.Code < 500 {
		return fmt.Errorf("%s: %w", about, err)
	}
	// RFC 3463: 5.7 is policy, 5.3.4 a mail that is too big, 5.2.2 a full mailbox.
	meaning, class := transport.ErrRefused, reply.EnhancedCode
	switch {
	case class == smtp.EnhancedCode{5, 3, 4}, reply.Code == 552 && class != smtp.EnhancedCode{5, 2, 2} && !recipient:
		meaning = transport.ErrTooLarge
	case recipient && class[1] != 7:
		meaning = transport.ErrUndeliverable
	}
	return fmt.Errorf("%s: %w: %w", about, meaning, err)
}

// sendError returns the error of a message that could not be submitted.
func sendError(name string, taken bool, err error) *transport.SendError {
	e := &transport.SendError{Name: name, Outcome: transport.Temporary, Err: err}
	if reply := replyIn(err); reply != nil {
		e.Code = reply.Code
	}
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate), errors.Is(err, transport.ErrRefused), errors.Is(err, transport.ErrUndeliverable), errors.Is(err, transport.ErrTooLarge), errors.Is(err, transport.ErrNotSupported):
		e.Outcome = transport.Permanent
	case taken:
		e.Outcome = transport.Unknown
	}
	return e
}
