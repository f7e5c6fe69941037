package email

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email/wire"
)

const (
	// doneTimeout is for the answer to DONE. A dead connection shows here, so it is
	// shorter than that for other commands.
	doneTimeout = 15 * time.Second
	// headBytes is how much of each mail is fetched at first. It holds nearly all
	// messages entirely, and the header of all others.
	headBytes = wire.MaxHeaderBytes
)

// session is a connection to the mail server with a folder open.
//
// go-imap's ways that it deals with: no command ever times out (see guard); a command
// sent during IDLE blocks; the data of a FETCH must be read to the end or nothing else
// is; a literal that a lost connection cuts short reads as complete; and an unsolicited
// FETCH response passes for an answer, without the body that was asked for.
type session struct {
	link
	wire    *cork // the link as the client library speaks on it
	client  *imapclient.Client
	canIdle bool
	idling  *imapclient.IdleCommand // IDLE is on
	// news has an element when the server has announced a new mail.
	news chan struct{}
	// announced is how many mails the server has said that there are, and seen the number of the last one of
	// them that the last fetch has found. expunged says that numbers have changed since behind was last called.
	announced atomic.Uint32
	seen      uint32
	expunged  atomic.Bool
	// validity and next are the inbox's UIDVALIDITY and UIDNEXT when it was opened.
	validity uint32
	next     imap.UID
	opened   time.Time
	checked  bool // the inbox is known to be the same as before
	buffer   []byte
	watchdog *time.Timer // closes the connection when the server is silent for too long
	silent   atomic.Bool // and that it has done so
	// permanent are the flags that can be given to mails, or nil if the server does not tell.
	permanent []imap.Flag
}

// openInbox connects, logs in and opens the inbox.
func (a *account) openInbox(ctx context.Context) (*session, error) {
	ctx, cancel := bounded(ctx, connectTimeout)
	defer cancel()
	link, err := a.dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = ended(ctx)
		}
		return nil, a.explain("email: imap connection", err)
	}
	return a.startSession(ctx, link, a.selectInbox)
}

// startSession logs in on a fresh connection and opens a folder. open returns the last step
// that it has tried.
func (a *account) startSession(ctx context.Context, link link, open func(*session) (step string, err error)) (*session, error) {
	s := &session{link: link, news: make(chan struct{}, 1), opened: time.Now(), buffer: make([]byte, headBytes)}
	var step string
	err := guard(ctx, link.bare, func() (err error) {
		if step, err = s.login(a); err == nil {
			step, err = open(s)
		}
		return err
	})
	if err != nil {
		s.close()
		return nil, a.explain("email: imap "+step, err)
	}
	return s, nil
}

// login brings a fresh connection up to the login. It returns the last step that
// it has tried.
func (s *session) login(a *account) (step string, err error) {
	options := &imapclient.Options{
		TLSConfig: a.tls,
		UnilateralDataHandler: &imapclient.UnilateralDataHandler{
			Mailbox: func(data *imapclient.UnilateralDataMailbox) {
				if data.NumMessages != nil {
					s.announced.Store(*data.NumMessages)
					signal(s.news)
				}
			},
			Expunge: func(uint32) {
				s.announced.Add(^uint32(0))
				s.expunged.Store(true)
			},
		},
	}
	s.wire = &cork{Conn: s.link}
	if a.server.scheme.security == startTLS {
		if s.client, err = imapclient.NewStartTLS(s.wire, options); err != nil {
			return "STARTTLS", err
		}
	} else {
		s.client = imapclient.New(s.wire, options)
	}
	if err := s.client.WaitGreeting(); err != nil {
		return "greeting", err
	}
	if err := s.client.Login(a.username, a.password).Wait(); err != nil {
		return "login", err
	}
	// go-imap may be about to ask for the capabilities by itself. In IDLE that would
	// get stuck, so wait for them here.
	s.canIdle = s.client.Caps().Has(imap.CapIdle)
	return "login", nil
}

