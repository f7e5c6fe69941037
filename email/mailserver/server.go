package mailserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-smtp"
)

// Errors of a server's methods.
var (
	// ErrClosed says that the server has been closed.
	ErrClosed = errors.New("mailserver: server closed")
	// ErrUnknownAccount says that an address is no account of the server.
	ErrUnknownAccount = errors.New("mailserver: no such account")
)

// Server is a running mail server. All its methods may be called at any time
// from any goroutine.
type Server struct {
	cfg      Config
	log      *slog.Logger
	identity *identity           // nil without TLS
	accounts map[string]*account // by addressKey; the map never changes
	smtp     *service
	imap     *service
	stats    counters
	closed   atomic.Bool
}

// Start starts a server. When it returns, clients can connect.
func Start(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, accounts: make(map[string]*account)}
	for i, c := range cfg.Accounts {
		s.accounts[addressKey(c.Address)] = newAccount(c, i, &s.cfg)
	}
	if cfg.TLS {
		if s.identity, err = newIdentity(&s.cfg); err != nil {
			return nil, err
		}
	}
	s.smtp = s.newService(SMTP)
	s.imap = s.newService(IMAP)
	for _, half := range []*service{s.smtp, s.imap} {
		if err := half.start(); err != nil {
			s.Close()
			return nil, err
		}
	}
	s.log.Info("mail server started", "smtp", s.SMTPURL(), "imap", s.IMAPURL(), "accounts", len(cfg.Accounts))
	return s, nil
}

func (s *Server) newService(name Service) *service {
	half := &service{
		name:    name,
		busy:    "421 4.7.0 Too many connections\r\n",
		max:     s.cfg.MaxConnections,
		idle:    s.cfg.IdleTimeout,
		stats:   &s.stats.smtp,
		newBase: s.newSMTP,
		failed:  func(err error) { s.log.Error("accepting connections failed", "service", name.String(), "err", err) },
	}
	direct, upgraded := s.cfg.SMTPAddr, s.cfg.SMTPStartTLSAddr
	if name == SMTP {
		setDefault(&half.idle, defaultSMTPTimeout)
	} else {
		half.busy = "* BYE Too many connections\r\n"
		half.stats = &s.stats.imap
		half.newBase = s.newIMAP
		direct, upgraded = s.cfg.IMAPAddr, s.cfg.IMAPStartTLSAddr
	}
	if s.identity == nil {
		half.endpoints = []endpoint{{direct, plaintext}}
	} else {
		half.tls = s.identity.server
		half.endpoints = []endpoint{{direct, implicitTLS}, {upgraded, startTLS}}
	}
	if name == SMTP && s.cfg.LMTPAddr != "" {
		half.endpoints = append(half.endpoints, endpoint{s.cfg.LMTPAddr, trusted})
	}
	return half
}

func (s *Server) newSMTP(_ context.Context, security security) protocol {
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &submission{server: s, conn: c, trusted: security == trusted, log: s.log.With("smtp", c.Conn().RemoteAddr().String())}, nil
	}))
	server.Domain = s.cfg.Hostname
	server.MaxRecipients = maxRecipients
	server.MaxMessageBytes = s.cfg.MaxMessageBytes
	server.MaxLineLength = maxLineLength
	server.WriteTimeout = smtpWriteTimeout
	server.LMTP = security == trusted
	server.EnableSMTPUTF8 = true
	server.AllowInsecureAuth = security == plaintext
	server.ErrorLog = logger{s.log.With("service", "SMTP")}
	if security == startTLS {
		server.TLSConfig = s.identity.server
	}
	return protocol{
		serve: server.Serve,
		wait: func() {
			// Its listener is closed and so are the connections: this only waits.
			if err := server.Shutdown(context.Background()); err != nil {
				s.log.Debug("SMTP shutdown", "err", err)
			}
		},
	}
}

