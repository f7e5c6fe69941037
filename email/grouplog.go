package email

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/transport"
)

// logFolder is an IMAP session with the folder open that holds the log of a group. What
// is appended to it gets ascending UIDs, and appears in their order to everybody: of all that
// several clients can do to a folder at once this is what servers do keep (see the
// tests; of several that MOVE the same mail on Dovecot, all may get it).
type logFolder struct {
	*session
	name    string // on the server
	watched string // the folder with the messages of the group
}

// errReplaced says that the folder is another one than the one that is open.
var errReplaced = errors.New("the folder of the group has been deleted and created anew")

// openLog connects, logs in and opens a folder, which it creates if it is missing.
func (a *account) openLog(ctx context.Context, folder string) (*logFolder, error) {
	ctx, cancel := bounded(ctx, connectTimeout)
	defer cancel()
	link, err := a.dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = ended(ctx)
		}
		return nil, a.explain("email: imap connection", err)
	}
	l := &logFolder{name: folder, watched: a.server.folder}
	l.session, err = a.startSession(ctx, link, l.open)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// open opens the folder with a session that is logged in.
func (l *logFolder) open(s *session) (step string, err error) {
	if step, err = l.locate(s); err != nil {
		return step, err
	}
	step = "opening of the folder " + l.name
	data, err := s.client.Select(l.name, nil).Wait()
	if isNo(err) {
		created := s.client.Create(l.name, nil).Wait() // or another member has just done it
		if data, err = s.client.Select(l.name, nil).Wait(); err != nil && created != nil {
			return "creating of the folder " + l.name, fmt.Errorf("%w: the group needs it", created)
		}
	}
	if err != nil {
		return step, err
	}
	s.validity, s.next = data.UIDValidity, data.UIDNext
	return step, nil
}

// locate finds out what the folder is called on the server. It is below the one that is watched, so
// that all who watch that one, under whatever name they see it, have one log; for the inbox,
// below which not all servers have folders, it is where the account has its folders.
func (l *logFolder) locate(s *session) (step string, err error) {
	if l.watched != inbox {
		step = "listing of the folder " + l.watched
		found, err := s.client.List("", l.watched, nil).Collect()
		switch {
		case err != nil:
			return step, err
		case len(found) == 0 || found[0].Delim == 0:
			return step, fmt.Errorf("there can be no folder below it, which a group needs: %w", transport.ErrNotSupported)
		}
		l.name = l.watched + string(found[0].Delim) + l.name
		return step, nil
	}
	if s.client.Caps().Has(imap.CapNamespace) {
		// Some servers have folders of users only below their inbox.
		if space, err := s.client.Namespace().Wait(); err == nil && len(space.Personal) > 0 {
			l.name = space.Personal[0].Prefix + strings.TrimPrefix(l.name, space.Personal[0].Prefix)
		}
	}
	return "", nil
}

// append puts a mail into the folder. If IDLE is on it ends it, in the same round trip. An error other than
// a refusal leaves it unknown whether the mail is there.
func (l *logFolder) append(ctx context.Context, mail []byte) error {
	idling := l.idling
	l.idling = nil
	return l.command(ctx, func() error {
		if idling != nil {
			if err := idling.Close(); err != nil {
				return err
			}
		}
		command := l.client.Append(l.name, int64(len(mail)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagSeen}})
		_, err := command.Write(mail)
		if closeErr := command.Close(); err == nil {
			err = closeErr
		}
		data, waitErr := command.Wait() // says why it could not be written
		if waitErr != nil || err != nil {
			return errors.Join(waitErr, err)
		}
		if data.UIDValidity != 0 && data.UIDValidity != l.validity {
			return errReplaced
		}
		if idling != nil {
			return idling.Wait()
		}
		return nil
	})
}

// refresh makes the server tell what is new in the folder; some do not begin a FETCH with it.
func (l *logFolder) refresh(ctx context.Context) error {
	if l.idling != nil {
		return nil // its end does the same
	}
	return l.command(ctx, func() error { return l.client.Noop().Wait() })
}

// status returns the UIDVALIDITY and UIDNEXT of a folder.
func (l *logFolder) status(ctx context.Context, folder string) (validity uint32, next imap.UID, err error) {
	idling := l.idling
	l.idling = nil
	err = l.command(ctx, func() error {
		if idling != nil {
			if err := idling.Close(); err != nil {
				return err
			}
			if err := idling.Wait(); err != nil {
				return err
			}
		}
		data, err := l.client.Status(folder, &imap.StatusOptions{UIDValidity: true, UIDNext: true}).Wait()
		if err == nil {
			validity, next = data.UIDValidity, data.UIDNext
		}
		return err
	})
	return validity, next, err
}

// logMail is a mail of the folder.
type logMail struct {
	uid     imap.UID
	arrived time.Time
	text    []byte
}

// read returns the mails from a UID on. missing is the first of which the body did not come,
// or 0; mails behind it are left out.
func (l *logFolder) read(ctx context.Context, from imap.UID) (mails []logMail, missing imap.UID, err error) {
	select {
	case <-l.news:
	default:
	}
	without := make(map[imap.UID]bool) // a mail can be mentioned before it comes
	request := span(from, lastUID, claim.MaxCheckpoint+headBytes)
	request.dates = true
	err = l.fetch(ctx, request, func(f fetched) {
		switch {
		case f.uid < from:
		case f.hasBody && !f.arrived.IsZero():
			delete(without, f.uid)
			mails = append(mails, logMail{f.uid, f.arrived, bytes.Clone(f.body)})
		default:
			without[f.uid] = true
		}
	})
	for uid := range without {
		if missing == 0 || uid < missing {
			missing = uid
		}
	}
	return mails, missing, err
}

// prune deletes the mails up to a UID.
func (l *logFolder) prune(ctx context.Context, last imap.UID) error {
	if err := l.refresh(ctx); err != nil {
		return err
	}
	return l.command(ctx, func() error {
		uids := imap.UIDSet{{Start: 1, Stop: last}}
		if err := l.store(uids, imap.FlagDeleted); err != nil {
			return err
		}
		if l.client.Caps().Has(imap.CapUIDPlus) {
			return l.client.UIDExpunge(uids).Close()
		}
		return l.client.Expunge().Close()
	})
}

// recordMail writes a record as mail.
func recordMail(r *claim.Record, group, from string, now time.Time) ([]byte, error) {
	body, err := r.Encode()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: %s\r\nDate: %s\r\nSubject: %s\r\n", from, now.Format(time.RFC1123Z), r.Subject(group))
	fmt.Fprintf(&b, "Message-ID: <%d.%s@group.postbus>\r\n", r.Number, r.Member)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: application/json\r\nContent-Transfer-Encoding: 8bit\r\nAuto-Submitted: auto-generated\r\n\r\n")
	b.Write(body)
	return b.Bytes(), nil
}
