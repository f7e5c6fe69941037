package email

import (
	"errors"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

// TestLMTPOutcomes: an LMTP server takes a mail for each recipient or not.
func TestLMTPOutcomes(t *testing.T) {
	for _, test := range []struct {
		name    string
		end     string            // the reply to the mail, to a@test, b@test and c@test
		outcome transport.Outcome // 0: success
		code    int
		is      error
		text    string
	}{
		{"taken by all", "250 2.0.0 ok\r\n250 ok\r\n251 ok", 0, 0, nil, ""},
		{"refused by one", "250 ok\r\n550 5.1.1 who?\r\n250 ok", transport.Permanent, 550, transport.ErrUndeliverable,
			"recipient b@test: undeliverable: SMTP error 550: who? (the mail has been taken for a@test, c@test)"},
		{"delayed by one", "452 4.2.2 full\r\n250 ok\r\n250 ok", transport.Unknown, 452, nil, "recipient a@test: SMTP error 452: full (the mail has been taken for b@test, c@test)"},
		{"delayed by one, refused by another", "250 ok\r\n452 4.2.2 full\r\n550 5.1.1 who?", transport.Permanent, 550, transport.ErrUndeliverable, "recipient c@test"},
		{"delayed by all", "451 a\r\n451 b\r\n452 c", transport.Temporary, 451, nil, "recipient a@test: SMTP error 451: a"},
		{"refused by all", "550 a\r\n550 b\r\n452 c", transport.Permanent, 550, transport.ErrUndeliverable, "recipient a@test"},
		{"too large for all", "552 5.3.4 a\r\n552 5.3.4 b\r\n552 5.3.4 c", transport.Permanent, 552, transport.ErrTooLarge, "recipient a@test"},
		{"no sense for one", "250 ok\r\n150 well\r\n250 ok", transport.Unknown, 150, nil, "recipient b@test"},
		{"refused by one, no reply for others", "550 5.1.1 who?\r\n!!!", transport.Unknown, 0, nil, "recipient b@test"},
		{"closed", "close", transport.Unknown, 0, nil, "recipient a@test"},
		{"shut down", "421 a\r\n421 b\r\n421 c", transport.Temporary, 421, nil, "recipient a@test"},
	} {
		for _, offers := range offersOf {
			if offers.shape == inOne {
				continue
			}
			t.Run(test.name+"/"+offers.name, func(t *testing.T) {
				s := newSMTPScript(t)
				s.lmtp, s.offers = true, offers.offers
				s.setReply(say(1, 1000, ".", test.end))
				sender := s.openSender(t)
				err := sender.send(t.Context(), []*transport.Message{topicMessage(1)})
				checkOutcome(t, err, test.outcome, test.code, test.is, test.text)
				s.setReply(say(1, 1000, ".", strings.Repeat("250 ok\r\n", 2)+"250 ok"))
				sender.servers.work() // else the next message would share the failure
				if err := sender.send(t.Context(), []*transport.Message{topicMessage(2)}); err != nil {
					t.Errorf("the next message: %v", err)
				}
			})
		}
	}
}

// TestLMTPBatch: a mail of several messages that some recipients have is not broken up, which would send it to them again.
func TestLMTPBatch(t *testing.T) {
	s := newSMTPScript(t)
	s.lmtp = true
	s.setReply(say(1, 1000, ".", "250 ok\r\n554 5.6.0 no\r\n250 ok"))
	sender := s.openSender(t)
	sender.collector.limits = Batching{On: true}.complete()
	err := sender.send(t.Context(), []*transport.Message{topicMessage(1), topicMessage(2), topicMessage(3)})
	checkOutcome(t, err, transport.Permanent, 554, nil, "taken for a@test, c@test")
	if e, _ := errors.AsType[*transport.SendError](err); e == nil || e.Taken != 0 || e.With != 2 {
		t.Errorf("error %+v", e)
	}
	if n := s.heard("MAIL"); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

// TestLMTPLogin: a server that wants no login gets no password.
func TestLMTPLogin(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		s := newSMTPScript(t)
		s.lmtp = true
		logins := 0
		if wanted {
			logins = 1
		} else {
			s.setReply(say(1, 1000, "LHLO", "250-test\r\n250 PIPELINING"))
		}
		s.openSender(t)
		if got := s.heard("AUTH"); got != logins {
			t.Errorf("%d logins, want %d: %q", got, logins, s.commands)
		}
	}
}
