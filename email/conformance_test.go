package email_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"go.uber.org/goleak"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/transporttest"
)

func TestMain(m *testing.M) {
	if order := os.Getenv(memberEnv); order != "" {
		if err := beMember(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	_ = flag.Set("test.parallel", "8") // they wait most of the time; what the command line says still counts
	goleak.VerifyTestMain(m)
}

// timeout is how long tests wait for what must happen.
const timeout = 30 * time.Second

// quiet discards the log.
var quiet = slog.New(slog.DiscardHandler)

func TestConformance(t *testing.T) {
	for _, mode := range []struct {
		name   string
		config mailserver.Config
		adjust func(t testing.TB, c *email.Config, s *mailserver.Server, n int) // of the nth participant
		group  bool
	}{
		{name: "own mailboxes, TLS and LMTP over a socket", config: mailserver.Config{TLS: true, LMTPAddr: "a socket"}, adjust: func(_ testing.TB, c *email.Config, s *mailserver.Server, n int) {
			if n%2 == 0 {
				c.SMTP = s.LMTPURL()
			}
		}},
		{name: "shared mailbox, STARTTLS and LMTP over TCP", config: mailserver.Config{TLS: true, LMTPAddr: "127.0.0.1:0"}, group: true, adjust: func(_ testing.TB, c *email.Config, s *mailserver.Server, n int) {
			shareAccount(c, s)
			c.SMTP, c.IMAP = s.SMTPStartTLSURL(), s.IMAPStartTLSURL()
			if n%2 == 1 {
				c.SMTP = s.LMTPURL()
			}
		}},
		{name: "batches", group: true, adjust: func(_ testing.TB, c *email.Config, s *mailserver.Server, _ int) {
			shareAccount(c, s)
			c.Batch.On = true
		}},
		{name: "appended to another folder", config: mailserver.Config{TLS: true}, group: true, adjust: func(t testing.TB, c *email.Config, s *mailserver.Server, _ int) {
			shareAccount(c, s)
			makeFolder(t, s, "Team/Robots")
			c.SMTP, c.To = s.IMAPURL()+"/Team/Robots", nil
			c.IMAP = s.IMAPStartTLSURL() + "/Team/Robots"
		}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			var groups sync.Map  // of *group by testing.TB
			var configs sync.Map // of email.Config by transport.Carrier
			reopen := func(t testing.TB, c email.Config) transport.Carrier {
				carrier := open(t, c)
				configs.Store(carrier, c)
				return carrier
			}
			transporttest.Run(t, transporttest.Harness{
				Reopen: func(t testing.TB, closed transport.Carrier) transport.Carrier {
					c, _ := configs.LoadAndDelete(closed)
					return reopen(t, c.(email.Config))
				},
				Open: func(t testing.TB) transport.Carrier {
					g, ok := groups.Load(t)
					if !ok {
						g = newGroup(t, mode.config)
						groups.Store(t, g)
					}
					c, n := g.(*group).next()
					mode.adjust(t, &c, g.(*group).server, n)
					c.State = filepath.Join(t.TempDir(), "state")
					return reopen(t, c)
				},
				Features: transporttest.Features{Ordered: true, Durable: true, Last: true, Deduplicates: true, Group: mode.group, OwnGroups: true},
			})
		})
	}
}

// shareAccount gives a node the first account, as all others.
func shareAccount(c *email.Config, s *mailserver.Server) {
	account := s.Accounts()[0]
	c.Username, c.Password, c.To = account.Address, account.Password, []string{account.Address}
}

// makeFolder sees to it that the first account has a folder.
func makeFolder(t testing.TB, s *mailserver.Server, name string) {
	t.Helper()
	err := loginTLS(t, s).Create(name, nil).Wait()
	if reply, _ := errors.AsType[*imap.Error](err); err != nil && (reply == nil || reply.Code != imap.ResponseCodeAlreadyExists) {
		t.Fatal(err)
	}
}

// loginTLS returns a client of the first account.
func loginTLS(t testing.TB, s *mailserver.Server) *imapclient.Client {
	t.Helper()
	account := s.Accounts()[0]
	conn, err := tls.Dial("tcp", s.IMAPAddr(), s.ClientTLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	c := imapclient.New(conn, nil)
	t.Cleanup(func() { c.Close() })
	if err := c.Login(account.Address, account.Password).Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

// group is a server with an account for each of a few nodes.
type group struct {
	server *mailserver.Server
	mu     sync.Mutex
	opened int
}

func newGroup(t testing.TB, config mailserver.Config) *group {
	t.Helper()
	for i := range transporttest.MaxParticipants {
		config.Accounts = append(config.Accounts, mailserver.Account{Address: fmt.Sprintf("node%d@localhost.test", i), Password: "secret"})
	}
	if config.LMTPAddr == "a socket" {
		folder, err := os.MkdirTemp("", "lmtp") // t's may have too long a name
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		config.LMTPAddr = filepath.Join(folder, "socket")
	}
	server, err := mailserver.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return &group{server: server}
}

// next returns the configuration of the next node, which sends to all, and its number.
func (g *group) next() (c email.Config, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	accounts := g.server.Accounts()
	n = g.opened
	c = email.Config{
		SMTP: g.server.SMTPURL(), IMAP: g.server.IMAPURL(), CA: g.server.CACertPEM(),
		Username: accounts[n].Address, Password: accounts[n].Password,
	}
	for _, account := range accounts {
		c.To = append(c.To, account.Address)
	}
	g.opened++
	return c, n
}

// open opens a carrier without closing it.
func open(t testing.TB, c email.Config) *email.Carrier {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	carrier, err := email.Open(ctx, c, email.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return carrier
}
