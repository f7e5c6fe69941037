package mailserver

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// submission is one SMTP connection.
type submission struct {
	server  *Server
	conn    *smtp.Conn
	log     *slog.Logger
	trusted bool // LMTP, without login

	// mu guards the rest: a BDAT transaction reads it from a goroutine of its
	// own, while the connection may already be on its way to the next.
	mu      sync.Mutex
	account *account // nil before AUTH
	mail    *envelope
}

// envelope is a mail on its way in.
type envelope struct {
	from string
	size int64 // as announced, 0 if it was not
	utf8 bool
	to   []*account // in the order of their ranks, each once
}

var _ smtp.AuthSession = (*submission)(nil)

// Answers that go-smtp has no value for.
var (
	errAuthRequired = &smtp.SMTPError{
		Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required",
	}
	errStartTLSFirst = &smtp.SMTPError{
		Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Must issue a STARTTLS command first",
	}
	errNestedMail = &smtp.SMTPError{
		Code: 503, EnhancedCode: smtp.EnhancedCode{5, 5, 1}, Message: "Nested MAIL command",
	}
	errNoMail = &smtp.SMTPError{
		Code: 503, EnhancedCode: smtp.EnhancedCode{5, 5, 1}, Message: "No mail transaction in progress",
	}
	errCutOff = &smtp.SMTPError{
		Code: 421, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: "The connection ended before the mail did",
	}
	errUnknownUser = &smtp.SMTPError{
		Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user here",
	}
	errMailboxFull = &smtp.SMTPError{
		Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "Mailbox full",
	}
	errMailboxTooSmall = &smtp.SMTPError{
		Code: 552, EnhancedCode: smtp.EnhancedCode{5, 2, 3}, Message: "The mail is larger than the mailbox",
	}
)

