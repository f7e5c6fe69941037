package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
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
)

// submission is a connection to a server for sending, logged in.
type submission struct {
	link
	talk     *dialogue
	server   string // for errors
	protocol protocol
	rank     int          // of the server, in the order of preference
	client   *smtp.Client // nil if mails are appended
	lastUsed time.Time
	broken   bool // must not be used again

	appending *appending // or nil

	// What the server offers.
	pipelining, chunking, eightBit, size bool
	maxSize                              int // of a mail in bytes, 0 for no known limit
	// plain says not to send commands in advance, though the server offers it; stumbled that it has
	// come to grief over it.
	plain, stumbled bool
	// answered says that the server has answered the whole envelope that came in advance; calledOff that the mail was
	// called off after that, which says nothing about commands in advance.
	answered, calledOff bool
	flight              []byte      // the last one, for its room
	sent                atomic.Bool // the whole mail is; what is missing is the answer
}

// outgoing is a message as a mail, ready to be submitted.
type outgoing struct {
	from       string
	recipients []string
	raw        []byte
	eightBit   bool // raw has bytes beyond ASCII
}

// lmtp reports whether the server answers for each recipient.
func (c *submission) lmtp() bool { return c.protocol == lmtpProtocol }

// startSubmission logs in on a fresh connection.
func (a *account) startSubmission(ctx context.Context, l link) (*submission, error) {
	if a.server.scheme.protocol == imapProtocol {
		return a.startAppending(ctx, l)
	}
	conn := &submission{link: l, talk: newDialogue(l), server: a.server.String(), protocol: a.server.scheme.protocol, lastUsed: time.Now()}
	step := "greeting"
	err := guard(ctx, l.bare, func() error {
		if a.server.scheme.security == startTLS {
			step = "STARTTLS"
			if err := conn.startTLS(ctx, a); err != nil {
				return err
			}
		}
		if err := conn.hello(); err != nil {
			return err
		}
		step = "login"
		return conn.login(a)
	})
	if err != nil {
		conn.drop()
		err = a.explain(fmt.Sprintf("email: %s %s", conn.protocol, step), err)
		if step == "login" && errors.Is(err, transport.ErrRefused) {
			err = loginRefused{err}
		}
		return nil, err
	}
	return conn, nil
}

// hello introduces the client, and notes what the server offers.
func (c *submission) hello() error {
	if c.lmtp() {
		c.client = smtp.NewClientLMTP(c.talk)
	} else {
		c.client = smtp.NewClient(c.talk)
	}
	c.client.CommandTimeout = commandTimeout
	c.client.SubmissionTimeout = submissionTimeout
	if err := c.client.Hello(addressLiteral(c.LocalAddr())); err != nil {
		return err
	}
	for name, offered := range map[string]*bool{"PIPELINING": &c.pipelining, "CHUNKING": &c.chunking, "8BITMIME": &c.eightBit, "SIZE": &c.size} {
		*offered, _ = c.client.Extension(name)
	}
	c.maxSize, _ = c.client.MaxMessageSize()
	return nil
}

// startTLS does what go-smtp could, but leaves the connection in our hands.
func (c *submission) startTLS(ctx context.Context, a *account) error {
	if err := c.hello(); err != nil {
		return err
	}
	if ok, _ := c.client.Extension("STARTTLS"); !ok {
		return errors.New("the server doesn't support STARTTLS")
	}
	if _, err := c.say([]byte("STARTTLS\r\n")); err != nil {
		return err
	}
	reply, err := c.talk.reply(commandTimeout)
	switch {
	case err != nil:
		return err
	case reply.Code != 220:
		return reply
	case c.talk.lines.Buffered() > 0:
		// It was sent before there was TLS, perhaps by somebody else.
		return errors.New("the server sends more than the reply to STARTTLS before TLS begins")
	}
	secured := tls.Client(c.bare, a.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		return err
	}
	c.link = link{secured, c.bare}
	c.talk = afterStartTLS(secured)
	return nil
}

// loginRefused is the error of a server that does not want the account.
type loginRefused struct{ error }

