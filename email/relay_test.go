package email_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/transporttest"
)

// relay is a mail server without mailboxes: it has a queue for each node that listens, from which it
// delivers.
type relay struct {
	addr string

	mu      sync.Mutex
	queues  map[string]chan relayed // by address
	running sync.WaitGroup
}

// relayed is a mail in a queue.
type relayed struct {
	from string
	raw  []byte
}

func newRelay(t testing.TB) *relay {
	t.Helper()
	r := &relay{queues: make(map[string]chan relayed)}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &relaySession{relay: r}, nil }))
	s.AllowInsecureAuth = true
	s.Domain = "relay.test"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }() // it ends by Close
	t.Cleanup(func() {
		s.Close()
		<-served
		for _, queue := range r.queues {
			close(queue)
		}
		r.running.Wait()
	})
	return r
}

// node opens the node of an address, which sends to all. One in two is delivered to by LMTP over a socket, the others by SMTP.
func (r *relay) node(t testing.TB, n int) *email.Carrier {
	t.Helper()
	address := fmt.Sprintf("node%d@localhost.test", n)
	c := email.Config{SMTP: "smtp+insecure://" + r.addr, Username: address, Password: "secret", IMAP: "smtp+insecure://localhost"}
	for i := range transporttest.MaxParticipants {
		c.To = append(c.To, fmt.Sprintf("node%d@localhost.test", i))
	}
	network, at := "tcp", "127.0.0.1:0"
	if n%2 == 0 {
		network, at = "unix", filepath.Join(t.TempDir(), "s")
		c.IMAP = "lmtp+unix://" + at
	}
	socket, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	queue := make(chan relayed, 1<<14)
	r.mu.Lock()
	r.queues[address] = queue
	r.mu.Unlock()
	r.running.Go(func() { r.work(t, socket.Addr(), address, queue) })
	carrier, err := email.Listen(t.Context(), socket, c, email.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return carrier
}

// relaySession is a connection to the relay.
type relaySession struct {
	relay *relay
	from  string
	to    []string
}

func (s *relaySession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *relaySession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, _, _ string) error { return nil }), nil
}

func (s *relaySession) Mail(from string, _ *smtp.MailOptions) error {
	s.from, s.to = from, nil
	return nil
}

func (s *relaySession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *relaySession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.relay.mu.Lock()
	defer s.relay.mu.Unlock()
	for _, to := range s.to {
		if queue := s.relay.queues[to]; queue != nil {
			queue <- relayed{s.from, raw}
		}
	}
	return nil
}

// work delivers what is in a queue.
func (r *relay) work(t testing.TB, at net.Addr, to string, queue <-chan relayed) {
	for m := range queue {
		err := r.deliver(at, to, m)
		reply, _ := errors.AsType[*smtp.SMTPError](err)
		switch {
		case reply == nil || reply.Code == 421: // that node is closed
		case reply.Code == 451: // or it has no interests, and gets the mail when it has
		default:
			t.Error(err)
		}
	}
}

func (r *relay) deliver(at net.Addr, to string, m relayed) error {
	conn, err := net.Dial(at.Network(), at.String())
	if err != nil {
		return err
	}
	client := smtp.NewClient(conn)
	if at.Network() == "unix" {
		client = smtp.NewClientLMTP(conn)
	}
	defer client.Close()
	if err := client.Hello("relay.test"); err != nil {
		return err
	}
	if err := client.SendMail(m.from, []string{to}, bytes.NewReader(m.raw)); err != nil {
		return err
	}
	return client.Quit()
}

func (s *relaySession) Reset()        {}
func (s *relaySession) Logout() error { return nil }

// TestListenConformance: nodes to which a mail server delivers.
func TestListenConformance(t *testing.T) {
	var relays, opened sync.Map // of *relay and *int by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			r, ok := relays.Load(t)
			n, _ := opened.LoadOrStore(t, new(int))
			if !ok {
				r = newRelay(t)
				relays.Store(t, r)
			}
			*n.(*int)++
			return r.(*relay).node(t, *n.(*int)-1)
		},
		Features: transporttest.Features{Ordered: true, Deduplicates: true},
	})
}
