package email

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// smtpNet is a network with scripted SMTP servers, over net.Pipe, so that it works in a
// synctest bubble. Their names are a, b and so on.
type smtpNet struct {
	servers []*smtpScript
	log     strings.Builder

	mu sync.Mutex
	// state is "" for a server that works, "refused" for one where nobody listens, and "lost" for
	// one to which packets get lost.
	state []string
	dials []int
}

// withServers runs a test with a sender that knows that many servers. prepare may be nil;
// it runs before the sender connects.
func withServers(t *testing.T, count int, prepare func(*smtpNet), run func(*testing.T, *smtpNet, *sender)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &smtpNet{state: make([]string, count), dials: make([]int, count)}
		config := Config{SMTP: "smtp+insecure://a", IMAP: "unused", Username: "me@test", Password: "secret", To: []string{"a@test"}}
		for i := range count {
			n.servers = append(n.servers, &smtpScript{reply: usual})
			if i > 0 {
				config.SMTPFallbacks = append(config.SMTPFallbacks, fmt.Sprintf("smtp+insecure://%c", 'a'+i))
			}
		}
		if prepare != nil {
			prepare(n)
		}
		c, err := newCarrier(config, Options{Logger: slog.New(slog.NewTextHandler(&n.log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		s := &c.sender
		s.servers.dial = n.dial
		if err := s.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		run(t, n, s)
		if err := s.close(context.Background()); err != nil {
			t.Error(err)
		}
		for _, server := range n.servers {
			for _, conn := range server.conns {
				conn.Close()
			}
			server.serving.Wait()
		}
	})
}

func (n *smtpNet) dial(a *account, ctx context.Context) (link, error) {
	i := int(a.server.host[0] - 'a')
	n.mu.Lock()
	n.dials[i]++
	state := n.state[i]
	n.mu.Unlock()
	switch state {
	case "refused":
		return link{}, syscall.ECONNREFUSED
	case "lost":
		<-ctx.Done()
		return link{}, ctx.Err()
	}
	client, server := net.Pipe()
	n.servers[i].start(server)
	bare := deadlineConn{client}
	return link{bare, bare}, nil
}

func (n *smtpNet) set(i int, state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state[i] = state
}

// dialed returns how often a server has been tried.
func (n *smtpNet) dialed(i int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[i]
}

// cut ends the connections of a server.
func (n *smtpNet) cut(i int) {
	for _, conn := range n.servers[i].conns {
		conn.Close()
	}
}

func (n *smtpNet) mails(i int) int { return n.servers[i].heard("MAIL") }

func sendOne(s *sender) error {
	return s.send(context.Background(), []*transport.Message{topicMessage(1)})
}

// TestServersInOrder: what makes a server one that is down, and what does not.
func TestServersInOrder(t *testing.T) {
	for _, test := range []struct {
		name  string
		state string
		reply func(int, string) string // of the first server
		mails []int                    // that the servers have been offered
		took  time.Duration
		fails string
	}{
		{"all well", "", usual, []int{1, 0}, 0, ""},
		{"refused", "refused", usual, []int{0, 1}, 0, ""},
		{"lost", "lost", usual, []int{0, 1}, headStart, ""},
		{"silent", "", say(1, 100, "greeting", "silence"), []int{0, 1}, headStart, ""},
		{"greeting 421", "", say(1, 100, "greeting", "421 busy"), []int{0, 1}, 0, ""},
		{"greeting 554", "", say(1, 100, "greeting", "554 no service here"), []int{0, 1}, 0, ""},
		{"login 454", "", say(1, 100, "AUTH", "454 later"), []int{0, 1}, 0, ""},
		{"login 535", "", say(1, 100, "AUTH", "535 wrong password"), []int{0, 0}, 0, "535"},
		{"lost at MAIL", "", say(1, 100, "MAIL", "close"), []int{1, 1}, 0, ""},
		{"421 at MAIL", "", say(1, 100, "MAIL", "421 busy"), []int{1, 1}, 0, ""},
		{"451 at MAIL", "", say(1, 100, "MAIL", "451 busy"), []int{1, 0}, 0, "451"},
		{"550 at RCPT", "", say(1, 100, "RCPT", "550 no"), []int{1, 0}, 0, "550"},
		{"lost at the dot", "", say(1, 100, ".", "close"), []int{1, 0}, 0, "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			withServers(t, 2, nil, func(t *testing.T, n *smtpNet, s *sender) {
				n.cut(0)
				<-s.slot
				s.slot <- nil
				n.set(0, test.state)
				n.servers[0].setReply(test.reply)
				start := time.Now()
				err := sendOne(s)
				if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v, want %q", err, test.fails)
				}
				if n.mails(0) != test.mails[0] || n.mails(1) != test.mails[1] {
					t.Errorf("the servers have been offered %d and %d mails, want %v", n.mails(0), n.mails(1), test.mails)
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
			})
		})
	}
}

// TestServersAllDown: the error names all, and is temporary if one of them is.
func TestServersAllDown(t *testing.T) {
	withServers(t, 3, nil, func(t *testing.T, n *smtpNet, s *sender) {
		n.cut(0)
		n.set(0, "refused")
		n.set(2, "refused")
		n.servers[1].setReply(say(1, 100, "greeting", "554 5.3.2 no service"))
		err := sendOne(s)
		checkOutcome(t, err, transport.Temporary, 0, syscall.ECONNREFUSED, "at smtp+insecure://a:25")
		for _, want := range []string{"://b:25", "554", "://c:25"} {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q in it", err, want)
			}
		}
		if errors.Is(err, transport.ErrRefused) {
			t.Errorf("error %v says that sending is refused", err)
		}
	})
}

