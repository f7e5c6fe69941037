package email

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// smtpScript is an SMTP server that does what a test tells it to.
type smtpScript struct {
	net.Listener
	// reply returns what to say to a command on a connection, counted from 1, or ""
	// for the usual; "close" closes the connection, "silence" says nothing. The end
	// of a mail is the command ".", by DATA and by BDAT.
	reply  func(conn int, command string) string
	offers string // extensions, blank-separated
	lmtp   bool
	// gullible is a server that takes everything after what it has refused.
	gullible bool
	// deaf is a server that forgets what has come with the command that it answers.
	deaf bool
	// write, if set, is how a reply is written.
	write func(net.Conn, string) error

	mu       sync.Mutex
	commands []string // with the number of the connection
	mails    []string
	// judge, if set, returns what to say to a mail, or "".
	judge   func(mail string) string
	conns   []net.Conn
	serving sync.WaitGroup
}

// usualReplies are those other than 250.
var usualReplies = map[string]string{"GREETING": "220 test", "AUTH": "235 ok", "DATA": "354 go on", "QUIT": "221 bye"}

// offersOf are what a server offers so that transactions have a shape. The one that only one
// recipient can have is sent to one.
var offersOf = []struct {
	name, offers string
	shape        shape
	steps        []string
}{
	{"stepwise", "", -1, []string{"MAIL", "RCPT", "DATA", "."}},
	{"byData", "PIPELINING", byData, []string{"MAIL", "RCPT", "DATA", "."}},
	{"byChunk", "PIPELINING CHUNKING", byChunk, []string{"MAIL", "RCPT", "."}},
	{"inOne", "PIPELINING CHUNKING SIZE 8BITMIME", inOne, []string{"MAIL", "RCPT", "."}},
}

func newSMTPScript(t *testing.T) *smtpScript {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &smtpScript{Listener: l, reply: usual}
	s.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.start(conn)
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, conn := range s.conns {
			conn.Close()
		}
		s.mu.Unlock()
		s.serving.Wait()
	})
	return s
}

// start serves a connection.
func (s *smtpScript) start(conn net.Conn) {
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	n := len(s.conns)
	s.mu.Unlock()
	s.serving.Go(func() { s.serve(conn, n) })
}

func (s *smtpScript) serve(conn net.Conn, n int) {
	defer conn.Close()
	lines := bufio.NewReader(conn)
	var state smtpState
	for command, mail := "greeting", ""; ; {
		s.mu.Lock()
		reply := s.reply(n, command)
		if command == "." {
			s.mails = append(s.mails, mail)
			if s.judge != nil && reply == "" {
				reply = s.judge(mail)
			}
		}
		s.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToUpper(command), " ")
		if s.deaf {
			_, _ = lines.Discard(lines.Buffered())
		}
		if reply == "" {
			if reply = s.usualReply(verb); !s.gullible {
				reply = state.check(verb, reply)
			}
		}
		state.note(verb, reply)
		switch reply {
		case "close":
			return
		case "silence":
		default:
			if s.write == nil {
				fmt.Fprintf(conn, "%s\r\n", reply)
			} else if s.write(conn, reply+"\r\n") != nil {
				return
			}
		}
		var err error
		if command, mail, err = nextCommand(lines, verb == "DATA" && strings.HasPrefix(reply, "354")); err != nil {
			return
		}
		s.mu.Lock()
		s.commands = append(s.commands, fmt.Sprint(n, " ", command))
		s.mu.Unlock()
	}
}

// smtpState is where a connection is in a transaction.
type smtpState struct {
	mail       bool
	recipients int
}

// check returns the reply, or another one if the command is out of place.
func (s *smtpState) check(verb, reply string) string {
	switch {
	case verb == "RCPT" && !s.mail:
		return "503 5.5.1 need MAIL first"
	case (verb == "DATA" || verb == ".") && s.recipients == 0:
		return "554 5.5.1 no valid recipients"
	}
	return reply
}

func (s *smtpState) note(verb, reply string) {
	switch yes := reply == "silence" || strings.HasPrefix(strings.TrimPrefix(reply, "hostile "), "2"); {
	case verb == "MAIL":
		s.mail = yes
	case verb == "RCPT" && yes:
		s.recipients++
	case verb == "RSET" || verb == ".":
		*s = smtpState{}
	}
}

// nextCommand reads a command, or a whole mail.
func nextCommand(lines *bufio.Reader, inMail bool) (command, mail string, err error) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		var size int
		if n, _ := fmt.Sscanf(line, "BDAT %d LAST", &size); n == 1 {
			chunk := make([]byte, size)
			_, err := io.ReadFull(lines, chunk)
			return ".", string(chunk), err
		}
		if command = strings.TrimSuffix(line, "\r\n"); !inMail || command == "." {
			return command, mail, nil
		}
		mail += strings.TrimPrefix(line, ".")
	}
}

func (s *smtpScript) usualReply(verb string) string {
	switch {
	case verb == "EHLO" || verb == "LHLO":
		return "250-test\r\n250-" + strings.Join(strings.Fields("HELP "+s.offers), "\r\n250-") + "\r\n250 AUTH PLAIN"
	case usualReplies[verb] != "":
		return usualReplies[verb]
	}
	return "250 ok"
}

func (s *smtpScript) setReply(reply func(int, string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = reply
}

// heard returns how many commands began so.
func (s *smtpScript) heard(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, command := range s.commands {
		if _, command, _ := strings.Cut(command, " "); strings.HasPrefix(command, prefix) {
			n++
		}
	}
	return n
}

// openSender opens a sender at the script.
func (s *smtpScript) openSender(t *testing.T) *sender {
	t.Helper()
	scheme := "smtp+insecure://"
	if s.lmtp {
		scheme = "lmtp+insecure://"
	}
	c, err := newCarrier(Config{SMTP: scheme + s.Addr().String(), IMAP: "unused", Username: "me@test", Password: "secret",
		To: []string{"a@test"}, Cc: []string{"A@TEST", "b@test"}, Bcc: []string{"c@test"}}, Options{Logger: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.sender.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.sender.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &c.sender
}

// say returns a reply to the commands that begin with prefix, on connections first to last.
func say(first, last int, prefix, reply string) func(int, string) string {
	return func(conn int, command string) string {
		if first <= conn && conn <= last && strings.HasPrefix(command, prefix) {
			return reply
		}
		return ""
	}
}

// either replies as one of two does.
func either(a, b func(int, string) string) func(int, string) string {
	return func(conn int, command string) string { return a(conn, command) + b(conn, command) }
}

// usual is the reply of a server that is all right.
func usual(int, string) string { return "" }
