package email

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/postbus/postbus/transport"
)

// sending returns a sender in the middle of a mail, whose server says no more until go
// on is called, and what its Send will return.
func sending(t *testing.T) (s *sender, goOn func(), outcome <-chan error) {
	t.Helper()
	script := newSMTPScript(t)
	c, err := newCarrier(Config{SMTP: "smtp+insecure://" + script.Addr().String(), IMAP: "unused",
		Username: "me@test", Password: "secret", To: []string{"a@test"}}, Options{Logger: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.sender.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	reached, held := make(chan struct{}), make(chan struct{})
	script.setReply(func(_ int, command string) string {
		if command == "." {
			close(reached)
			<-held
		}
		return ""
	})
	errs := make(chan error, 1)
	go func() { errs <- c.sender.send(context.Background(), []*transport.Message{topicMessage(1)}) }()
	<-reached
	release := func() { close(held) }
	return &c.sender, release, errs
}

func TestCloseWaitsForSend(t *testing.T) {
	s, goOn, outcome := sending(t)
	closed := make(chan error, 1)
	go func() { closed <- s.close(context.Background()) }()
	<-s.closed
	goOn()
	if err := <-outcome; err != nil {
		t.Errorf("the mail under way: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := s.send(t.Context(), []*transport.Message{topicMessage(2)}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a mail after Close: %v", err)
	}
}

func TestCloseEndsSend(t *testing.T) {
	s, goOn, outcome := sending(t)
	defer goOn()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	err := <-outcome
	var failed *transport.SendError
	if !errors.As(err, &failed) || failed.Outcome != transport.Unknown || !errors.Is(err, transport.ErrClosed) {
		t.Errorf("the mail under way: %v", err)
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"a@b.test":                     "a@b.test",
		" Alice <a@b.test> ":           "a@b.test",
		`"john smith"@b.test`:          `"john smith"@b.test`,
		`"a> NOTIFY=NEVER <b"@b.test`:  "",
		"a@b.test, c@b.test":           "",
		"ü@b.test":                     "",
		"a@b.test\r\nRCPT TO:<c@test>": "",
	} {
		if got, err := parseAddress(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestAddressLiteral(t *testing.T) {
	for _, test := range []struct {
		addr net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25}, "[192.0.2.1]"},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 25}, "[IPv6:2001:db8::1]"},
		{&net.UnixAddr{Name: "/s"}, "localhost"},
	} {
		if got := addressLiteral(test.addr); got != test.want {
			t.Errorf("%v: %s, want %s", test.addr, got, test.want)
		}
	}
}

// A body beyond the limit is not received, even if the mail is small.
func TestMaxBody(t *testing.T) {
	withScript(t, func(_ *script, r *receiver) { r.maxBody = 100 }, func(t *scriptTest) {
		t.script.add(messageMail(t, 1, strings.Repeat("x", 100)))
		t.script.add(messageMail(t, 2, strings.Repeat("x", 101)))
		t.script.add(messageMail(t, 3, "y"))
		if a, b := <-t.got, <-t.got; a != 1 || b != 3 {
			t.Errorf("messages %d and %d came, want 1 and 3", a, b)
		}
		synctest.Wait()
		if !strings.Contains(t.log.String(), "max-body") {
			t.Errorf("the log does not say why: %s", t.log)
		}
	})
}
