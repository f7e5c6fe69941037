package email

import (
	"strings"
	"testing"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
)

// wholeFlight reports whether a flight is all that a client can send before it needs an answer. The mails of
// this test end with a blank line and a line of text.
func wholeFlight(flight string) bool {
	for _, end := range []string{"\r\nDATA\r\n", "\r\n.\r\n", "\r\nRCPT TO:<peer@localhost.test>\r\n", "\r\nRCPT TO:<robot@localhost.test>\r\n", "\r\n\r\nhello\r\n"} {
		if strings.HasSuffix(flight, end) {
			return true
		}
	}
	return false
}

// TestFlights: how many round trips a mail takes.
func TestFlights(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	robot, peer := server.Accounts()[0], server.Accounts()[1]
	p, err := proxy.Listen(strings.TrimPrefix(server.SMTPURL(), "smtp+insecure://"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := Open(t.Context(), Config{SMTP: "smtp+insecure://" + p.Addr(), IMAP: server.IMAPURL(), Username: robot.Address, Password: robot.Password}, Options{Logger: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	conn := <-c.sender.slot
	c.sender.slot <- conn
	for _, test := range []struct {
		name                 string
		pipelining, chunking bool
		to                   []string
		padding              int // bytes of the mail, besides
		want                 int
	}{
		{"PIPELINING", true, false, []string{robot.Address}, 0, 2},
		{"PIPELINING, two recipients", true, false, []string{robot.Address, peer.Address}, 0, 2},
		{"CHUNKING", true, true, []string{robot.Address}, 0, 1},
		{"CHUNKING, four KiB", true, true, []string{robot.Address}, 4096, 2},
		{"CHUNKING, two recipients", true, true, []string{robot.Address, peer.Address}, 0, 2},
	} {
		conn.pipelining, conn.chunking = test.pipelining, test.chunking
		p.CountFlights(wholeFlight)
		m := topicMessage(1)
		m.To = test.to
		if test.padding > 0 {
			m.Body = []byte(strings.Repeat(strings.Repeat("x", 62)+"\r\n", test.padding/64) + "\r\nhello\r\n")
		}
		if err := c.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if flights := p.Flights(); len(flights) != test.want {
			t.Errorf("%s: %d flights, want %d: %q", test.name, len(flights), test.want, flights)
		}
	}
	p.CountFlights(nil)
	if open, total := p.Connections(); open != 1 || total != 1 {
		t.Errorf("%d connections, of which %d are open", total, open)
	}
}
