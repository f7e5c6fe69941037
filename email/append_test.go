package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// appendScript is an IMAP server that takes mails by APPEND, over net.Pipe.
type appendScript struct {
	caps string
	// answer returns what to say to a command on a connection, counted from 1, or "" for the usual; "LITERAL"
	// is the command where a literal is offered. "close" closes the connection, "silence" says nothing.
	answer func(conn int, command string) string
	// pause is how long the server rests after each 32 KiB of a mail.
	pause time.Duration

	mu      sync.Mutex
	mails   []string
	conns   []net.Conn
	serving sync.WaitGroup
}

func (s *appendScript) dial(*account, context.Context) (link, error) {
	client, server := net.Pipe()
	s.mu.Lock()
	s.conns = append(s.conns, server)
	n := len(s.conns)
	s.mu.Unlock()
	s.serving.Go(func() { s.serve(server, n) })
	bare := deadlineConn{client}
	return link{bare, bare}, nil
}

// say answers a command, and returns false if that ends the connection.
func (s *appendScript) say(conn net.Conn, n int, tag, command, usual string) bool {
	s.mu.Lock()
	answer := s.answer(n, command)
	s.mu.Unlock()
	switch answer {
	case "":
		answer = usual
	case "close":
		return false
	case "silence":
		return true
	}
	_, err := fmt.Fprint(conn, strings.ReplaceAll(answer, "TAG", tag), "\r\n")
	return err == nil && !strings.HasPrefix(answer, "* BYE I")
}

func (s *appendScript) serve(conn net.Conn, n int) {
	defer conn.Close()
	fmt.Fprintf(conn, "* OK [CAPABILITY IMAP4rev1 %s] ready\r\n", s.caps)
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		fields := strings.Fields(line)
		tag, command := fields[0], fields[1]
		usual := "TAG OK done"
		switch command {
		case "CAPABILITY":
			usual = "* CAPABILITY IMAP4rev1 " + s.caps + "\r\n" + usual
		case "STATUS":
			usual = "* STATUS " + fields[2] + " (UIDNEXT 1)\r\n" + usual
		case "LOGOUT":
			usual = "* BYE\r\n" + usual
		case "APPEND":
			size, plus := strings.CutSuffix(line[strings.LastIndexByte(line, '{')+1:len(line)-1], "+")
			if !plus {
				s.mu.Lock()
				offered := s.answer(n, "LITERAL")
				s.mu.Unlock()
				if !s.say(conn, n, tag, "LITERAL", "+ go on") || offered == "silence" {
					return
				}
				if offered != "" {
					continue
				}
			}
			length, _ := strconv.Atoi(size)
			mail := make([]byte, length+2)
			for n := 0; n < len(mail); time.Sleep(s.pause) {
				part := mail[n:min(n+32<<10, len(mail))]
				if _, err := io.ReadFull(lines, part); err != nil {
					return
				}
				n += len(part)
			}
			s.mu.Lock()
			s.mails = append(s.mails, string(mail[:length]))
			s.mu.Unlock()
		}
		if !s.say(conn, n, tag, command, usual) {
			return
		}
	}
}

func (s *appendScript) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// withAppending runs a test with a sender that appends to the folder F.
func withAppending(t *testing.T, s *appendScript, run func(*testing.T, *sender)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		config := Config{SMTP: "imap+insecure://a/F", IMAP: "unused", Username: "me@test", Password: "secret"}
		c, err := newCarrier(config, Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c.sender.servers.dial = s.dial
		if err := c.sender.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		run(t, &c.sender)
		if err := c.sender.close(context.Background()); err != nil {
			t.Error(err)
		}
		for _, conn := range s.conns {
			conn.Close()
		}
		s.serving.Wait()
	})
}

