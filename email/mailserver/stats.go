package mailserver

import "sync/atomic"

// Stats counts what has happened since [Start], through every Stop and Resume.
type Stats struct {
	// SMTPConnections and IMAPConnections were accepted.
	SMTPConnections, IMAPConnections uint64
	// SMTPOpen and IMAPOpen are connected now.
	SMTPOpen, IMAPOpen int
	// Refused are the connections turned away because there were too many.
	Refused uint64

	// SMTPLogins and IMAPLogins succeeded; FailedLogins did not, of both.
	SMTPLogins, IMAPLogins uint64
	FailedLogins           uint64

	// Accepted are the mails answered with 250; Rejected the recipients and
	// mails that were refused. A mail refused for its size at MAIL is in neither.
	Accepted, Rejected uint64
	// Stored are the copies put into mailboxes by SMTP, APPEND and Deliver.
	Stored uint64

	// IMAPCommands are the commands answered with OK, besides LOGOUT and what
	// comes before login. IDLE counts when it ends.
	IMAPCommands uint64
	// IMAPFetches are the FETCH and UID FETCH commands, whatever the answer.
	IMAPFetches uint64
	// Idling are the IMAP connections in IDLE now. They get to know of new mail
	// even if it comes before their "+ idling" does.
	Idling int
}

type connStats struct {
	accepted, refused atomic.Uint64
	open              atomic.Int64
}

type counters struct {
	smtp, imap                           connStats
	smtpLogins, imapLogins, failedLogins atomic.Uint64
	accepted, rejected, stored           atomic.Uint64
	imapCommands, imapFetches            atomic.Uint64
	idling                               atomic.Int64
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		SMTPConnections: c.smtp.accepted.Load(),
		IMAPConnections: c.imap.accepted.Load(),
		SMTPOpen:        int(c.smtp.open.Load()),
		IMAPOpen:        int(c.imap.open.Load()),
		Refused:         c.smtp.refused.Load() + c.imap.refused.Load(),
		SMTPLogins:      c.smtpLogins.Load(),
		IMAPLogins:      c.imapLogins.Load(),
		FailedLogins:    c.failedLogins.Load(),
		Accepted:        c.accepted.Load(),
		Rejected:        c.rejected.Load(),
		Stored:          c.stored.Load(),
		IMAPCommands:    c.imapCommands.Load(),
		IMAPFetches:     c.imapFetches.Load(),
		Idling:          int(c.idling.Load()),
	}
}
