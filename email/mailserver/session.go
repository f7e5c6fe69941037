package mailserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
)

// session is one IMAP connection. imapserver calls it for one command at a
// time; only Idle runs beside the goroutine that reads the connection.
type session struct {
	server  *Server
	stopped context.Context // done when the service stops
	conn    *imapserver.Conn
	log     *slog.Logger

	account *account // nil before login

	// view is the selected mailbox, nil if none is. mu guards the pointer only
	// against Idle, which may still run when the connection has broken.
	mu     sync.Mutex
	view   *view
	ended  bool // also guarded by mu
	idling sync.WaitGroup
	saved  imap.UIDSet // the result of SEARCH RETURN (SAVE)
}

var (
	_ imapserver.SessionIMAP4rev2   = (*session)(nil)
	_ imapserver.SessionAppendLimit = (*session)(nil)
)

// imapCaps are the capabilities besides those that imapserver adds itself.
// LITERAL+ is left out: imapserver reads a literal that it refuses for its size
// as if it were commands.
func imapCaps() imap.CapSet {
	return imap.CapSet{
		imap.CapIMAP4rev1:    {},
		imap.CapIMAP4rev2:    {},
		imap.CapNamespace:    {},
		imap.CapUIDPlus:      {},
		imap.CapESearch:      {},
		imap.CapSearchRes:    {},
		imap.CapListExtended: {},
		imap.CapListStatus:   {},
		imap.CapMove:         {},
		imap.CapStatusSize:   {},
		imap.CapBinary:       {},
		imap.CapChildren:     {},
	}
}

// Close implements imapserver.Session. It returns when Idle has.
func (s *session) Close() error {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.setView(nil)
	s.idling.Wait()
	return nil
}

// Login implements imapserver.Session.
func (s *session) Login(username, password string) error {
	account := s.server.login(username, password)
	if account == nil {
		s.log.Info("login refused", "user", username)
		return imapserver.ErrAuthFailed
	}
	s.server.stats.imapLogins.Add(1)
	s.server.stats.imapCommands.Add(1)
	s.account = account
	s.log = s.log.With("user", account.address)
	s.log.Debug("login")
	return nil
}

// Select implements imapserver.Session.
func (s *session) Select(name string, options *imap.SelectOptions) (*imap.SelectData, error) {
	s.server.stats.imapCommands.Add(1)
	s.account.mu.Lock()
	box, ok := s.account.mailboxes[name]
	if !ok {
		s.account.mu.Unlock()
		return nil, refusal(imap.ResponseCodeNonExistent, "No such mailbox")
	}
	v := newView(s.account, box, options.ReadOnly)
	data := &imap.SelectData{
		Flags:       slices.Clone(s.account.flags),
		NumMessages: uint32(len(box.msgs)),
		UIDNext:     box.uidNext,
		UIDValidity: box.uidValidity,
	}
	s.account.mu.Unlock()

	if !options.ReadOnly {
		data.PermanentFlags = append(slices.Clone(data.Flags), imap.FlagWildcard)
	}
	unseen := slices.IndexFunc(v.msgs, func(m *message) bool { return m.flagSet()&flagSeen == 0 })
	data.FirstUnseenSeqNum = uint32(unseen + 1)
	if s.conn.EnabledCaps().Has(imap.CapIMAP4rev2) {
		data.List = &imap.ListData{Mailbox: name, Delim: delimiter} // RFC 9051 section 6.3.2
	}
	s.setView(v)
	return data, nil
}

// Unselect implements imapserver.Session.
func (s *session) Unselect() error {
	s.setView(nil)
	return nil
}

func (s *session) setView(v *view) {
	s.mu.Lock()
	old := s.view
	s.view = v
	s.mu.Unlock()
	s.saved = nil
	if old != nil {
		old.close()
	}
}

// AppendLimit implements imapserver.SessionAppendLimit. Literals of up to 4096
// bytes may come without being asked for (RFC 7888 section 5), so smaller
// limits are left to Append, which can read them to their end.
func (s *session) AppendLimit() uint32 {
	return uint32(min(max(s.server.cfg.MaxMessageBytes, 4096), 1<<32-1))
}

// Append implements imapserver.Session.
func (s *session) Append(name string, r imap.LiteralReader, options *imap.AppendOptions) (*imap.AppendData, error) {
	if r.Size() > s.server.cfg.MaxMessageBytes {
		return nil, refusal(imap.ResponseCodeTooBig, "The message is too large")
	}
	body, err := readAll(r, r.Size(), 0)
	if err != nil {
		return nil, err
	}
	date := options.Time
	if date.IsZero() {
		date = time.Now()
	}

	a := s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	box, ok := a.mailboxes[name]
	if !ok {
		return nil, refusal(imap.ResponseCodeTryCreate, "No such mailbox")
	}
	if err := a.room(1, int64(len(body))); err != nil {
		return nil, quotaError(err)
	}
	flags, err := a.flags.set(options.Flags)
	if err != nil {
		return nil, err
	}
	m := a.add(box, nil, body, date, flags)
	s.server.stats.stored.Add(1)
	return &imap.AppendData{UIDValidity: box.uidValidity, UID: m.uid}, nil
}

