package email

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// script is an IMAP server that does what a test tells it to, over net.Pipe, so that
// it works in a synctest bubble. It has one inbox.
type script struct {
	t        testing.TB
	caps     string // capabilities; IMAP4rev1 and IDLE if empty
	validity int
	noNext   bool        // does not tell UIDNEXT
	silent   atomic.Bool // never announces new mail
	writable bool        // the inbox is opened to be changed
	flags    string      // for PERMANENTFLAGS, if not empty

	// before is called with each command, and can answer it instead of the script:
	// then it returns true. It runs on the goroutine of the connection.
	before func(c *scriptConn, command string, args []string) bool

	mu       sync.Mutex
	mails    []scriptMail
	next     int
	conns    []*scriptConn
	commands []string // received, without tag and argument
	refuse   int      // number of connections to refuse
}

type scriptMail struct {
	uid     int
	raw     string
	arrived time.Time
}

// scriptConn is one connection to the script.
type scriptConn struct {
	net.Conn
	script *script
	number int // from 1
	tag    string
	seen   int        // mails announced
	mu     sync.Mutex // of writes
	idling bool       // script.mu
	dates  bool       // the last FETCH has asked when mails arrived
}

func newScript(t testing.TB) *script { return &script{t: t, validity: 7, next: 1} }

// add puts a mail into the inbox, and announces it unless the script is silent.
func (s *script) add(raw string) {
	s.mu.Lock()
	s.mails = append(s.mails, scriptMail{s.next, raw, time.Now()})
	s.next++
	var idling []*scriptConn
	for _, c := range s.conns {
		if c.idling && !s.silent.Load() {
			idling = append(idling, c)
		}
	}
	s.mu.Unlock()
	for _, c := range idling {
		c.announce()
	}
}

// addMessages puts messages numbered from first to last into the inbox.
func (s *script) addMessages(first, last int) {
	for n := first; n <= last; n++ {
		s.add(messageMail(s.t, n, ""))
	}
}

// messageMail is message number n on topic /t as mail.
func messageMail(t testing.TB, n int, body string) string {
	m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte(body)}
	m.Info.PublisherGID = transport.GID{1}
	m.Info.Sequence = uint64(n)
	m.Info.SourceTime = time.Unix(1, 0)
	m.ID = transport.NewID(m.Info.PublisherGID, m.Info.Sequence, "test")
	raw, err := wire.Encode(m, wire.Envelope{From: "a@test", To: []string{"b@test"}})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// count returns how many commands of a kind, or all if it is "", have been received.
func (s *script) count(command string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.commands {
		if c == command || command == "" {
			n++
		}
	}
	return n
}

// dial is a receiver's way to connect to the script.
func (s *script) dial(ctx context.Context) (*session, error) {
	s.mu.Lock()
	if s.refuse > 0 {
		s.refuse--
		s.mu.Unlock()
		return nil, io.ErrClosedPipe
	}
	client, server := net.Pipe()
	c := &scriptConn{Conn: server, script: s, number: len(s.conns) + 1}
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	go c.serve()
	a := account{server: server0, username: "b@test", password: "secret", writable: s.writable}
	return a.startSession(ctx, link{client, client}, a.selectInbox)
}

var server0 = server{scheme: imapSchemes[2], host: "test", port: "143", folder: inbox}

func (c *scriptConn) send(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c, format+"\r\n", args...) // the test may have ended the connection
}

func (c *scriptConn) ok() { c.send("%s OK done", c.tag) }

func (c *scriptConn) announce() {
	c.script.mu.Lock()
	n := len(c.script.mails)
	changed := n != c.seen
	c.seen = n
	c.script.mu.Unlock()
	if changed {
		c.send("* %d EXISTS", n)
	}
}

func (c *scriptConn) serve() {
	defer c.Close()
	caps := c.script.caps
	if caps == "" {
		caps = "IMAP4rev1 IDLE"
	}
	c.send("* OK [CAPABILITY %s] ready", caps)
	for lines := bufio.NewReader(c); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		if words[0] == "DONE" {
			words = append([]string{c.tag}, words...)
		}
		command, args := strings.ToUpper(words[1]), words[2:]
		if command == "UID" {
			command, args = "UID "+args[0], args[1:]
		}
		c.tag = words[0]
		c.script.mu.Lock()
		c.script.commands = append(c.script.commands, command)
		c.script.mu.Unlock()
		if c.script.before == nil || !c.script.before(c, command, args) {
			c.answer(command, args, caps)
		}
	}
}

func (c *scriptConn) answer(command string, args []string, caps string) {
	switch command {
	case "LOGIN":
		c.send("%s OK [CAPABILITY %s] welcome", c.tag, caps)
	case "EXAMINE", "SELECT":
		if (command == "SELECT") != c.script.writable {
			c.script.t.Errorf("%s of the inbox", command)
		}
		c.script.mu.Lock()
		n, next := len(c.script.mails), c.script.next
		c.seen = n
		c.script.mu.Unlock()
		c.send("* %d EXISTS", n)
		c.send("* OK [UIDVALIDITY %d] valid", c.script.validity)
		if c.script.flags != "" {
			c.send("* OK [PERMANENTFLAGS (%s)] limited", c.script.flags)
		}
		if !c.script.noNext {
			c.send("* OK [UIDNEXT %d] next", next)
		}
		c.ok()
	case "IDLE":
		c.send("+ idling")
		c.setIdle(true)
		if !c.script.silent.Load() {
			c.announce()
		}
	case "DONE":
		c.setIdle(false)
		c.ok()
	case "UID FETCH":
		in, partial := c.parseSet(args)
		for i, m := range c.script.inbox() {
			if in(m.uid) {
				c.sendMail(i+1, m, partial)
			}
		}
		c.ok()
	case "UID SEARCH": // only for all since a day
		since, err := time.Parse("2-Jan-2006", strings.Trim(args[len(args)-1], "()\""))
		if err != nil {
			c.script.t.Errorf("unexpected arguments of UID SEARCH: %q", args)
		}
		found := "* SEARCH"
		for _, m := range c.script.inbox() {
			if !m.arrived.Before(since) {
				found += fmt.Sprint(" ", m.uid)
			}
		}
		c.send("%s", found)
		c.ok()
	case "FETCH":
		n, _ := strconv.Atoi(args[0])
		c.send("* %d FETCH (UID %d)", n, c.script.inbox()[n-1].uid)
		c.ok()
	default:
		c.ok()
	}
}