// selectInbox opens the folder that is watched, which is called the inbox everywhere, with a session that is logged in.
func (a *account) selectInbox(s *session) (step string, err error) {
	step = "opening of the folder " + a.server.folder
	data, err := s.client.Select(a.server.folder, &imap.SelectOptions{ReadOnly: !a.writable}).Wait()
	if err != nil {
		return step, err
	}
	s.validity, s.next, s.permanent = data.UIDValidity, data.UIDNext, data.PermanentFlags
	s.announced.Store(data.NumMessages)
	if s.next == 0 {
		s.next, err = s.afterLast(data.NumMessages)
	}
	return step, err
}

// afterLast finds the UID after the last one in use, for servers that do not tell.
func (s *session) afterLast(messages uint32) (imap.UID, error) {
	if messages == 0 {
		return 1, nil
	}
	found, err := s.client.Fetch(imap.SeqSetNum(messages), &imap.FetchOptions{UID: true}).Collect()
	if err != nil {
		return 0, err
	}
	if len(found) == 0 || found[0].UID == 0 {
		return 0, fmt.Errorf("the server tells neither UIDNEXT nor the UID of the last message")
	}
	return after(found[0].UID), nil
}

// command runs what needs an answer soon.
func (s *session) command(ctx context.Context, f func() error) error {
	return s.watched(ctx, commandTimeout, func(func()) error { return f() })
}

// watched runs f, which may go on for as long as it makes progress at least once in patience. Else, or
// if ctx ends, it closes the connection, so that f returns.
func (s *session) watched(ctx context.Context, patience time.Duration, f func(progress func()) error) error {
	if s.watchdog == nil {
		s.watchdog = time.AfterFunc(patience, func() {
			s.silent.Store(true)
			s.bare.Close()
		})
	} else {
		s.watchdog.Reset(patience)
	}
	err := guard(ctx, s.bare, func() error { return f(func() { s.watchdog.Reset(patience) }) })
	s.watchdog.Stop()
	if err != nil && s.silent.Load() && ctx.Err() == nil {
		return noAnswer(patience)
	}
	return err
}

// behind reports whether the server has announced mails after those that the last fetch has found. What it
// has announced during the fetch it may have sent as well; that is no news then. When mails have been deleted their
// numbers do not tell.
func (s *session) behind() bool {
	select {
	case <-s.news:
	default:
	}
	return s.expunged.Swap(false) || s.announced.Load() > s.seen
}

// idle makes the server announce new mail. It ends with the next fetch.
func (s *session) idle(ctx context.Context) error {
	return s.command(ctx, func() (err error) {
		s.idling, err = s.client.Idle()
		return err
	})
}

// fetched is what a FETCH response says of a mail. The body is valid until the next.
type fetched struct {
	uid     imap.UID
	size    int64 // of the whole mail, or 0 if the server did not say
	body    []byte
	hasBody bool
	arrived time.Time // in the inbox, by the server's clock, if it was asked for
	flags   []imap.Flag
	// part is the number of the message that is being delivered, if the mail is a batch, and
	// received when that began.
	part     int
	received time.Time
}

// wanted is what a FETCH asks for.
type wanted struct {
	uids  imap.UIDSet
	limit int64 // of the bytes of each body, or 0 for no body
	// header asks for no more than the header section of each mail, dates for when they arrived,
	// flags for their flags.
	header, dates, flags bool
}

// span asks for a range of UIDs. It is not "from:*", which would always mean the last mail too.
func span(from, to imap.UID, limit int64) wanted {
	return wanted{uids: imap.UIDSet{{Start: from, Stop: to}}, limit: limit}
}

// oversized is the error of a server that sends more than it was asked for.
type oversized struct {
	uid         imap.UID
	size, limit int64
}

func (e oversized) Error() string {
	return fmt.Sprintf("the server sends %d bytes of message %d when asked for %d", e.size, e.uid, e.limit)
}