// TestAppendAnswers: what the server says, or does not say, decides what is known of a message.
func TestAppendAnswers(t *testing.T) {
	first := func(n int, command, answer string) func(int, string) string {
		return func(conn int, c string) string {
			if conn == n && c == command {
				return answer
			}
			return ""
		}
	}
	always := func(command, answer string) func(int, string) string {
		return func(_ int, c string) string {
			if c == command {
				return answer
			}
			return ""
		}
	}
	for _, test := range []struct {
		name    string
		size    int // of the body
		answer  func(int, string) string
		outcome transport.Outcome // 0: taken
		is      error
		text    string
		conns   int // that have been made after one more message has been taken
	}{
		{"taken", 10, always("", ""), 0, nil, "", 1},
		{"large and taken", 9000, always("", ""), 0, nil, "", 1},
		{"full", 10, always("APPEND", "TAG NO [OVERQUOTA] full"), transport.Temporary, nil, `append to "F"`, 1},
		{"trouble", 10, always("APPEND", "TAG NO disk on fire"), transport.Temporary, nil, "disk on fire", 1},
		{"no folder", 10, always("APPEND", "TAG NO [TRYCREATE] what?"), transport.Permanent, transport.ErrUndeliverable, `no folder "F": create it, or correct email.user.url-smtp`, 1},
		{"not allowed", 10, always("APPEND", "TAG NO [NOPERM] no"), transport.Permanent, transport.ErrRefused, "imap at imap+insecure://a:143/F", 1},
		{"not understood", 10, always("APPEND", "TAG BAD no"), transport.Permanent, transport.ErrRefused, "", 1},
		{"too big", 10, always("APPEND", "TAG NO [TOOBIG] no"), transport.Permanent, transport.ErrTooLarge, "", 1},
		{"too big to begin", 9000, always("LITERAL", "TAG NO [TOOBIG] no"), transport.Permanent, transport.ErrTooLarge, "", 2},
		{"full from the beginning", 9000, always("LITERAL", "TAG NO [OVERQUOTA] full"), transport.Temporary, nil, "full", 2},
		{"closed after it", 10, always("APPEND", "close"), transport.Unknown, nil, "", 2},
		{"goodbye after it", 10, always("APPEND", "* BYE I am leaving"), transport.Unknown, nil, "", 2},
		{"silence after it", 10, always("APPEND", "silence"), transport.Unknown, nil, "no answer within 2m0s", 2},
		{"closed before it once", 9000, first(1, "LITERAL", "close"), 0, nil, "", 2},
		{"closed before it", 9000, always("LITERAL", "close"), transport.Temporary, nil, "", 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &appendScript{caps: "LITERAL+", answer: test.answer}
			withAppending(t, s, func(t *testing.T, sender *sender) {
				checkOutcome(t, sender.send(t.Context(), []*transport.Message{textMessage(strings.Repeat("x", test.size))}), test.outcome, 0, test.is, test.text)
				s.mu.Lock()
				s.answer = always("", "")
				s.mu.Unlock()
				time.Sleep(time.Minute) // what was shared of failures is forgotten
				checkOutcome(t, sender.send(t.Context(), []*transport.Message{textMessage("again")}), 0, 0, nil, "")
				if s.count() != test.conns {
					t.Errorf("%d connections, want %d", s.count(), test.conns)
				}
				if last := s.mails[len(s.mails)-1]; !strings.HasPrefix(last, "From: me@test\r\n") || !strings.Contains(last, "\r\nTo: me@test\r\n") || !strings.HasSuffix(last, "again\r\n") {
					t.Errorf("the mail is\n%s", last)
				}
			})
		})
	}
}

// TestAppendIdle: a connection that the server has closed meanwhile is replaced, and costs no message.
func TestAppendIdle(t *testing.T) {
	s := &appendScript{caps: "LITERAL-", answer: func(int, string) string { return "" }}
	withAppending(t, s, func(t *testing.T, sender *sender) {
		s.conns[0].Close()
		synctest.Wait()
		checkOutcome(t, sender.send(t.Context(), []*transport.Message{textMessage("x")}), 0, 0, nil, "")
		time.Sleep(time.Hour) // it is asked whether it is there
		checkOutcome(t, sender.send(t.Context(), []*transport.Message{textMessage("x")}), 0, 0, nil, "")
		if s.count() != 2 {
			t.Errorf("%d connections, want 2", s.count())
		}
	})
}

// TestAppendLimit: a mail above the limit that the server states is not sent at all.
func TestAppendLimit(t *testing.T) {
	for caps, status := range map[string]string{"LITERAL+ APPENDLIMIT=2000": "", "LITERAL+ APPENDLIMIT": "* STATUS F (UIDNEXT 1 APPENDLIMIT 2000)\r\nTAG OK done"} {
		s := &appendScript{caps: caps, answer: func(_ int, command string) string {
			if command == "STATUS" {
				return status
			}
			return ""
		}}
		withAppending(t, s, func(t *testing.T, sender *sender) {
			err := sender.send(t.Context(), []*transport.Message{textMessage(strings.Repeat("x", 3000))})
			checkOutcome(t, err, transport.Permanent, 0, transport.ErrTooLarge, "the server's limit is 2000")
			checkOutcome(t, sender.send(t.Context(), []*transport.Message{textMessage("x")}), 0, 0, nil, "")
			if len(s.mails) != 1 {
				t.Errorf("%d mails, want 1", len(s.mails))
			}
		})
	}
}

// TestAppendSlowly: a mail that takes long on a slow line gets through; the time for the answer begins after it.
func TestAppendSlowly(t *testing.T) {
	s := &appendScript{caps: "LITERAL+", answer: func(int, string) string { return "" }, pause: 10 * time.Second}
	withAppending(t, s, func(t *testing.T, sender *sender) {
		start := time.Now()
		checkOutcome(t, sender.send(t.Context(), []*transport.Message{textMessage(strings.Repeat("x", 1<<20))}), 0, 0, nil, "")
		if took := time.Since(start); took < 2*submissionTimeout || len(s.mails) != 1 {
			t.Errorf("%d mails were sent in %v", len(s.mails), took)
		}
	})
}

// TestAppendOpen: a folder that is not there is found at once, and who may only append need not look.
func TestAppendOpen(t *testing.T) {
	for answer, want := range map[string]error{"TAG NO [NONEXISTENT] what?": transport.ErrUndeliverable, "TAG NO [TRYCREATE] what?": transport.ErrUndeliverable, "TAG NO [NOPERM] no": nil} {
		s := &appendScript{caps: "LITERAL+", answer: func(_ int, command string) string {
			if command == "STATUS" {
				return answer
			}
			return ""
		}}
		synctest.Test(t, func(t *testing.T) {
			a := account{server: server{scheme: imapSchemes[2], host: "a", port: "143", folder: "F"}, username: "me@test", password: "secret"}
			l, _ := s.dial(nil, t.Context())
			conn, err := a.startSubmission(t.Context(), l)
			if !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "create it") {
				t.Errorf("%s: error %v", answer, err)
			}
			conn.drop()
			s.serving.Wait()
		})
	}
}

// textMessage is a message with that body.
func textMessage(body string) *transport.Message {
	m := topicMessage(1)
	m.Body = []byte(body)
	return m
}
