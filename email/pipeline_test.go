package email

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// TestSendInOne: a mail that goes in one flight with its envelope is taken, not taken, or nobody knows.
func TestSendInOne(t *testing.T) {
	const always = 1000
	for _, test := range []struct {
		name     string
		reply    func(int, string) string
		gullible bool
		outcome  transport.Outcome // 0: success
		code     int
		is       error
		text     string
		conns    int
	}{
		{"accepted", usual, false, 0, 0, nil, "", 1},
		{"sender delayed", say(1, always, "MAIL", "451 later"), false, transport.Temporary, 451, nil, "sender me@test", 1},
		{"sender refused", say(1, always, "MAIL", "550 5.7.1 no"), false, transport.Permanent, 550, transport.ErrRefused, "sender me@test", 1},
		{"sender delayed, mail taken", say(1, always, "MAIL", "451 later"), true, transport.Unknown, 451, nil, "sender me@test", 1},
		{"sender refused, mail taken", say(1, always, "MAIL", "550 no"), true, transport.Unknown, 550, nil, "sender me@test", 1},
		{"recipient unknown", say(1, always, "RCPT", "550 5.1.1 who?"), false, transport.Permanent, 550, transport.ErrUndeliverable, "recipient a@test", 1},
		{"recipient delayed", say(1, always, "RCPT", "450 4.2.1 later"), false, transport.Temporary, 450, nil, "recipient a@test", 1},
		{"recipient unknown, mail taken", say(1, always, "RCPT", "550 5.1.1 who?"), true, transport.Permanent, 550, transport.ErrUndeliverable, "", 1},
		{"recipient unknown, then closed", either(say(1, always, "RCPT", "550 5.1.1 who?"), say(1, always, ".", "close")), false,
			transport.Permanent, 550, transport.ErrUndeliverable, "", 1},
		{"no sense for the recipient", say(1, always, "RCPT", "354 go on"), true, transport.Unknown, 354, nil, "recipient a@test", 1},
		{"mail refused", say(1, always, ".", "554 5.7.1 spam"), false, transport.Permanent, 554, transport.ErrRefused, "the mail", 1},
		{"mail delayed", say(1, always, ".", "451 later"), false, transport.Temporary, 451, nil, "the mail", 1},
		{"taken in other words", say(1, always, ".", "251 taken"), false, 0, 0, nil, "", 1},
		{"closed at MAIL", say(1, always, "MAIL", "close"), false, transport.Unknown, 0, nil, "sender me@test", 1},
		{"closed at RCPT", say(1, always, "RCPT", "close"), false, transport.Unknown, 0, nil, "recipient a@test", 1},
		{"closed at the end", say(1, always, ".", "close"), false, transport.Unknown, 0, nil, "the mail", 1},
		{"no sense in the end", say(1, always, ".", "!"), false, transport.Unknown, 0, nil, "the mail", 1},
		{"shut down at MAIL once", say(1, 1, "MAIL", "421 going down"), false, 0, 0, nil, "", 2},
		{"shut down at RCPT once", say(1, 1, "RCPT", "421 going down"), false, 0, 0, nil, "", 2},
		{"shut down at the end once", say(1, 1, ".", "421 going down"), false, 0, 0, nil, "", 2},
		{"shut down always", say(1, always, "MAIL", "421 going down"), false, transport.Temporary, 421, nil, "", 2},
		{"BDAT is not known", say(1, 1, ".", "502 5.5.1 what?"), false, 0, 0, nil, "", 2},
		{"commands in advance are not liked", say(1, 1, "RCPT", "503 5.5.0 improper use of pipelining"), false, 0, 0, nil, "", 2},
		{"MAIL is not liked in any way", say(1, always, "MAIL", "503 5.5.1 log in first"), false, transport.Permanent, 503, transport.ErrRefused, "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSMTPScript(t)
			s.offers, s.gullible = "PIPELINING CHUNKING", test.gullible
			s.setReply(test.reply)
			sender := s.openSender(t)
			sender.to, sender.cc, sender.bcc = []string{"a@test"}, nil, nil
			err := sender.send(t.Context(), []*transport.Message{topicMessage(1)})
			checkOutcome(t, err, test.outcome, test.code, test.is, test.text)
			if len(s.conns) != test.conns {
				t.Errorf("%d connections, want %d", len(s.conns), test.conns)
			}
			s.setReply(usual)
			sender.servers.work() // else the next message would share the failure
			if err := sender.send(t.Context(), []*transport.Message{topicMessage(2)}); err != nil {
				t.Errorf("the next message: %v", err)
			}
		})
	}
}