func (c *scriptConn) setIdle(on bool) {
	c.script.mu.Lock()
	defer c.script.mu.Unlock()
	c.idling = on
}

func (s *script) inbox() []scriptMail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// parseFetch reads the arguments of a UID FETCH of one range.
func (c *scriptConn) parseFetch(args []string) (from, to, partial int) {
	from, to = c.parseRange(args[0])
	_, partial = c.parseSet(args)
	return from, to, partial
}

// parseSet reads the arguments of UID FETCH.
func (c *scriptConn) parseSet(args []string) (in func(uid int) bool, partial int) {
	c.dates = slices.ContainsFunc(args, func(s string) bool { return strings.Contains(s, "INTERNALDATE") })
	_, rest, body := strings.Cut(args[len(args)-1], "<0.")
	if body { // else partial is 0: only what there is, and how large
		var err error
		if partial, err = strconv.Atoi(strings.TrimRight(rest, ">)")); err != nil {
			c.script.t.Errorf("unexpected arguments of UID FETCH: %q", args)
		}
	}
	in = func(uid int) bool {
		for _, part := range strings.Split(args[0], ",") {
			if from, to := c.parseRange(part); uid >= from && uid <= to {
				return true
			}
		}
		return false
	}
	return in, partial
}

func (c *scriptConn) parseRange(s string) (from, to int) {
	first, last, ranged := strings.Cut(s, ":")
	from, _ = strconv.Atoi(first)
	if to = from; ranged {
		to, _ = strconv.Atoi(last)
	}
	if from == 0 || to == 0 {
		c.script.t.Errorf("unexpected UIDs in a UID FETCH: %q", s)
	}
	return from, to
}

func (c *scriptConn) sendMail(number int, m scriptMail, partial int) {
	if partial == 0 {
		c.send("* %d FETCH (UID %d RFC822.SIZE %d)", number, m.uid, len(m.raw))
		return
	}
	body := m.raw[:min(len(m.raw), partial)]
	date := ""
	if c.dates {
		date = m.arrived.Format(`INTERNALDATE "02-Jan-2006 15:04:05 -0700" `)
	}
	c.send("* %d FETCH (UID %d RFC822.SIZE %d %sBODY[]<0> {%d}\r\n%s)", number, m.uid, len(m.raw), date, len(body), body)
}

// scriptTest is a receiver at a script, in a synctest bubble.
type scriptTest struct {
	*testing.T
	script   *script
	receiver *receiver
	got      chan int // numbers of the messages delivered
	log      *strings.Builder
}

// withScript runs a test. prepare may be nil; it runs before the receiver connects.
func withScript(t *testing.T, prepare func(*script, *receiver), run func(*scriptTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		var log strings.Builder
		r := &receiver{address: "b@test", maxBody: 1 << 20, maxMail: 1 << 20, connect: s.dial,
			logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		if prepare != nil {
			prepare(s, r)
		}
		if err := r.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		test := &scriptTest{t, s, r, make(chan int, 10000), &log}
		var live []int
		stop := r.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", GapWait: -1}, func(d transport.Delivery) {
			live = append(live, int(d.Message.Info.Sequence))
			test.got <- int(d.Message.Info.Sequence)
		})
		remembered := test.remember()
		defer func() {
			synctest.Wait()
			stop()
			got := remembered()
			if slices.Sort(live); !slices.Equal(got, live) {
				t.Errorf("a durable interest got %v, a live one %v", got, live)
			}
			if err := r.close(context.Background()); err != nil {
				t.Error(err)
			}
			if len(test.got) > 0 {
				t.Errorf("%d more messages were delivered, the first is number %d", len(test.got), <-test.got)
			}
			if t.Failed() {
				t.Logf("commands: %q\nlog:\n%s", s.commands, log.String())
			}
		}()
		run(test)
	})
}

// remember states a durable interest in all messages, which is to get what everybody gets, whatever the
// script does. The function that it returns ends it, and returns the numbers of what it got, in
// order.
func (t *scriptTest) remember() (end func() []int) {
	j, err := openState(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	all := &durables{receiver: t.receiver, logger: quietLog, journal: j}
	stop, err := all.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", GapWait: -1, Durable: "script"}, func(d transport.Delivery) {
		got = append(got, int(d.Message.Info.Sequence))
		go func() {
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		}()
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() []int {
		synctest.Wait()
		stop()
		if err := all.close(); err != nil {
			t.Error(err)
		}
		slices.Sort(got)
		return got
	}
}

// want waits for messages first to last in order, and for the loop to come to rest.
func (t *scriptTest) want(first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		select {
		case got := <-t.got:
			if got != n {
				t.Fatalf("message %d came, want %d", got, n)
			}
		case <-time.After(10 * time.Minute): // of the bubble's time
			t.Fatalf("message %d did not come", n)
		}
	}
	synctest.Wait()
}