func (e loginRefused) Unwrap() error { return e.error }

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
	_, offered := c.client.Extension("AUTH")
	switch {
	case c.lmtp() && offered == "":
		return nil // it trusts whoever reaches it (RFC 2033 section 3)
	case c.client.SupportsAuth(sasl.Plain):
		return c.client.Auth(sasl.NewPlainClient("", a.username, a.password))
	case c.client.SupportsAuth(sasl.Login):
		return c.client.Auth(sasl.NewLoginClient(a.username, a.password))
	}
	return fmt.Errorf("%w: the server offers neither AUTH PLAIN nor LOGIN on this port (but %q): check port and scheme", transport.ErrRefused, offered)
}

// usable reports whether there is a connection, as far as can be known without asking the
// server.
func (c *submission) usable() bool {
	switch {
	case c == nil || c.broken:
		return false
	case c.appending != nil:
		return c.appending.usable()
	}
	return c.talk.lines.Buffered() == 0 && !hasEnded(c.bare)
}

// submit runs one mail transaction. All recipients get the mail or none: the first
// one that is refused ends the transaction; only over LMTP it may come out different in the end. taken says that the
// server may have taken the mail.
func (c *submission) submit(ctx context.Context, m outgoing) (taken bool, err error) {
	defer func() { c.lastUsed = time.Now() }()
	if c.appending != nil {
		return c.append(ctx, m.raw)
	}
	c.sent.Store(false)
	c.answered = false
	closed, err := patient(ctx, c.bare, &c.sent, func() error {
		if c.maxSize > 0 && len(m.raw) > c.maxSize {
			return fmt.Errorf("%w: the mail has %d bytes, the server's limit is %d", transport.ErrTooLarge, len(m.raw), c.maxSize)
		}
		// BODY=8BITMIME is always said where it is offered (RFC 6152).
		if m.eightBit && !c.eightBit {
			return fmt.Errorf("%w: the server does not take 8-bit mail, which rmw_email needs for other characters than ASCII", transport.ErrNotSupported)
		}
		if !c.pipelining || c.plain {
			return c.stepwise(m, &taken)
		}
		err := c.pipeline(m, &taken)
		c.stumbled = err != nil && (replyIn(err) == nil || protests(err) && !taken)
		c.broken = c.broken || c.stumbled
		return err
	})
	c.broken = c.broken || closed
	if c.calledOff = closed && c.answered; c.calledOff {
		c.stumbled = false
	}
	return taken, err
}

// stepwise runs a mail transaction with go-smtp's client, which waits for each reply.
func (c *submission) stepwise(m outgoing, taken *bool) error {
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
	c.sent.Store(true)
	if c.lmtp() {
		return c.closeEach(data, m.recipients, taken)
	}
	_, err = data.CloseWithResponse()
	return c.conclude(taken, err)
}

// offer says from whom to whom the mail goes, and returns where to write it.
func (c *submission) offer(m outgoing) (*smtp.DataCommand, error) {
	if err := c.client.Mail(m.from, &smtp.MailOptions{Size: int64(len(m.raw))}); err != nil {
		return nil, aboutEnvelope{explainReply("sender "+m.from, err, false)}
	}
	for _, to := range m.recipients {
		if err := c.client.Rcpt(to, nil); err != nil {
			return nil, aboutEnvelope{explainReply("recipient "+to, err, true)}
		}
	}
	data, err := c.client.Data()
	return data, explainReply("DATA", err, false)
}

// aboutEnvelope is the error of a sender or recipient.
type aboutEnvelope struct{ error }

func (e aboutEnvelope) Unwrap() error { return e.error }

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

// again reports whether the mail that failed with err should be tried over another connection at
// once: this one is lost, or has not been understood.
func (c *submission) again(err error) bool {
	return err != nil && c.broken && (leaves(err) || c.stumbled)
}

// protests reports whether err is a reply to the way the commands were sent, and not to
// what they say: RFC 5321 section 4.2.2 and RFC 3463 section 3.6.
func protests(err error) bool {
	reply := replyIn(err)
	if reply == nil || reply.Code/100 != 5 {
		return false
	}
	class := reply.EnhancedCode
	return reply.Code == 500 || reply.Code == 502 || reply.Code == 503 || class == smtp.EnhancedCode{5, 5, 0} || class == smtp.EnhancedCode{5, 5, 1}
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