func (s *Server) newIMAP(ctx context.Context, security security) protocol {
	options := &imapserver.Options{
		NewSession: func(c *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			log := s.log.With("imap", c.NetConn().RemoteAddr().String())
			return &session{server: s, stopped: ctx, conn: c, log: log}, nil, nil
		},
		Caps:         imapCaps(),
		Logger:       logger{s.log.With("service", "IMAP")},
		InsecureAuth: security == plaintext,
	}
	if security == startTLS {
		options.TLSConfig = s.identity.server
	}
	return protocol{serve: imapserver.New(options).Serve, wait: func() {}}
}

// SMTPAddr returns the host:port of SMTP, with the port that was chosen if the
// configuration left it open. It speaks TLS from the first byte if the server
// has TLS, otherwise plaintext.
func (s *Server) SMTPAddr() string { return s.smtp.addr(s.direct()) }

// IMAPAddr returns the host:port of IMAP, as SMTPAddr does for SMTP.
func (s *Server) IMAPAddr() string { return s.imap.addr(s.direct()) }

// SMTPStartTLSAddr returns the host:port of SMTP with STARTTLS, or "" if the
// server has no TLS.
func (s *Server) SMTPStartTLSAddr() string { return s.smtp.addr(startTLS) }

// IMAPStartTLSAddr returns the host:port of IMAP with STARTTLS, or "" if the
// server has no TLS.
func (s *Server) IMAPStartTLSAddr() string { return s.imap.addr(startTLS) }

// SMTPURL returns SMTPAddr as postbus' configuration file wants it:
// smtp+insecure://host:port, or smtps://host:port with TLS.
func (s *Server) SMTPURL() string {
	if s.identity == nil {
		return "smtp+insecure://" + s.SMTPAddr()
	}
	return "smtps://" + s.SMTPAddr()
}

// IMAPURL returns IMAPAddr as postbus' configuration file wants it:
// imap+insecure://host:port, or imaps://host:port with TLS.
func (s *Server) IMAPURL() string {
	if s.identity == nil {
		return "imap+insecure://" + s.IMAPAddr()
	}
	return "imaps://" + s.IMAPAddr()
}

// SMTPStartTLSURL returns smtp+starttls://host:port, or "" without TLS.
func (s *Server) SMTPStartTLSURL() string { return urlOf("smtp+starttls", s.SMTPStartTLSAddr()) }

// IMAPStartTLSURL returns imap+starttls://host:port, or "" without TLS.
func (s *Server) IMAPStartTLSURL() string { return urlOf("imap+starttls", s.IMAPStartTLSAddr()) }

// LMTPURL returns lmtp+insecure://host:port or lmtp+unix:///path, or "" without LMTP.
func (s *Server) LMTPURL() string {
	addr := s.smtp.addr(trusted)
	if networkOf(addr) == "unix" {
		return "lmtp+unix://" + addr
	}
	return urlOf("lmtp+insecure", addr)
}

func urlOf(scheme, addr string) string {
	if addr == "" {
		return ""
	}
	return scheme + "://" + addr
}

func (s *Server) direct() security {
	if s.identity == nil {
		return plaintext
	}
	return implicitTLS
}

// Accounts returns the accounts of the server, in the order of the
// configuration.
func (s *Server) Accounts() []Account { return slices.Clone(s.cfg.Accounts) }

// ClientTLSConfig returns a configuration with which clients trust the server's
// certificate, and no other. It is nil without TLS. Each call returns a new
// one, so the caller may change it.
func (s *Server) ClientTLSConfig() *tls.Config {
	if s.identity == nil {
		return nil
	}
	return s.identity.client.Clone()
}

// CACertPEM returns the certificate of the authority behind the server's
// certificate in PEM, for clients that read it from a file. It is nil without
// TLS.
func (s *Server) CACertPEM() []byte {
	if s.identity == nil {
		return nil
	}
	return bytes.Clone(s.identity.caPEM)
}

// account returns the account with that address, nil if there is none.
func (s *Server) account(address string) *account { return s.accounts[addressKey(address)] }