// TestNobodyAccepted: a server that asks for the mail although it has accepted no recipient gets an empty
// one, as RFC 2920 says, and the connection is kept.
func TestNobodyAccepted(t *testing.T) {
	s := newSMTPScript(t)
	s.offers, s.gullible = "PIPELINING", true
	s.setReply(say(1, 1, "RCPT", "550 5.1.1 who?"))
	sender := s.openSender(t)
	err := sender.send(t.Context(), []*transport.Message{topicMessage(1)})
	checkOutcome(t, err, transport.Permanent, 550, transport.ErrUndeliverable, "recipient a@test")
	s.setReply(usual)
	if err := sender.send(t.Context(), []*transport.Message{topicMessage(2)}); err != nil || len(s.conns) != 1 {
		t.Errorf("the next message: %v, over %d connections", err, len(s.conns))
	}
	want := []string{"MAIL FROM:<me@test>", "RCPT TO:<a@test>", "RCPT TO:<b@test>", "RCPT TO:<c@test>", "DATA", "."}
	want = slices.Concat(want, []string{"RSET"}, want)
	var got []string
	for _, command := range s.commands {
		if _, command, _ := strings.Cut(command, " "); !strings.HasPrefix(command, "EHLO") && !strings.HasPrefix(command, "AUTH") {
			got = append(got, command)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
}

// TestDeafServer: a server that loses commands that come in advance, though it offers to take them, is not
// sent any after it has happened twice.
func TestDeafServer(t *testing.T) {
	for _, test := range []struct {
		offers string
		took   []time.Duration // 0 for no error
		errs   []bool
	}{
		{"PIPELINING", []time.Duration{commandTimeout, commandTimeout, 0, 0}, []bool{false, false, false, false}},
		{"PIPELINING CHUNKING", []time.Duration{commandTimeout, 0, commandTimeout, 0, 0}, []bool{true, false, true, false, false}},
	} {
		withServers(t, 1, func(n *smtpNet) { n.servers[0].offers, n.servers[0].deaf = test.offers, true }, func(t *testing.T, n *smtpNet, s *sender) {
			for i, want := range test.took {
				start := time.Now()
				err := sendOne(s)
				if took := time.Since(start); took != want || (err != nil) != test.errs[i] {
					t.Errorf("%s: message %d: error %v after %v, want %v, %v", test.offers, i, err, took, test.errs[i], want)
				}
				if err != nil {
					checkOutcome(t, err, transport.Unknown, 0, nil, "")
				}
				time.Sleep(time.Second)
			}
			if strings.Count(n.log.String(), "PIPELINING") != 1 {
				t.Errorf("log:\n%s", n.log.String())
			}
		})
	}
}

// TestDotted: what DATA takes comes out as it was, and what BDAT takes is the same.
func TestDotted(t *testing.T) {
	for _, mail := range []string{"", "a: b\r\n\r\n", "a: b\r\n\r\n.\r\n", "a: b\r\n\r\n..\r\n.x\r\n\r\n.", "no end", "\r\n.\r\nQUIT\r\n"} {
		data := dotted([]byte(mail))
		got, err := io.ReadAll(textproto.NewReader(bufio.NewReader(bytes.NewReader(data))).DotReader())
		want := mail
		if !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		if err != nil || string(got) != strings.ReplaceAll(want, "\r\n", "\n") {
			t.Errorf("%q is sent as %q and received as %q, %v", mail, data, got, err)
		}
		if got := string(appendChunk(nil, []byte(mail))); got != fmt.Sprintf("BDAT %d LAST\r\n%s", len(want), want) {
			t.Errorf("%q is sent as %q", mail, got)
		}
	}
}

// TestCalledOff: a mail whose sending is called off when it is with the server already does not cost the connection, if the
// server answers soon. Before that it does, at once.
func TestCalledOff(t *testing.T) {
	for _, offers := range offersOf {
		for _, test := range []struct {
			step    string
			late    time.Duration // the server's reply
			outcome transport.Outcome
			took    time.Duration
			conns   int
		}{
			{".", 150 * time.Millisecond, 0, 150 * time.Millisecond, 1},
			{".", time.Second, transport.Unknown, 100*time.Millisecond + lastWord, 2},
			{"MAIL", 150 * time.Millisecond, transport.Temporary, 100 * time.Millisecond, 2},
		} {
			if offers.shape == inOne && test.step == "MAIL" {
				continue // it is sent with the mail
			}
			withServers(t, 1, func(n *smtpNet) { n.servers[0].offers = offers.offers }, func(t *testing.T, n *smtpNet, s *sender) {
				if offers.shape == byChunk {
					s.to = []string{"a@test", "b@test"}
				}
				n.servers[0].write = func(c net.Conn, reply string) error {
					if text, slow := strings.CutPrefix(reply, "slow "); slow {
						time.Sleep(test.late)
						reply = text
					}
					_, err := c.Write([]byte(reply))
					return err
				}
				n.servers[0].setReply(say(1, 1, test.step, "slow 250 ok"))
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
				start := time.Now()
				err := s.send(ctx, []*transport.Message{topicMessage(1)})
				checkOutcome(t, err, test.outcome, 0, nil, "")
				if took := time.Since(start); took != test.took {
					t.Errorf("%s/%s: it took %v, want %v", offers.name, test.step, took, test.took)
				}
				if err := sendOne(s); err != nil || n.dialed(0) != test.conns {
					t.Errorf("%s/%s: the next message: %v, over %d connections, want %d", offers.name, test.step, err, n.dialed(0), test.conns)
				}
				time.Sleep(time.Minute) // until the server has noticed
			})
		}
	}
}
