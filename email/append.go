package email

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/transport"
)

// appending is the way to hand mails over without any SMTP: they are appended to a folder, where all
// who watch it find them at once (RFC 9051 section 6.3.12). Up to 4096 bytes a mail and the command are
// one flight, if the server has LITERAL- or LITERAL+ (RFC 7888), and two otherwise.
type appending struct {
	client *imapclient.Client
	folder string
	limit  int64 // of the bytes of a mail, or 0
}

// startAppending logs in on a fresh connection.
func (a *account) startAppending(ctx context.Context, l link) (*submission, error) {
	s := &session{link: l, news: make(chan struct{}, 1)}
	conn := &submission{link: l, server: a.server.String(), protocol: imapProtocol, lastUsed: time.Now(), appending: &appending{folder: a.server.folder}}
	var step string
	err := guard(ctx, l.bare, func() (err error) {
		if step, err = s.login(a); err == nil {
			step, err = "folder", conn.appending.open(s)
		}
		return err
	})
	if err == nil {
		return conn, nil
	}
	s.close()
	err = a.explain("email: imap "+step, err)
	if step == "login" && errors.Is(err, transport.ErrRefused) {
		err = loginRefused{err}
	}
	return nil, err
}

// open makes sure that the folder is there, with a session that is logged in.
func (c *appending) open(s *session) error {
	c.client = s.client
	options := &imap.StatusOptions{UIDNext: true}
	limit, _ := s.client.Caps().AppendLimit()
	options.AppendLimit = limit == nil // it is different for each folder (RFC 7889)
	data, err := s.client.Status(c.folder, options).Wait()
	reply, _ := errors.AsType[*imap.Error](err)
	switch {
	case reply != nil && reply.Type == imap.StatusResponseTypeNo && !lacksFolder(reply.Code):
		return nil // one may be allowed to append and not to look (RFC 4314 section 4)
	case err != nil:
		return c.explain(err)
	case limit == nil:
		limit = data.AppendLimit
	}
	if limit != nil && *limit != ^uint32(0) {
		c.limit = int64(*limit)
	}
	return nil
}

// append hands a mail over. taken says that the server may have taken it.
func (c *submission) append(ctx context.Context, raw []byte) (taken bool, err error) {
	a := c.appending
	if a.limit > 0 && int64(len(raw)) > a.limit {
		return false, fmt.Errorf("%w: the mail has %d bytes, the server's limit is %d", transport.ErrTooLarge, len(raw), a.limit)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The time is for the server's next answer: that the mail may come, and that it has been taken. Sending it takes as long as it takes.
	silence := time.AfterFunc(submissionTimeout, func() { cancel(noAnswer(submissionTimeout)) })
	defer silence.Stop()
	err = guard(ctx, c.bare, func() error {
		command := a.client.Append(a.folder, int64(len(raw)), nil)
		var err error
		for rest := raw; len(rest) > 0 && err == nil; silence.Reset(submissionTimeout) {
			step := rest[:min(len(rest), writeStep)]
			_, err = command.Write(step)
			rest = rest[len(step):]
		}
		if closeErr := command.Close(); err == nil {
			err = closeErr
		}
		complete := err == nil
		if reply, _ := errors.AsType[*imap.Error](err); reply == nil && !complete {
			c.bare.Close() // or a part of the mail would be waited for
		}
		_, waitErr := command.Wait()
		if waitErr != nil {
			err = waitErr // it says why the rest could not be written
		}
		reply, _ := errors.AsType[*imap.Error](err)
		lost := err != nil && (reply == nil || reply.Type == imap.StatusResponseTypeBye)
		taken, c.broken = err == nil || lost && complete, lost
		return a.explain(err)
	})
	c.broken = c.broken || ctx.Err() != nil // which has closed it
	return taken, err
}

// explain says what an error of the server is about and which of transport's conditions it means.
// What it does not say for certain is temporary: a full mailbox, trouble of the server.
func (c *appending) explain(err error) error {
	reply, _ := errors.AsType[*imap.Error](err)
	if reply == nil || reply.Type == imap.StatusResponseTypeBye {
		return err
	}
	meaning := error(nil)
	switch {
	case reply.Type == imap.StatusResponseTypeBad, reply.Code == imap.ResponseCodeCannot, reply.Code == imap.ResponseCodeNoPerm,
		reply.Code == imap.ResponseCodeAuthorizationFailed, reply.Code == imap.ResponseCodeContactAdmin:
		meaning = transport.ErrRefused
	case lacksFolder(reply.Code):
		return fmt.Errorf("there is no folder %q: create it, or correct email.user.url-smtp: %w: %w", c.folder, transport.ErrUndeliverable, err)
	case reply.Code == imap.ResponseCodeTooBig, reply.Code == imap.ResponseCodeLimit:
		meaning = transport.ErrTooLarge
	default:
		return fmt.Errorf("append to %q: %w", c.folder, err)
	}
	return fmt.Errorf("append to %q: %w: %w", c.folder, meaning, err)
}

// lacksFolder reports whether the code of a NO says that there is no such folder.
func lacksFolder(code imap.ResponseCode) bool {
	return code == imap.ResponseCodeTryCreate || code == imap.ResponseCodeNonExistent
}

// usable reports whether the connection is there, as far as is known without asking the server.
func (c *appending) usable() bool { return c.client.State() != imap.ConnStateLogout }