// login returns the account if the password is right.
func (s *Server) login(username, password string) *account {
	a := s.account(username)
	if a == nil || !a.passwordIs(password) {
		s.stats.failedLogins.Add(1)
		return nil
	}
	return a
}

// Deliver puts a mail into the INBOX of an account exactly as it is: nothing is
// checked, added or changed. The error is [ErrUnknownAccount], [ErrMailboxFull],
// [ErrTooLarge] or [ErrClosed].
func (s *Server) Deliver(address string, raw []byte) error {
	a := s.account(address)
	switch {
	case s.closed.Load():
		return ErrClosed
	case a == nil:
		return fmt.Errorf("%w: %s", ErrUnknownAccount, address)
	case int64(len(raw)) > s.cfg.MaxMessageBytes:
		return ErrTooLarge
	}
	none := func(*account) []byte { return nil }
	if err := deliver([]*account{a}, none, bytes.Clone(raw), time.Now()); err != nil {
		return err
	}
	s.stats.stored.Add(1)
	return nil
}

// Messages returns the mails in the INBOX of an account, the oldest first,
// each as it is stored: with the fields that the server put in front. The
// caller may keep and change them. It works on a stopped or closed server too.
// The error is [ErrUnknownAccount].
func (s *Server) Messages(address string) ([][]byte, error) {
	a := s.account(address)
	if a == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownAccount, address)
	}
	return rawMessages(a.inbox()), nil
}

func rawMessages(msgs []*message) [][]byte {
	raw := make([][]byte, len(msgs))
	for i, m := range msgs {
		raw[i] = m.bytes()
	}
	return raw
}

// WaitMessages waits until the INBOX of an account holds at least n mails and
// returns all it holds then, as [Server.Messages] does. The error is
// [ErrUnknownAccount] or that of the context.
func (s *Server) WaitMessages(ctx context.Context, address string, n int) ([][]byte, error) {
	a := s.account(address)
	if a == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownAccount, address)
	}
	a.mu.Lock()
	v := newView(a, a.mailboxes[inboxName], true)
	a.mu.Unlock()
	defer v.close()
	for {
		if msgs := a.inbox(); len(msgs) >= n {
			return rawMessages(msgs), nil
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Stop takes a service away as a crash would: it stops listening, and every
// connection breaks without a word, in the middle of whatever it was doing. A
// mail whose 250 had not been sent may or may not be in its mailboxes. The
// mailboxes stay. Stop returns when the last connection is gone; a service
// that is not running stays so.
func (s *Server) Stop(name Service) {
	if half := s.half(name); half != nil {
		half.stop()
		s.log.Debug("service stopped", "service", name.String())
	}
}

// Resume makes a stopped service available again on the same address, with the
// same certificate, mailboxes, UIDs and UIDVALIDITY. It fails if another
// program has taken the port meanwhile, and with [ErrClosed] on a closed
// server; a service that is running stays so.
func (s *Server) Resume(name Service) error {
	half := s.half(name)
	if half == nil {
		return fmt.Errorf("mailserver: no service %v", name)
	}
	if s.closed.Load() {
		return ErrClosed
	}
	if err := half.start(); err != nil {
		return err
	}
	if s.closed.Load() { // Close has come in between and may have missed it
		half.stop()
		return ErrClosed
	}
	s.log.Debug("service resumed", "service", name.String())
	return nil
}

// Disconnect breaks every connection of a service without a word, while it goes
// on accepting new ones: a cut wire rather than a dead server. It does not wait
// for them to be gone.
func (s *Server) Disconnect(name Service) {
	if half := s.half(name); half != nil {
		half.disconnect()
	}
}

func (s *Server) half(name Service) *service {
	switch name {
	case SMTP:
		return s.smtp
	case IMAP:
		return s.imap
	}
	return nil
}

// Close stops the server for good and returns when all its goroutines are done.
// Its mails can still be read with [Server.Messages]. Further calls do nothing.
// The error is always nil; it is there for io.Closer.
func (s *Server) Close() error {
	s.closed.Store(true)
	s.smtp.stop()
	s.imap.stop()
	return nil
}