// TestServersComeBack: the preferred server is used again, within a minute or so of
// being back, without any delay for what is sent meanwhile.
func TestServersComeBack(t *testing.T) {
	withServers(t, 2, func(n *smtpNet) { n.set(0, "lost") }, func(t *testing.T, n *smtpNet, s *sender) {
		send := func() {
			t.Helper()
			start := time.Now()
			if err := sendOne(s); err != nil || time.Since(start) != 0 {
				t.Errorf("error %v after %v", err, time.Since(start))
			}
		}
		for range 150 {
			send()
			time.Sleep(time.Second)
		}
		if n.mails(0) != 0 || n.dialed(0) != 3 {
			t.Errorf("the first server has been offered %d mails and tried %d times, want 0 and 3", n.mails(0), n.dialed(0))
		}
		n.set(0, "")
		for range 90 {
			send()
			time.Sleep(time.Second)
		}
		if n.mails(0) < 25 || n.dialed(0) != 4 || n.dialed(1) != 1 {
			t.Errorf("the first server has been offered %d mails after %d tries, the second was tried %d times", n.mails(0), n.dialed(0), n.dialed(1))
		}
		if strings.Count(n.log.String(), "over another server") != 2 {
			t.Errorf("log:\n%s", n.log.String())
		}
	})
}

// TestServersComeBackUnused: what the look in the background has found is closed, too.
func TestServersComeBackUnused(t *testing.T) {
	withServers(t, 2, func(n *smtpNet) { n.set(0, "refused") }, func(t *testing.T, n *smtpNet, s *sender) {
		time.Sleep(2 * avoidFor)
		n.set(0, "")
		if err := sendOne(s); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n.dialed(0) != 2 {
			t.Errorf("the first server was tried %d times, want 2", n.dialed(0))
		}
	})
}

// TestManyWhileDown: many who send while no server can be reached share each failed
// attempt to connect; one alone makes all of its own.
func TestManyWhileDown(t *testing.T) {
	for _, state := range []string{"refused", "lost"} {
		withServers(t, 1, nil, func(t *testing.T, n *smtpNet, s *sender) {
			n.cut(0)
			n.set(0, state)
			const many = 100
			start := time.Now()
			errs := make(chan error, many)
			for range many {
				go func() { errs <- sendOne(s) }()
			}
			for range many {
				checkOutcome(t, <-errs, transport.Temporary, 0, nil, "smtp connection at smtp+insecure://a:25")
			}
			took, want := time.Since(start), time.Duration(0)
			if state == "lost" {
				want = connectTimeout
			}
			if took != want || n.dialed(0) != 2 {
				t.Errorf("%s: it took %v, and %d connections were tried, want %v and 2", state, took, n.dialed(0), want)
			}
		})
	}
	withServers(t, 1, nil, func(t *testing.T, n *smtpNet, s *sender) {
		n.cut(0)
		n.set(0, "refused")
		for failed := 1; failed < 20; failed++ {
			if err := sendOne(s); err == nil {
				t.Error("no error")
			}
			if n.dialed(0) != failed+1 {
				t.Fatalf("%d connections after %d attempts", n.dialed(0)-1, failed)
			}
			time.Sleep(min(50*time.Millisecond<<(failed-1), 15*time.Second)) // the shortest of backoff.Delay
		}
	})
}

// TestRefusedLogin: a wrong password is not tried over and over.
func TestRefusedLogin(t *testing.T) {
	withServers(t, 1, nil, func(t *testing.T, n *smtpNet, s *sender) {
		n.cut(0)
		n.servers[0].setReply(say(1, 100, "AUTH", "535 5.7.8 wrong password"))
		for range 100 {
			checkOutcome(t, sendOne(s), transport.Permanent, 535, transport.ErrRefused, "smtp login")
			time.Sleep(100 * time.Millisecond)
		}
		if n.dialed(0) != 2 {
			t.Errorf("%d logins were tried, want 1", n.dialed(0)-1)
		}
		n.servers[0].setReply(usual)
		time.Sleep(30 * time.Second)
		if err := sendOne(s); err != nil {
			t.Error(err)
		}
	})
}

// TestDeadlinesAreNoStumbles: a server that takes longer for its answer to the mail than callers wait is still sent commands in
// advance.
func TestDeadlinesAreNoStumbles(t *testing.T) {
	for _, offers := range offersOf[1:3] {
		prepare := func(n *smtpNet) {
			n.servers[0].offers = offers.offers
			n.servers[0].judge = func(mail string) string {
				if strings.Contains(mail, "late") {
					return "silence"
				}
				return ""
			}
		}
		withServers(t, 1, prepare, func(t *testing.T, n *smtpNet, s *sender) {
			for range 3 {
				late := topicMessage(1)
				late.Body = []byte("late")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := s.send(ctx, []*transport.Message{late})
				cancel()
				checkOutcome(t, err, transport.Unknown, 0, transport.ErrTimeout, "")
				if err := s.send(t.Context(), []*transport.Message{topicMessage(2)}); err != nil {
					t.Fatal(err)
				}
			}
			if s.servers.stumbles[0] > 0 || !s.servers.plain[0].IsZero() {
				t.Errorf("%s: %d stumbles, none in advance until %v", offers.name, s.servers.stumbles[0], s.servers.plain[0])
			}
		})
	}
}
