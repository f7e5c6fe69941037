package email_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email/mailserver"
)

// What groups rest on: the UIDs of a folder to which many append are in the order in
// which everybody sees the mails appear. The other races are those that an earlier design
// would have used; they show why the log was chosen.

// mailbox is somebody's way to an account of a server under test.
type mailbox struct {
	testing.TB
	dial               func() (net.Conn, error)
	username, password string
}

func embeddedMailbox(t testing.TB) mailbox {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return dialMailbox(t, server)
}

func dialMailbox(t testing.TB, server *mailserver.Server) mailbox {
	account := server.Accounts()[0]
	return mailbox{t, func() (net.Conn, error) { return net.Dial("tcp", server.IMAPAddr()) }, account.Address, account.Password}
}

// client logs in, and selects a folder if it is not "".
func (m mailbox) client(folder string) *imapclient.Client {
	m.Helper()
	conn, err := m.dial()
	if err != nil {
		m.Fatal(err)
	}
	c := imapclient.New(conn, nil)
	m.Cleanup(func() { c.Close() })
	if err := c.Login(m.username, m.password).Wait(); err != nil {
		m.Fatal(err)
	}
	if folder != "" {
		if _, err := c.Select(folder, nil).Wait(); err != nil {
			m.Fatal(err)
		}
	}
	return c
}

// folder creates a folder for the test and removes it afterwards.
func (m mailbox) folder(name string) string {
	m.Helper()
	c := m.client("")
	_ = c.Delete(name).Wait() // of a test that was broken off
	if err := c.Create(name, nil).Wait(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { _ = m.client("").Delete(name).Wait() })
	return name
}

// put appends a mail and returns its UID.
func (m mailbox) put(c *imapclient.Client, folder, text string) imap.UID {
	mail := "Subject: " + text + "\r\n\r\n" + text + "\r\n"
	command := c.Append(folder, int64(len(mail)), nil)
	if _, err := io.WriteString(command, mail); err != nil {
		m.Error(err)
	}
	if err := command.Close(); err != nil {
		m.Error(err)
	}
	data, err := command.Wait()
	if err != nil {
		m.Error(err)
		return 0
	}
	return data.UID
}

// testAppendOrder: several append at once, and several watch. Nobody ever sees a UID appear
// below one that he has seen, a writer sees his own mail at once, under the UID that he has been
// told, and everybody sees the same.
func testAppendOrder(m mailbox) {
	const writers, each, readers = 4, 100, 3
	folder := m.folder("postbus-test-order")
	var told sync.Map // text by UID
	var left atomic.Int32
	left.Store(writers)
	var all sync.WaitGroup
	for w := range writers {
		c := m.client(folder)
		all.Go(func() {
			defer left.Add(-1)
			next := imap.UID(1)
			for n := range each {
				text := fmt.Sprintf("%d-%d", w, n)
				uid := m.put(c, folder, text)
				if _, twice := told.LoadOrStore(uid, text); uid < next || twice {
					m.Errorf("the server says that %s got the UID %d after %d; twice: %v", text, uid, next-1, twice)
				}
				seen := m.watch(c, &next)
				if seen[uid] != text {
					m.Errorf("%s can't be seen under its UID %d", text, uid)
				}
			}
		})
	}
	views := make([]map[imap.UID]string, readers)
	for r := range readers {
		c := m.client(folder)
		views[r] = make(map[imap.UID]string)
		all.Go(func() {
			next := imap.UID(1)
			for last := false; ; {
				if r > 0 { // else it takes what a FETCH alone shows
					if err := c.Noop().Wait(); err != nil {
						m.Error(err)
					}
				}
				for uid, text := range m.watch(c, &next) {
					views[r][uid] = text
				}
				if last {
					return
				}
				if last = left.Load() == 0; last {
					_ = c.Noop().Wait()
				}
			}
		})
	}
	all.Wait()
	for r, view := range views {
		if len(view) != writers*each {
			m.Errorf("reader %d has seen %d of %d mails: a UID appeared below one that it had seen", r, len(view), writers*each)
		}
		for uid, text := range view {
			if was, _ := told.Load(uid); was != text {
				m.Errorf("UID %d is %s, and the writer of %v was told that it is his", uid, text, was)
			}
		}
	}
}

// watch returns the mails from a UID on, and moves it behind them.
func (m mailbox) watch(c *imapclient.Client, next *imap.UID) map[imap.UID]string {
	section := &imap.FetchItemBodySection{Specifier: imap.PartSpecifierText, Peek: true}
	found, err := c.Fetch(imap.UIDSet{{Start: *next, Stop: 1<<32 - 1}}, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		m.Error(err)
	}
	seen := make(map[imap.UID]string)
	from := *next
	for _, f := range found {
		body := f.FindBodySection(section)
		if f.UID < from || len(body) < 2 {
			continue // an announcement
		}
		seen[f.UID] = string(body[:len(body)-2])
		*next = max(*next, f.UID+1)
	}
	return seen
}

// testMoveRace returns how many of several clients that move the same mail at once believe
// that they have done it, and how many copies there are afterwards, as the worst of several rounds.
func testMoveRace(m mailbox) (winners, copies int) {
	const clients, rounds = 4, 40
	from, to := m.folder("postbus-test-from"), m.folder("postbus-test-to")
	writer := m.client(to)
	for range rounds {
		uid := m.put(writer, from, "x")
		before := m.count(writer)
		var won atomic.Int32
		m.race(clients, func() func() {
			c := m.client(from)
			return func() {
				data, err := c.Move(imap.UIDSetNum(uid), to).Wait()
				if err == nil && data.DestUIDs != nil {
					won.Add(1)
				}
				_ = c.Logout().Wait()
			}
		})
		winners, copies = max(winners, int(won.Load())), max(copies, m.count(writer)-before)
	}
	return winners, copies
}

// count returns how many mails there are in the selected folder.
func (m mailbox) count(c *imapclient.Client) int {
	m.Helper()
	if err := c.Noop().Wait(); err != nil {
		m.Fatal(err)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	if err != nil {
		m.Fatal(err)
	}
	return len(found.AllUIDs())
}

// race prepares several and lets them run at once.
func (m mailbox) race(clients int, prepare func() func()) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for range clients {
		run := prepare()
		all.Go(func() { <-start; run() })
	}
	close(start)
	all.Wait()
}

func TestAppendOrder(t *testing.T) { testAppendOrder(embeddedMailbox(t)) }

func TestMoveRace(t *testing.T) {
	winners, copies := testMoveRace(embeddedMailbox(t))
	t.Logf("the embedded server: at most %d winners of a MOVE and %d copies", winners, copies)
	if copies != 1 {
		t.Errorf("a mail that was moved by several is there %d times", copies)
	}
}
