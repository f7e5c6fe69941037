package email

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

func topicMessage(n int) *transport.Message {
	m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte("hello")}
	m.Info.PublisherGID = transport.GID{1}
	m.Info.Sequence = uint64(n)
	m.Info.SourceTime = time.Unix(1, 0)
	m.ID = transport.NewID(m.Info.PublisherGID, m.Info.Sequence, "test")
	return m
}

func TestSendOutcomes(t *testing.T) {
	const always = 1000
	for _, test := range []struct {
		name    string
		reply   func(int, string) string
		outcome transport.Outcome // 0: success
		code    int
		is      error
		text    string
		conns   int
	}{
		{"accepted", usual, 0, 0, nil, "", 1},
		{"sender delayed", say(1, always, "MAIL", "451 later"), transport.Temporary, 451, nil, "sender me@test", 1},
		{"sender refused", say(1, always, "MAIL", "550 5.7.1 no"), transport.Permanent, 550, transport.ErrRefused, "sender me@test", 1},
		{"recipient delayed", say(1, always, "RCPT TO:<b", "450 4.2.1 later"), transport.Temporary, 450, nil, "recipient b@test", 1},
		{"recipient unknown", say(1, always, "RCPT TO:<b", "550 5.1.1 who?"), transport.Permanent, 550, transport.ErrUndeliverable, "recipient b@test", 1},
		{"recipient moved", say(1, always, "RCPT TO:<b", "551 elsewhere"), transport.Permanent, 551, transport.ErrUndeliverable, "", 1},
		{"mailbox full", say(1, always, "RCPT TO:<b", "552 5.2.2 full"), transport.Permanent, 552, transport.ErrUndeliverable, "", 1},
		{"relaying refused", say(1, always, "RCPT TO:<b", "554 5.7.1 relay access denied"), transport.Permanent, 554, transport.ErrRefused, "", 1},
		{"data refused", say(1, always, "DATA", "554 no"), transport.Permanent, 554, transport.ErrRefused, "", 1},
		{"mail refused", say(1, always, ".", "554 5.7.1 spam"), transport.Permanent, 554, transport.ErrRefused, "the mail", 1},
		{"mail too large", say(1, always, ".", "552 5.3.4 too big"), transport.Permanent, 552, transport.ErrTooLarge, "", 1},
		{"mail delayed", say(1, always, ".", "451 later"), transport.Temporary, 451, nil, "", 1},
		{"closed at MAIL once", say(1, 1, "MAIL", "close"), 0, 0, nil, "", 2},
		{"closed at DATA once", say(1, 1, "DATA", "close"), 0, 0, nil, "", 2},
		{"shut down once", say(1, 1, "MAIL", "421 going down"), 0, 0, nil, "", 2},
		{"shut down at DATA once", say(1, 1, "DATA", "421 going down"), 0, 0, nil, "", 2},
		{"shut down always", say(1, always, "RCPT", "421 going down"), transport.Temporary, 421, nil, "recipient a@test", 2},
		{"shut down at the dot once", say(1, 1, ".", "421 going down"), 0, 0, nil, "", 2},
		{"shut down at the dot always", say(1, always, ".", "421 going down"), transport.Temporary, 421, nil, "the mail", 2},
		{"taken in other words", say(1, always, ".", "251 taken"), 0, 0, nil, "", 1},
		{"taken in many words", say(1, always, ".", "250-taken\r\n250-and\r\n250 kept"), 0, 0, nil, "", 1},
		{"no sense in MAIL", say(1, always, "MAIL", "!"), transport.Temporary, 0, nil, "sender me@test", 2},
		{"no sense in MAIL once", say(1, 1, "MAIL", "!"), 0, 0, nil, "", 2},
		{"no sense in DATA", say(1, always, "DATA", "250 ok"), transport.Temporary, 250, nil, "DATA", 1},
		{"no sense in the end", say(1, always, ".", "what?"), transport.Unknown, 0, nil, "the mail", 1},
		{"354 in the end", say(1, always, ".", "354 go on"), transport.Unknown, 354, nil, "the mail", 1},
		{"refused in a class of its own", say(1, always, "MAIL", "999 no"), transport.Temporary, 999, nil, "", 1},
		{"closed at MAIL always", say(1, always, "MAIL", "close"), transport.Temporary, 0, nil, "smtp at", 2},
		{"closed at the dot", say(1, always, ".", "close"), transport.Unknown, 0, nil, "", 1},
		{"greeting refused", either(say(1, 1, "MAIL", "close"), say(2, always, "greeting", "554 no service")), transport.Permanent, 554, transport.ErrRefused, "smtp greeting", 2},
		{"login refused", either(say(1, 1, "MAIL", "close"), say(2, always, "AUTH", "535 5.7.8 wrong password")), transport.Permanent, 535, transport.ErrRefused, "smtp login", 2},
		{"login delayed", either(say(1, 1, "MAIL", "close"), say(2, always, "AUTH", "454 later")), transport.Temporary, 454, nil, "smtp login", 2},
	} {
		for _, offers := range offersOf {
			if offers.shape == inOne || offers.shape == byChunk && strings.Contains(strings.ToLower(test.name), "data") {
				continue // that is TestSendInOne, and without DATA
			}
			for _, gullible := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", test.name, offers.name, gullible), func(t *testing.T) {
					s := newSMTPScript(t)
					s.offers, s.gullible = offers.offers, gullible
					s.setReply(test.reply)
					sender := s.openSender(t)
					err := sender.send(t.Context(), []*transport.Message{topicMessage(1)})
					checkOutcome(t, err, test.outcome, test.code, test.is, test.text)
					if len(s.conns) != test.conns {
						t.Errorf("%d connections, want %d", len(s.conns), test.conns)
					}
					if strings.HasPrefix(test.name, "recipient") && s.heard(".") > 0 {
						t.Error("the other recipients were sent something")
					}
					s.setReply(usual)
					sender.servers.work() // else the next message would share the failure
					if err := sender.send(t.Context(), []*transport.Message{topicMessage(2)}); err != nil {
						t.Errorf("the next message: %v", err)
					}
				})
			}
		}
	}
}