// fetch calls visit with each mail that is asked for. If IDLE is on it ends it, in the same
// round trip. A nil error means that the server has told everything.
func (s *session) fetch(ctx context.Context, w wanted, visit func(fetched)) error {
	idling, patience := s.idling, commandTimeout
	s.idling = nil
	if idling != nil {
		patience = doneTimeout
	}
	return s.watched(ctx, patience, func(progress func()) error {
		s.wire.hold()
		if idling != nil {
			if err := idling.Close(); err != nil {
				return err
			}
		}
		options := &imap.FetchOptions{UID: true, RFC822Size: true, InternalDate: w.dates, Flags: w.flags}
		if w.limit > 0 {
			section := &imap.FetchItemBodySection{Peek: true, Partial: &imap.SectionPartial{Size: w.limit}}
			if w.header {
				section.Specifier = imap.PartSpecifierHeader
			}
			options.BodySection = []*imap.FetchItemBodySection{section}
		}
		command := s.client.Fetch(w.uids, options)
		if err := s.wire.release(); err != nil {
			return err // go-imap does not know that it has lost the connection, so command never ends
		}
		err := s.readAll(command, w.limit, progress, visit)
		if err != nil {
			s.bare.Close() // instead of reading what was not asked for
		}
		if err == io.ErrUnexpectedEOF {
			// go-imap's reader goes on when a literal breaks off, and Close would
			// read from the same buffer at the same time.
			<-s.client.Closed()
		}
		if closeErr := command.Close(); err == nil {
			err = closeErr
		}
		if idling != nil && err == nil {
			err = idling.Wait()
		}
		return err
	})
}

// firstSince returns the lowest UID of a mail that arrived on the day of t or later, or 0 if there is
// none. Days are those of the server.
func (s *session) firstSince(ctx context.Context, t time.Time) (first imap.UID, err error) {
	if s.idling != nil {
		// Only a fetch ends IDLE.
		if err := s.fetch(ctx, span(lastUID, lastUID, 0), func(fetched) {}); err != nil {
			return 0, err
		}
	}
	err = s.command(ctx, func() error {
		data, err := s.client.UIDSearch(&imap.SearchCriteria{Since: t}, nil).Wait()
		if err != nil {
			return err
		}
		for _, uid := range data.AllUIDs() {
			if first == 0 || uid < first {
				first = uid
			}
		}
		return nil
	})
	return first, err
}

// readAll calls visit with each response to a FETCH.
func (s *session) readAll(command *imapclient.FetchCommand, limit int64, progress func(), visit func(fetched)) error {
	s.seen = 0
	for message := command.Next(); message != nil; message = command.Next() {
		progress()
		var f fetched
		for item := message.Next(); item != nil; item = message.Next() {
			switch item := item.(type) {
			case imapclient.FetchItemDataUID:
				f.uid = item.UID
			case imapclient.FetchItemDataRFC822Size:
				f.size = item.Size
			case imapclient.FetchItemDataFlags:
				f.flags = item.Flags
			case imapclient.FetchItemDataInternalDate:
				f.arrived = item.Time
			case imapclient.FetchItemDataBodySection:
				f.hasBody = true
				if item.Literal == nil {
					continue // NIL: there is nothing, and never will be
				}
				size := item.Literal.Size()
				if size > limit {
					return oversized{f.uid, size, limit}
				}
				if f.body = s.buffer; size > int64(len(f.body)) {
					f.body = make([]byte, size)
				}
				f.body = f.body[:size]
				if err := readFull(item.Literal, f.body, progress); err != nil {
					return err
				}
			}
		}
		if f.hasBody {
			s.seen = max(s.seen, message.SeqNum)
		}
		visit(f)
	}
	return nil
}

// readFull fills b, and reports progress as it goes.
func readFull(r io.Reader, b []byte, progress func()) error {
	for len(b) > 0 {
		n, err := r.Read(b)
		b = b[n:]
		if len(b) > 0 && err != nil {
			return io.ErrUnexpectedEOF
		}
		progress()
	}
	return nil
}

// close ends the session and waits for its goroutines.
func (s *session) close() {
	s.bare.Close()
	if s.watchdog != nil {
		s.watchdog.Stop()
	}
	if s.client != nil {
		<-s.client.Closed()
	}
	if s.idling != nil {
		_ = s.idling.Close() // the connection is closed already
		s.idling = nil
	}
}

// signal puts an element into a channel of capacity one, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
