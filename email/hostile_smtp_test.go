package email

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// beforeMail are what a server answers before the first mail.
var beforeMail = []string{"greeting", "EHLO", "AUTH"}

// renew makes the sender's next message go over a new connection.
func (n *smtpNet) renew(s *sender) {
	n.cut(0)
	<-s.slot
	s.slot <- nil
}

// TestHostileReplies: whatever a server does to its replies, a message that it may have taken is never
// said to be not sent, and nobody waits for ever.
func TestHostileReplies(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		write   func(net.Conn, string) error
		outcome transport.Outcome // of all steps but the last, for which it is Unknown if it is not 0
		took    time.Duration     // of all steps but the last
		last    time.Duration
	}{
		{"one byte per write", func(c net.Conn, reply string) error {
			for i := range reply {
				if _, err := c.Write([]byte(reply[i : i+1])); err != nil {
					return err
				}
			}
			return nil
		}, 0, 0, 0},
		{"several lines", func(c net.Conn, reply string) error {
			_, err := fmt.Fprintf(c, "%.3s-first\r\n%.3s-second\r\n%s", reply, reply, reply)
			return err
		}, 0, 0, 0},
		{"ten seconds late", func(c net.Conn, reply string) error {
			time.Sleep(10 * time.Second)
			_, err := c.Write([]byte(reply))
			return err
		}, 0, 10 * time.Second, 10 * time.Second},
		{"silence", func(c net.Conn, _ string) error { return nil }, transport.Temporary, commandTimeout, submissionTimeout},
		{"a byte now and then", func(c net.Conn, reply string) (err error) {
			for i := 0; err == nil; i++ {
				time.Sleep(commandTimeout / 2)
				_, err = c.Write([]byte{"250-"[i%4]})
			}
			return err
		}, transport.Temporary, commandTimeout, submissionTimeout},
		{"lines without end", func(c net.Conn, reply string) error { return pour(c, reply[:3]+"-more\r\n") }, transport.Temporary, 0, 0},
		{"other codes without end", func(c net.Conn, reply string) error { return pour(c, "250-\r\n450-\r\n") }, transport.Temporary, 0, 0},
		{"empty lines without end", func(c net.Conn, _ string) error { return pour(c, "\r\n") }, transport.Temporary, 0, 0},
		{"cut off", func(c net.Conn, reply string) error { _, _ = c.Write([]byte(reply[:2])); return net.ErrClosed }, transport.Temporary, 0, 0},
		{"no code", func(c net.Conn, _ string) error { _, err := c.Write([]byte("yes, with pleasure\r\n")); return err }, transport.Temporary, 0, 0},
		{"code of one digit", func(c net.Conn, _ string) error { _, err := c.Write([]byte("2 ok\r\n")); return err }, transport.Temporary, 0, 0},
		{"binary", func(c net.Conn, _ string) error { _, err := c.Write([]byte("\x00\xff\n\n\r\r")); return err }, transport.Temporary, 0, 0},
		{"informative", func(c net.Conn, _ string) error { _, err := c.Write([]byte("150 wait\r\n")); return err }, transport.Temporary, 0, 0},
	} {
		for _, offers := range offersOf {
			for _, step := range slices.Concat(beforeMail, offers.steps) {
				t.Run(test.name+"/"+offers.name+"/"+step, func(t *testing.T) {
					outcome, want := test.outcome, test.took
					// Without a reply to MAIL the others are taken for those before them, and the last is missing.
					if step == "." || test.name == "silence" && offers.shape == inOne && !slices.Contains(beforeMail, step) {
						want = test.last
					}
					if step == "." || offers.shape == inOne && !slices.Contains(beforeMail, step) {
						outcome = min(outcome, 1) * transport.Unknown
					}
					withServers(t, 1, func(n *smtpNet) { n.servers[0].offers = offers.offers }, func(t *testing.T, n *smtpNet, s *sender) {
						if offers.shape == byChunk {
							s.to = []string{"a@test", "b@test"}
						}
						checkHostileReply(t, n, s, test.write, step, outcome, want)
					})
				})
			}
		}
	}
}

// checkHostileReply has a server reply in a hostile way to a step of a mail.
func checkHostileReply(t *testing.T, n *smtpNet, s *sender, write func(net.Conn, string) error, step string, outcome transport.Outcome, want time.Duration) {
	n.renew(s)
	server := n.servers[0]
	server.write = func(c net.Conn, reply string) error {
		if strings.HasPrefix(reply, "hostile ") {
			return write(c, strings.TrimPrefix(reply, "hostile "))
		}
		_, err := c.Write([]byte(reply))
		return err
	}
	hostile := 0
	server.setReply(func(_ int, command string) string {
		if !strings.HasPrefix(command, step) || step == "RCPT" && hostile > 0 {
			return ""
		}
		hostile++
		return "hostile " + server.usualReply(strings.ToUpper(step))
	})
	start := time.Now()
	err := sendOne(s)
	code := 0
	if reply := replyIn(err); reply != nil {
		code = reply.Code
	}
	checkOutcome(t, err, outcome, code, nil, "")
	if took := time.Since(start); took != want {
		t.Errorf("it took %v, want %v; error %v", took, want, err)
	}
}