func checkOutcome(t *testing.T, err error, outcome transport.Outcome, code int, is error, text string) {
	t.Helper()
	if outcome == 0 {
		if err != nil {
			t.Errorf("error %v", err)
		}
		return
	}
	sendErr, ok := errors.AsType[*transport.SendError](err)
	switch {
	case !ok:
		t.Errorf("error %v is no SendError", err)
	case sendErr.Outcome != outcome || sendErr.Code != code || sendErr.Name != "/t":
		t.Errorf("error %v: name %s, outcome %v, code %d, want %v, %d", err, sendErr.Name, sendErr.Outcome, sendErr.Code, outcome, code)
	case is != nil && !errors.Is(err, is):
		t.Errorf("error %v does not wrap %v", err, is)
	case !strings.Contains(err.Error(), text):
		t.Errorf("error %v, want %q in it", err, text)
	case strings.HasPrefix(text, "recipient ") && sendErr.NextHop, (text == "smtp login" || text == "smtp greeting") && !sendErr.NextHop:
		t.Errorf("error %v: is it about the next hop? %v", err, sendErr.NextHop)
	}
}

func TestSendContext(t *testing.T) {
	for _, test := range []struct {
		command string
		outcome transport.Outcome
	}{{"MAIL", transport.Temporary}, {"DATA", transport.Temporary}, {".", transport.Unknown}} {
		t.Run(test.command, func(t *testing.T) {
			s := newSMTPScript(t)
			reached := make(chan struct{}, 10)
			s.setReply(func(_ int, command string) string {
				if strings.HasPrefix(command, test.command) {
					reached <- struct{}{}
					return "silence"
				}
				return ""
			})
			sender := s.openSender(t)
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- sender.send(ctx, []*transport.Message{topicMessage(1)}) }()
			<-reached
			waiting, giveUp := context.WithTimeout(t.Context(), time.Millisecond)
			defer giveUp()
			err := sender.send(waiting, []*transport.Message{topicMessage(2)})
			checkOutcome(t, err, transport.Temporary, 0, transport.ErrTimeout, "earlier messages")
			cancel()
			err = <-result
			checkOutcome(t, err, test.outcome, 0, context.Canceled, "")
			if s.heard("MAIL") != 1 {
				t.Error("it was tried again")
			}
		})
	}
}

