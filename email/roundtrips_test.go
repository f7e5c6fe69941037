package email

import (
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
)

// wholeLook reports whether a flight is all that a receiver can send before it needs an answer: DONE alone
// is not.
func wholeLook(flight string) bool {
	return strings.HasSuffix(flight, ")\r\n") || strings.HasSuffix(flight, "IDLE\r\n")
}

// wholePublication is the same for a sender, by whatever way.
func wholePublication(flight string) bool {
	return wholeFlight(flight) || strings.HasSuffix(flight, "}\r\n") || strings.HasSuffix(flight, "\r\n\r\n") ||
		strings.Contains(flight, "\r\nBDAT ") && strings.HasSuffix(flight, "\r\n")
}

// TestRoundTrips: how many round trips it takes from publishing until a subscriber in IDLE has the body.
// One of them is always that of the FETCH; the announcement comes by itself.
func TestRoundTrips(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	way := func(address string) *proxy.Proxy {
		p, err := proxy.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	submitting, appending, receiving := way(server.SMTPAddr()), way(server.IMAPAddr()), way(server.IMAPAddr())
	account := server.Accounts()[0]
	for _, test := range []struct {
		name                 string
		url                  string
		sending              *proxy.Proxy
		pipelining, chunking bool
		size, most           int
	}{
		{"SMTP with PIPELINING", "smtp+insecure://" + submitting.Addr(), submitting, true, false, 100, 3},
		{"SMTP with CHUNKING", "smtp+insecure://" + submitting.Addr(), submitting, true, true, 100, 2},
		{"SMTP with CHUNKING, 60 kB", "smtp+insecure://" + submitting.Addr(), submitting, true, true, 45_000, 3},
		{"APPEND", "imap+insecure://" + appending.Addr(), appending, false, false, 100, 2},
		{"APPEND, nearly 4 KiB", "imap+insecure://" + appending.Addr(), appending, false, false, 2500, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Open(t.Context(), Config{SMTP: test.url, IMAP: "imap+insecure://" + receiving.Addr(), Username: account.Address, Password: account.Password,
				To: []string{account.Address}}, Options{Logger: quietLog})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			conn := <-c.sender.slot
			conn.pipelining, conn.chunking = test.pipelining, test.chunking
			c.sender.slot <- conn
			flights := make(chan []string, 1)
			_, err = c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", GapWait: -1}, func(transport.Delivery) {
				flights <- receiving.Flights()
			})
			if err != nil {
				t.Fatal(err)
			}
			var sent, received []string
			// A look that comes by chance meanwhile only adds flights: the least counts.
			for n := 1; n <= 20 && (n == 1 || len(sent)+len(received) > test.most); n++ {
				for server.Stats().Idling == 0 {
					time.Sleep(time.Millisecond)
				}
				test.sending.CountFlights(wholePublication)
				receiving.CountFlights(wholeLook)
				m := topicMessage(n)
				m.Body = []byte(strings.Repeat("x", test.size))
				if err := c.Send(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				if got := <-flights; received == nil || len(got) < len(received) {
					sent, received = test.sending.Flights(), got
				}
				receiving.CountFlights(nil)
				test.sending.CountFlights(nil)
			}
			if len(sent)+len(received) > test.most {
				t.Errorf("%d flights to publish and %d to receive, want %d at most: %.500q %q", len(sent), len(received), test.most, sent, received)
			}
		})
	}
}