// pour writes the same for ever. That it ends shows that the other side does not read for ever.
func pour(c net.Conn, s string) error {
	s = strings.Repeat(s, 1000/len(s))
	for written := 0; ; written += len(s) {
		if written > 64*maxReply { // what sockets may hold is in it
			panic("the client reads on and on")
		}
		if _, err := c.Write([]byte(s)); err != nil {
			return err
		}
	}
}

// TestEndlessLine: a line without end is read as far as the longest that there may be. It takes real
// sockets, for the server does not read meanwhile.
func TestEndlessLine(t *testing.T) {
	for _, step := range []string{"MAIL", "RCPT", "DATA", "."} {
		s := newSMTPScript(t)
		sender := s.openSender(t)
		s.write = func(c net.Conn, reply string) error {
			if strings.HasSuffix(reply, "endless\r\n") {
				return pour(c, strings.TrimSuffix(reply, "endless\r\n")+"xxxxxxxxxxxxxxxxxxxxxxxx")
			}
			_, err := c.Write([]byte(reply))
			return err
		}
		s.setReply(say(1, 100, step, map[bool]string{false: "250 endless", true: "354 endless"}[step == "DATA"]))
		err := sendOne(sender)
		// It passes for a line if it ends there as it was read, so that the next step fails.
		failure, ok := errors.AsType[*transport.SendError](err)
		if before := step == "MAIL" || step == "RCPT"; ok && before != (failure.Outcome == transport.Temporary) && step != "DATA" || !ok && step != "." {
			t.Errorf("%s: error %v", step, err)
		}
		s.mu.Lock()
		s.conns[0].Close()
		s.mu.Unlock()
	}
}

// TestLateReply: when the caller's time is over while the server has the whole mail, the outcome is
// unknown; before that the mail is certainly not sent.
func TestLateReply(t *testing.T) {
	for _, offers := range offersOf {
		for _, step := range slices.Concat(beforeMail, offers.steps) {
			withServers(t, 1, func(n *smtpNet) { n.servers[0].offers = offers.offers }, func(t *testing.T, n *smtpNet, s *sender) {
				if offers.shape == byChunk {
					s.to = []string{"a@test", "b@test"}
				}
				n.renew(s)
				n.servers[0].setReply(say(1, 100, step, "silence"))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				err := s.send(ctx, []*transport.Message{topicMessage(1)})
				want := transport.Temporary
				if step == "." || offers.shape == inOne && !slices.Contains(beforeMail, step) {
					want = transport.Unknown
				}
				checkOutcome(t, err, want, 0, transport.ErrTimeout, "")
				if took := time.Since(start); took != time.Second {
					t.Errorf("%s/%s: it took %v", offers.name, step, took)
				}
				// It says nothing about the server that the caller was in a hurry.
				n.servers[0].setReply(usual)
				if err := sendOne(s); err != nil {
					t.Errorf("%s/%s: the next message: %v", offers.name, step, err)
				}
			})
		}
	}
}

// FuzzReplies sends to a server that answers with anything. It is offered each message until it
// takes it, and never but when it has the whole of it.
func FuzzReplies(f *testing.F) {
	f.Add([]byte("220 a\r\n\x00250-a\r\n250 AUTH PLAIN\r\n\x00235 ok\r\n\x00250 ok\r\n\x00250 ok\r\n\x00354 ok\r\n\x00250 ok\r\n"))
	f.Add([]byte("220 a\r\n\x00250 AUTH PLAIN LOGIN SIZE 5\r\n\x00334 \r\n\x00421 no\r\n"))
	f.Add([]byte("220-a\r\n220 b\r\n\x00500 a\r\n\x00250 ok\r\n"))
	f.Add([]byte("220 a\r\n\x00250-a\r\n250-SIZE 99999999999999999999\r\n250 AUTH PLAIN\r\n\x00235 ok\r\n\x00250 ok\r\n\x00250 ok\r\n\x00354 ok\r\n\x00450-a\r\n250 ok\r\n"))
	f.Add([]byte("220 a\r\n\x00250-a\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n\x00235 ok\r\n\x00250 ok\r\n\x00250 ok\r\n\x00354 ok\r\n\x00250-ok\r\n250\r\n"))
	f.Add([]byte("220 a\r\n\x00250-a\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 AUTH PLAIN\r\n\x00235 ok\r\n\x00250 ok\r\n550 5.1.1 \x00no\r\n250 \x00ok\r\n"))
	f.Fuzz(func(t *testing.T, replies []byte) {
		withServers(t, 1, nil, func(t *testing.T, n *smtpNet, s *sender) {
			n.renew(s)
			left := strings.Split(string(replies), "\x00")
			server := n.servers[0]
			server.write = func(c net.Conn, reply string) error {
				_, err := c.Write([]byte(strings.TrimSuffix(reply, "\r\n")))
				return err
			}
			server.setReply(func(int, string) string {
				if len(left) == 0 {
					return "close"
				}
				reply := left[0]
				left = left[1:]
				return reply + "\r\n" // which write takes off again
			})
			err := sendOne(s)
			if err == nil && server.heard(".") == 0 {
				t.Error("a mail was taken of which the server has not got the end")
			}
			if err != nil {
				if failure := err.(*transport.SendError); failure.Outcome == transport.Unknown && server.heard(".") == 0 && !bytes.Contains(bytes.ToUpper(replies), []byte("CHUNKING")) {
					t.Errorf("the outcome is said to be unknown of what was certainly not sent: %v", err)
				}
			}
		})
	})
}