// AuthMechanisms implements smtp.AuthSession.
func (s *submission) AuthMechanisms() []string {
	if s.trusted {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

// Auth implements smtp.AuthSession.
func (s *submission) Auth(mechanism string) (sasl.Server, error) {
	switch mechanism {
	case sasl.Plain:
		return sasl.NewPlainServer(func(identity, username, password string) error {
			if identity != "" && addressKey(identity) != addressKey(username) {
				return smtp.ErrAuthFailed // nobody may act for somebody else
			}
			return s.authenticate(username, password)
		}), nil
	case sasl.Login:
		return &loginServer{authenticate: s.authenticate}, nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

func (s *submission) authenticate(username, password string) error {
	account := s.server.login(username, password)
	if account == nil {
		s.log.Info("login refused", "user", username)
		return smtp.ErrAuthFailed
	}
	s.server.stats.smtpLogins.Add(1)
	s.log.Debug("login", "user", account.address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account = account
	return nil
}

// loginServer is the server side of the LOGIN mechanism, which go-sasl leaves
// out as obsolete; Outlook and others still use it.
type loginServer struct {
	authenticate func(username, password string) error
	username     *string
	asked        bool
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case l.username != nil:
		return nil, true, l.authenticate(*l.username, string(response))
	case response == nil && !l.asked:
		l.asked = true
		return []byte("Username:"), false, nil
	}
	username := string(response)
	l.username = &username
	return []byte("Password:"), false, nil
}

// Mail implements smtp.Session.
func (s *submission) Mail(from string, opts *smtp.MailOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.trusted:
	case s.account == nil && !s.encrypted() && s.server.identity != nil:
		return errStartTLSFirst // RFC 3207 section 4
	case s.account == nil:
		return errAuthRequired
	}
	if s.mail != nil {
		return errNestedMail
	}
	s.mail = &envelope{from: from, size: opts.Size, utf8: opts.UTF8}
	return nil
}

func (s *submission) encrypted() bool {
	_, encrypted := s.conn.TLSConnectionState()
	return encrypted
}

// Rcpt implements smtp.Session.
func (s *submission) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	recipient := s.server.account(to)
	if recipient == nil {
		s.server.stats.rejected.Add(1)
		return errUnknownUser
	}
	// Refusing here names the recipient that is in the way; Data can only
	// refuse the mail as a whole.
	recipient.mu.Lock()
	err := recipient.room(1, s.mail.size)
	recipient.mu.Unlock()
	if err != nil {
		s.server.stats.rejected.Add(1)
		return smtpError(err)
	}
	byRank := func(a *account, rank int) int { return a.rank - rank }
	if i, found := slices.BinarySearchFunc(s.mail.to, recipient.rank, byRank); !found {
		s.mail.to = slices.Insert(s.mail.to, i, recipient)
	}
	return nil
}

func smtpError(err error) error {
	switch {
	case errors.Is(err, ErrMailboxFull):
		return errMailboxFull
	case errors.Is(err, ErrTooLarge):
		return errMailboxTooSmall
	}
	return err
}

// Data implements smtp.Session: the mail is in the mailboxes when it returns
// nil, which makes go-smtp answer 250.
func (s *submission) Data(r io.Reader) error {
	s.mu.Lock()
	mail := s.mail
	s.mu.Unlock()
	if mail == nil {
		return errNoMail
	}
	// The room in reserve keeps a mail of the announced size in one piece.
	body, err := readAll(r, mail.size, 16)
	if err == nil && s.isCutOff() {
		err = errCutOff
	}
	if err != nil {
		s.server.stats.rejected.Add(1)
		return err
	}
	now := time.Now()
	id := rand.Text()
	received := s.received(mail, id, now)
	missing := missingFields(body, s.server.cfg.Hostname, id, now)
	err = deliver(mail.to, func(a *account) []byte {
		return fmt.Appendf(nil, "Return-Path: <%s>\r\nDelivered-To: %s\r\n%s%s", mail.from, a.address, received, missing)
	}, body, now)
	if err != nil {
		s.server.stats.rejected.Add(1)
		return smtpError(err)
	}
	s.server.stats.accepted.Add(1)
	s.server.stats.stored.Add(uint64(len(mail.to)))
	s.log.Debug("mail", "id", id, "from", mail.from, "recipients", len(mail.to), "bytes", len(body))
	return nil
}

// isCutOff reports whether the connection ended within a mail that has been
// read to its end: go-smtp takes a last BDAT chunk that is too short for a whole
// one. Of a mail that is whole nothing more is read.
func (s *submission) isCutOff() bool {
	client := s.conn.Conn()
	if c, ok := client.(*tls.Conn); ok {
		client = c.NetConn()
	}
	return client.(*conn).isBroken()
}

// received returns the trace field of RFC 5321 section 4.4, with the protocol
// names of RFC 3848 and RFC 6531.
func (s *submission) received(mail *envelope, id string, now time.Time) string {
	helo := s.conn.Hostname()
	if !plainWord(helo) {
		helo = "unknown"
	}
	client := "unknown"
	if host, _, err := net.SplitHostPort(s.conn.Conn().RemoteAddr().String()); err == nil {
		client = host
	}
	protocol := "ESMTP"
	if s.trusted {
		protocol = "LMTP"
	}
	if mail.utf8 {
		protocol = "UTF8" + strings.TrimPrefix(protocol, "E")
	}
	if s.encrypted() {
		protocol += "S"
	}
	if !s.trusted {
		protocol += "A"
	}
	return fmt.Sprintf("Received: from %s ([%s])\r\n\tby %s (postbus) with %s id %s;\r\n\t%s\r\n",
		helo, client, s.server.cfg.Hostname, protocol, id, now.Format(time.RFC1123Z))
}

// missingFields returns the fields that a submission server adds to a mail
// (RFC 6409 section 8), and an empty line if the mail has no header at all.
func missingFields(mail []byte, hostname, id string, now time.Time) []byte {
	header := mail[:headerEnd(mail)]
	var hasDate, hasID bool
	for name := range fields(header) {
		hasDate = hasDate || strings.EqualFold(string(name), "Date")
		hasID = hasID || strings.EqualFold(string(name), "Message-ID")
	}
	var add bytes.Buffer
	if !hasDate {
		fmt.Fprintf(&add, "Date: %s\r\n", now.Format(time.RFC1123Z))
	}
	if !hasID {
		fmt.Fprintf(&add, "Message-ID: <%s@%s>\r\n", id, hostname)
	}
	if len(header) == 0 {
		add.WriteString("\r\n")
	}
	return add.Bytes()
}

// Reset implements smtp.Session.
func (s *submission) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mail = nil
}

// Logout implements smtp.Session.
func (s *submission) Logout() error { return nil }
