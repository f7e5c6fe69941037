package email

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/transport"
)

const (
	// submissionTimeout is for the answer to a whole mail. Servers filter mail then
	// and RFC 5321 section 4.5.3.2.6 grants them ten minutes; giving up too early
	// makes duplicates.
	submissionTimeout = 2 * time.Minute
	// maxReply is the most that a server may send between two commands, in bytes. The client
	// library would collect the lines of a reply for as long as they come.
	maxReply = 128 << 10
)

// submission is a connection to a server for sending, logged in.
type submission struct {
	link
	server   string // for errors
	protocol protocol
	rank     int          // of the server, in the order of preference
	client   *smtp.Client // nil if mails are appended
	lastUsed time.Time
	broken   bool // must not be used again

	appending *appending // or nil
}

// outgoing is a message as a mail, ready to be submitted.
type outgoing struct {
	from       string
	recipients []string
	raw        []byte
	eightBit   bool // raw has bytes beyond ASCII
}

// startSubmission logs in on a fresh connection.
func (a *account) startSubmission(ctx context.Context, l link) (*submission, error) {
	if a.server.scheme.protocol == imapProtocol {
		return a.startAppending(ctx, l)
	}
	l.Conn = &replyConn{Conn: l.Conn, left: maxReply}
	conn := &submission{link: l, server: a.server.String(), protocol: a.server.scheme.protocol, lastUsed: time.Now()}
	what := "email: smtp greeting"
	err := guard(ctx, l.bare, func() (err error) {
		if a.server.scheme.security == startTLS {
			what = "email: smtp STARTTLS"
			if conn.client, err = smtp.NewClientStartTLS(l, a.tls); err != nil {
				return err
			}
		} else {
			conn.client = smtp.NewClient(l)
		}
		conn.client.CommandTimeout = commandTimeout
		conn.client.SubmissionTimeout = submissionTimeout
		if err := conn.client.Hello(addressLiteral(l.LocalAddr())); err != nil {
			return err
		}
		what = "email: smtp login"
		return conn.login(a)
	})
	if err != nil {
		conn.drop()
		err = a.explain(what, err)
		if what == "email: smtp login" && errors.Is(err, transport.ErrRefused) {
			err = loginRefused{err}
		}
		return nil, err
	}
	return conn, nil
}

// loginRefused is the error of a server that does not want the account.
type loginRefused struct{ error }

func (e loginRefused) Unwrap() error { return e.error }

// replyConn is a connection on which a server can't send more than maxReply between two
// commands.
type replyConn struct {
	net.Conn
	left int // of maxReply
}

func (c *replyConn) Write(b []byte) (int, error) {
	c.left = maxReply
	return c.Conn.Write(b)
}

func (c *replyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left -= n; c.left < 0 {
		return 0, fmt.Errorf("the server sends more than %d bytes in one reply", maxReply)
	}
	return n, err
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
func (c *submission) login(a *account) error {
	switch {
	case c.client.SupportsAuth(sasl.Plain):
		return c.client.Auth(sasl.NewPlainClient("", a.username, a.password))
	case c.client.SupportsAuth(sasl.Login):
		return c.client.Auth(sasl.NewLoginClient(a.username, a.password))
	}
	_, offered := c.client.Extension("AUTH")
	return fmt.Errorf("%w: the server offers neither AUTH PLAIN nor LOGIN on this port (but %q): check port and scheme", transport.ErrRefused, offered)
}

// usable reports whether there is a connection, as far as can be known without asking the
// server.
func (c *submission) usable() bool {
	if c != nil && c.appending != nil {
		return !c.broken && c.appending.usable()
	}
	return c != nil && !c.broken && !hasEnded(c.bare)
}

// submit runs one mail transaction. All recipients get the mail or none: the first
// one that is refused ends the transaction. taken says that the server may have taken
// the mail.
func (c *submission) submit(ctx context.Context, m outgoing) (taken bool, err error) {
	defer func() { c.lastUsed = time.Now() }()
	if c.appending != nil {
		return c.append(ctx, m.raw)
	}
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
			c.broken = leaves(err) || c.client.Reset() != nil
			return err
		}
		if _, err = data.Write(m.raw); err != nil {
			c.broken = true
			return fmt.Errorf("sending the mail: %w", err)
		}
		_, err = data.CloseWithResponse()
		return c.conclude(&taken, err)
	})
	c.broken = c.broken || ctx.Err() != nil // which has closed it
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

// conclude judges the answer to a whole mail. The first digit is what counts
// (RFC 5321 section 4.2.1): 2 means taken, 4 and 5 not taken. Whatever else is no answer.
func (c *submission) conclude(taken *bool, err error) error {
	reply := replyIn(err)
	switch {
	case err == nil, reply != nil && reply.Code/100 == 2:
		*taken = true
		return nil
	case reply != nil && (reply.Code/100 == 4 || reply.Code/100 == 5):
		c.broken = leaves(err)
	default:
		*taken, c.broken = true, true
	}
	return explainReply("the mail", err, false)
}

// noop asks the server whether it is there.
func (c *submission) noop() error {
	if c.appending != nil {
		return c.appending.client.Noop().Wait()
	}
	return c.client.Noop()
}

// quit says goodbye.
func (c *submission) quit() error {
	if c.appending != nil {
		return c.appending.client.Logout().Wait()
	}
	return c.client.Quit()
}

// drop closes the connection, if there is one, without a word.
func (c *submission) drop() {
	if c == nil {
		return
	}
	c.bare.Close()
	if c.appending != nil {
		<-c.appending.client.Closed()
	}
}

// replyIn returns the server's reply that err is about, or nil.
func replyIn(err error) *smtp.SMTPError {
	reply, _ := errors.AsType[*smtp.SMTPError](err)
	return reply
}

// leaves reports whether a connection is of no use any more after err: it is lost, or
// the server has announced that it closes it (421; RFC 5321 section 3.8).
func leaves(err error) bool {
	reply := replyIn(err)
	return reply == nil || reply.Code == 421
}

// explainReply says what an error is about and, if it is a reply that says no for good,
// which of transport's conditions it means.
func explainReply(about string, err error, recipient bool) error {
	if err == nil {
		return nil
	}
	reply := replyIn(err)
	if reply == nil || reply.Code/100 != 5 {
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
