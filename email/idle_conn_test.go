package email

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// rest makes the sender's connection one that was last used so long ago.
func (s *sender) rest(d time.Duration) *submission {
	conn := <-s.slot
	conn.lastUsed = time.Now().Add(-d)
	s.slot <- conn
	return conn
}

// awaitEnd waits until the end of the connection is there to be seen.
func awaitEnd(t *testing.T, conn *submission) {
	t.Helper()
	for start := time.Now(); !hasEnded(conn.bare); {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the end of the connection is not seen")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestSendAfterServerCloses: that the server has ended an idle connection, in whatever
// way, costs nothing but a new one: no command is tried on the old one.
func TestSendAfterServerCloses(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"closed":         func(c net.Conn) { c.Close() },
		"reset":          func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() },
		"421":            func(c net.Conn) { _, _ = c.Write([]byte("421 4.4.2 timeout\r\n")) },
		"421 and closed": func(c net.Conn) { _, _ = c.Write([]byte("421 4.4.2 timeout\r\n")); c.Close() },
		"half closed":    func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSMTPScript(t)
			sender := s.openSender(t)
			s.mu.Lock()
			conn := s.conns[0]
			s.mu.Unlock()
			end(conn)
			awaitEnd(t, sender.rest(0))
			if err := sender.send(t.Context(), []*transport.Message{topicMessage(1)}); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, command := range s.commands {
				if strings.HasPrefix(command, "1 MAIL") || strings.HasPrefix(command, "1 NOOP") {
					t.Errorf("%s on the old connection", command)
				}
			}
			if len(s.conns) != 2 {
				t.Errorf("%d connections, want 2", len(s.conns))
			}
		})
	}
}

// TestSendAfterServerClosesTLS: the end is seen below TLS, and an idle connection over TLS is not
// mistaken for one that has ended.
func TestSendAfterServerClosesTLS(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	account := server.Accounts()[0]
	for _, url := range []string{server.SMTPURL(), server.SMTPStartTLSURL()} {
		c, err := newCarrier(Config{SMTP: url, IMAP: "unused", CA: server.CACertPEM(), Username: account.Address, Password: account.Password,
			To: []string{account.Address}}, Options{Logger: quietLog})
		if err != nil {
			t.Fatal(err)
		}
		s := &c.sender
		if err := s.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		send := func() {
			t.Helper()
			if err := s.send(t.Context(), []*transport.Message{topicMessage(1)}); err != nil {
				t.Error(err)
			}
		}
		before := server.Stats().SMTPConnections
		send()
		send()
		if n := server.Stats().SMTPConnections - before; n != 0 {
			t.Errorf("%s: %d more connections for two mails, want none", url, n)
		}
		server.Disconnect(mailserver.SMTP)
		awaitEnd(t, s.rest(0))
		send()
		if n := server.Stats().SMTPConnections - before; n != 1 {
			t.Errorf("%s: %d more connections after the end of the first, want 1", url, n)
		}
		if err := s.close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// TestSendIntoBlackHole: a connection that a router has forgotten, so that nothing comes
// back on it, costs a moment.
func TestSendIntoBlackHole(t *testing.T) {
	s := newSMTPScript(t)
	sender := s.openSender(t)
	s.setReply(say(1, 1, "", "silence"))
	sender.rest(trustIdle)
	start := time.Now()
	if err := sender.send(t.Context(), []*transport.Message{topicMessage(1)}); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < probePatience || took > probePatience+5*time.Second {
		t.Errorf("it took %v", took)
	}
	if s.heard("NOOP") != 1 || s.heard("MAIL") != 1 || len(s.conns) != 2 {
		t.Errorf("%d times NOOP, %d mails on %d connections, want 1, 1, 2", s.heard("NOOP"), s.heard("MAIL"), len(s.conns))
	}
}

// TestSendAfterSlowAnswer: a connection that is only slow is used if there is no other.
func TestSendAfterSlowAnswer(t *testing.T) {
	s := newSMTPScript(t)
	sender := s.openSender(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	s.setReply(func(conn int, command string) string {
		switch {
		case conn == 1 && command == "NOOP":
			close(asked)
			s.mu.Unlock() // which is held for this call
			<-goOn
			s.mu.Lock()
		case conn == 2:
			defer close(goOn)
			return "close"
		}
		return ""
	})
	sender.rest(trustIdle)
	sent := make(chan error, 1)
	go func() { sent <- sender.send(t.Context(), []*transport.Message{topicMessage(1)}) }()
	<-asked
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if s.heard("MAIL") != 1 || len(s.conns) != 2 {
		t.Errorf("%d mails, %d connections, want 1, 2", s.heard("MAIL"), len(s.conns))
	}
}
