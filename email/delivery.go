package email

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// delivery is how a mail server hands mails over to a listener: a session of package smtp. A mail with several
// recipients is one mail, and all recipients get the same answer.
type delivery struct {
	listener *listener
	conn     *inbound

	// mu guards the rest: a mail that comes by BDAT is read by a goroutine of its own.
	mu      sync.Mutex
	from    string
	buffer  []byte // for the next mail
	reading bool   // a mail has not come to its end
}

var _ smtp.LMTPSession = (*delivery)(nil)

// The answers to what is not taken.
var (
	errNotHere = &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "Nobody with this address listens here"}
	errGone    = &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "Closing"}
	errCutOff  = &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: "The connection ended before the mail did"}
	errEarly   = &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "The program has not said yet what it wants"}
	errCrowded = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "Too many large mails at once"}
)

// Mail implements smtp.Session.
func (d *delivery) Mail(from string, _ *smtp.MailOptions) error {
	if err := d.conn.begin(); err != nil {
		return err
	}
	d.mu.Lock()
	d.from = from
	d.mu.Unlock()
	return nil
}

// Rcpt implements smtp.Session.
func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !d.listener.recipients.include(to) {
		return errNotHere
	}
	return nil
}

// LMTPData implements smtp.LMTPSession: who returns an error gives it to all recipients. Without it package smtp
// would look at them when a BDAT has been broken off and they are not there any more.
func (d *delivery) LMTPData(r io.Reader, _ smtp.StatusCollector) error { return d.Data(r) }

// Data implements smtp.Session. The answer to the mail is given when those who wanted the message have it.
func (d *delivery) Data(r io.Reader) error {
	l := d.listener
	if !l.enter() {
		return errGone
	}
	defer l.leave()
	d.conn.carry()
	d.mu.Lock()
	from, buffer := d.from, d.buffer
	d.buffer, d.reading = nil, true
	d.mu.Unlock()
	raw, reserved, err := l.read(r, buffer[:0])
	defer l.held.Add(-reserved)
	if err == smtp.ErrDataReset {
		return err
	}
	if err == nil && d.conn.hasEnded() {
		// Package smtp takes a last BDAT chunk that is too short for a whole one. Of a whole mail nothing more is read.
		err = errCutOff
	}
	if err == nil {
		err = l.take(from, raw)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading = false; reserved == 0 {
		d.buffer = raw
	}
	return err
}

// read reads a mail. What is above headBytes is reserved, and there may be too much of it.
func (l *listener) read(r io.Reader, b []byte) (raw []byte, reserved int64, err error) {
	if b == nil {
		b = make([]byte, 0, 4<<10)
	}
	for {
		if len(b) == cap(b) {
			size := min(int64(cap(b))*2, l.room())
			if size > headBytes {
				l.held.Add(size - reserved)
				reserved = size
				if l.held.Load() > heldMails*l.room() {
					return nil, reserved, errCrowded
				}
			}
			b = append(make([]byte, 0, size), b...)
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, reserved, nil
		}
		if err != nil {
			return nil, reserved, err
		}
	}
}

// room is more than the largest mail has.
func (l *listener) room() int64 { return l.receiver.maxBatch() + 512 }

// take delivers the message in a mail. What is none, and what nobody wants, is taken as well, for there is nobody
// else to give it to: a mail server would return it to its sender.
func (l *listener) take(from string, raw []byte) error {
	l.delivering.Lock()
	defer l.delivering.Unlock()
	if l.closed.Load() {
		return errGone
	}
	r := l.receiver
	if r.dispatcher.Len() == 0 {
		return nil // an interest is for what comes after it was stated
	}
	if int64(len(raw)) > r.maxMail {
		if _, err := wire.DecodeHeader(raw); err != wire.ErrBatch {
			return smtp.ErrDataTooLarge // only a mail of several messages may be so large
		}
	}
	mail := fetched{size: int64(len(raw)), body: raw, hasBody: true}
	(&reader{receiver: r, audience: present{liveAudience{r}, from}}).process(mail)
	return nil
}

// Reset implements smtp.Session. It is called after each transaction.
func (d *delivery) Reset() {
	d.mu.Lock()
	broken := d.reading
	d.mu.Unlock()
	if broken {
		// A BDAT was broken off. Package smtp might take its end for that of the next mail.
		d.conn.Close()
		return
	}
	d.conn.end()
}

// Logout implements smtp.Session.
func (d *delivery) Logout() error { return nil }

// present is the audience of what is delivered to a listener.
type present struct {
	liveAudience
	from string // the sender of the mail, by its envelope
}

// skip implements audience. The mail is nowhere else, so all is told that is known of it.
func (p present) skip(_ imap.UID, reason SkipReason, err error) {
	level := slog.LevelWarn
	if reason == ForeignMail || reason == AutomaticMail {
		level = slog.LevelInfo
	}
	total := p.skips.add(0, reason)
	p.logger.Log(context.Background(), level, "email: mail dropped that is no message, or not one that can be received", "listener", p.address, "from", p.from, "reason", string(reason),
		"skipped so far", total, "error", err)
}

// lacks says what an interest asks for that a listener can't do.
func (l *listener) lacks(interest transport.Interest) error {
	what := ""
	switch {
	case interest.Durable != "":
		what = "durable interests"
	case interest.Group != "":
		what = "groups"
	case interest.Last > 0:
		what = "the last messages"
	default:
		return nil
	}
	return fmt.Errorf("email: %s need a mailbox that keeps messages, and at %s mail is taken without one: %w", what, l.at, transport.ErrNotSupported)
}