// readAll reads r to its end. hint is the expected size and is trusted only so
// far; reserve is how much more room the result gets.
func readAll(r io.Reader, hint int64, reserve int) ([]byte, error) {
	const trusted = 1 << 20
	var buf bytes.Buffer
	buf.Grow(int(min(max(hint, 0), trusted)) + bytes.MinRead + reserve)
	if _, err := buf.ReadFrom(r); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Poll implements imapserver.Session: it is called at the end of a command.
func (s *session) Poll(w *imapserver.UpdateWriter, allowExpunge bool) error {
	s.server.stats.imapCommands.Add(1)
	s.mu.Lock()
	v := s.view
	s.mu.Unlock()
	if v == nil {
		return nil
	}
	return v.update(w, allowExpunge, true)
}

// catchUp announces what is new before a command with UIDs looks at the
// mailbox, so that the command works on all that is there: a client which
// polls with UID FETCH sees a mail with the first FETCH after it came, not with
// the second, and one that knows a UID from another connection can use it.
// Changes of flags wait for the end of the command: a client that expects
// bodies may take them for answers.
func (s *session) catchUp(set imap.NumSet) error {
	if _, ok := set.(imap.UIDSet); !ok || imap.IsSearchRes(set) {
		return nil // these mean what the client has been told
	}
	return s.view.update(untagged{s.conn.NetConn()}, true, false)
}

// untagged writes responses at the start of a command, when imapserver has no
// writer for them. It goes past imapserver's buffer, which is empty then: every
// response is flushed as it ends, and the updates of a view exclude each other.
type untagged struct{ conn net.Conn }

var _ updateWriter = untagged{}

// WriteExpunge implements updateWriter.
func (u untagged) WriteExpunge(seq uint32) error { return u.write("* %d EXPUNGE\r\n", seq) }

// WriteNumMessages implements updateWriter.
func (u untagged) WriteNumMessages(n uint32) error { return u.write("* %d EXISTS\r\n", n) }

// WriteMessageFlags implements updateWriter. It is not used: see catchUp.
func (u untagged) WriteMessageFlags(uint32, imap.UID, []imap.Flag) error { return nil }

func (u untagged) write(format string, n uint32) error {
	if err := u.conn.SetWriteDeadline(time.Now().Add(updateTimeout)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(u.conn, format, n)
	return err
}

// Idle implements imapserver.Session (RFC 2177). The view is compared with the
// mailbox first and after every wake-up, so it does not matter whether a mail
// came before IDLE, while "+ idling" was being written, or later.
func (s *session) Idle(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.idling.Add(1)
	v := s.view
	s.mu.Unlock()
	defer s.idling.Done()

	s.server.stats.idling.Add(1)
	defer s.server.stats.idling.Add(-1)
	if v == nil {
		<-stop
		return nil
	}
	for {
		if err := v.update(w, true, true); err != nil {
			return err
		}
		select {
		case <-v.wake:
		case <-stop:
			return nil
		}
	}
}

// Expunge implements imapserver.Session, for EXPUNGE, UID EXPUNGE (RFC 4315)
// and CLOSE. The client is told by Poll, or not at all with CLOSE.
func (s *session) Expunge(w *imapserver.ExpungeWriter, uids *imap.UIDSet) error {
	v := s.view
	if uids != nil {
		if err := s.catchUp(*uids); err != nil {
			return err
		}
	}
	if v.readOnly {
		if *w == (imapserver.ExpungeWriter{}) {
			return nil // CLOSE, which removes nothing from what was only examined
		}
		return errReadOnly
	}
	var set imap.UIDSet
	if uids != nil {
		set, _ = fixed(*uids, v.messages(), s.saved).(imap.UIDSet)
	}
	v.account.mu.Lock()
	defer v.account.mu.Unlock()
	v.account.remove(v.box, func(m *message) bool {
		return m.flagSet()&flagDeleted != 0 && (uids == nil || set.Contains(m.uid))
	})
	return nil
}

var errReadOnly = &imap.Error{Type: imap.StatusResponseTypeNo, Text: "The mailbox is open read-only"}

// logger passes on what imapserver and go-smtp have to say. Broken connections
// are part of a test server's life; panics are not.
type logger struct{ *slog.Logger }

func (l logger) Printf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if strings.HasPrefix(format, "panic") {
		l.Error(msg)
		return
	}
	l.Debug(msg)
}

func (l logger) Println(args ...any) { l.Debug(fmt.Sprint(args...)) }