func TestSendRecipients(t *testing.T) {
	s := newSMTPScript(t)
	sender := s.openSender(t)
	send := func(to ...string) error {
		m := topicMessage(1)
		m.To = to
		return sender.send(t.Context(), []*transport.Message{m})
	}
	if err := errors.Join(send(), send("x@test", "X@test", "y@test")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, command := range s.commands {
		if _, recipient, ok := strings.Cut(command, "RCPT TO:"); ok {
			got = append(got, recipient)
		}
	}
	if want := []string{"<a@test>", "<b@test>", "<c@test>", "<x@test>", "<y@test>"}; !slices.Equal(got, want) {
		t.Errorf("recipients %q, want %q", got, want)
	}
	for _, to := range []string{"nobody", "a@b> SIZE=1", "a@b\r\nRSET", "жук@test"} {
		checkOutcome(t, send(to), transport.Permanent, 0, transport.ErrUndeliverable, "recipient: ")
	}
	sender.to, sender.cc, sender.bcc = nil, nil, nil
	checkOutcome(t, send(), transport.Permanent, 0, nil, "set email.recipients.to")
	if s.heard("MAIL") != 2 {
		t.Error("something was sent to nobody")
	}
}

func TestSendSize(t *testing.T) {
	s := newSMTPScript(t)
	s.setReply(say(1, 1, "EHLO", "250-test\r\n250-SIZE 2000\r\n250 AUTH PLAIN"))
	sender := s.openSender(t)
	small, large := topicMessage(1), topicMessage(2)
	large.Body = make([]byte, 2000)
	if err := sender.send(t.Context(), []*transport.Message{small}); err != nil {
		t.Error(err)
	}
	err := sender.send(t.Context(), []*transport.Message{large})
	checkOutcome(t, err, transport.Permanent, 0, transport.ErrTooLarge, "the server's limit is 2000")
	if s.heard("MAIL FROM:<me@test> SIZE=") != 1 || len(s.conns) != 1 {
		t.Errorf("%q", s.commands)
	}
}

// TestSend8Bit: mail for rmw_email may have any characters, if the server takes them.
func TestSend8Bit(t *testing.T) {
	for _, offered := range []bool{true, false} {
		s := newSMTPScript(t)
		if offered {
			s.setReply(say(1, 1, "EHLO", "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN"))
		}
		sender := s.openSender(t)
		sender.compat.all = true
		ascii, umlaut := topicMessage(1), topicMessage(2)
		umlaut.Body = []byte("grüezi")
		if err := sender.send(t.Context(), []*transport.Message{ascii}); err != nil {
			t.Error(err)
		}
		err := sender.send(t.Context(), []*transport.Message{umlaut})
		if offered {
			if err != nil || s.heard("MAIL FROM:<me@test> BODY=8BITMIME") != 2 {
				t.Errorf("error %v, commands %q", err, s.commands)
			}
			continue
		}
		checkOutcome(t, err, transport.Permanent, 0, transport.ErrNotSupported, "does not take 8-bit mail")
		if s.heard("MAIL") != 1 || len(s.conns) != 1 {
			t.Errorf("commands %q", s.commands)
		}
	}
}

// TestSendAfterRest: a connection that has not been used for long is asked first
// whether it is there, and replaced if not.
func TestSendAfterRest(t *testing.T) {
	s := newSMTPScript(t)
	sender := s.openSender(t)
	rest := func() {
		conn := <-sender.slot
		conn.lastUsed = time.Now().Add(-time.Hour)
		sender.slot <- conn
	}
	send := func() {
		t.Helper()
		if err := sender.send(t.Context(), []*transport.Message{topicMessage(1)}); err != nil {
			t.Error(err)
		}
	}
	send()
	rest()
	send()
	if s.heard("NOOP") != 1 || len(s.conns) != 1 {
		t.Errorf("%d times NOOP on %d connections, want 1 on 1", s.heard("NOOP"), len(s.conns))
	}
	rest()
	s.mu.Lock()
	s.conns[0].Close()
	s.mu.Unlock()
	send()
	if s.heard("MAIL") != 3 || len(s.conns) != 2 {
		t.Errorf("%d mails on %d connections, want 3 on 2", s.heard("MAIL"), len(s.conns))
	}
}

// TestSendBatch: the first message that fails ends a batch.
func TestSendBatch(t *testing.T) {
	s := newSMTPScript(t)
	sender := s.openSender(t)
	second := topicMessage(2)
	second.Name, second.To = "/second", []string{"nobody"}
	err := sender.send(t.Context(), []*transport.Message{topicMessage(1), second, topicMessage(3)})
	if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Name != "/second" || sendErr.Taken != 1 || s.heard(".") != 1 {
		t.Errorf("error %v after %d mails", err, s.heard("."))
	}
}

func TestSendAfterClose(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	account := server.Accounts()[0]
	c, err := Open(t.Context(), Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password,
		To: []string{account.Address}}, Options{Logger: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := c.Send(t.Context(), topicMessage(1)); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if _, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
}
