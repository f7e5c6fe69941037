package outbox_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
	"github.com/postbus/postbus/transport/transporttest"
)

func TestConformanceOnMail(t *testing.T) {
	var servers sync.Map // of *mailserver.Server by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			started, running := servers.Load(t)
			if !running {
				server, err := mailserver.Start(mailserver.Config{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { server.Close() })
				servers.Store(t, server)
				started = server
			}
			server := started.(*mailserver.Server)
			account := server.Accounts()[0]
			carrier, err := email.Open(context.Background(), email.Config{
				SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password,
				To: []string{account.Address},
			}, email.Options{Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			o, err := outbox.Open(carrier, outbox.Options{File: newFile(t), Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			return o
		},
		Features: transporttest.Features{Ordered: true, Last: true, Deduplicates: true, Group: true, OwnGroups: true},
		Timeout:  2 * time.Minute, // it is a slow test for a machine that does others at the same time
	})
}

func TestConformance(t *testing.T) {
	var buses sync.Map // of *intraprocess.Bus by testing.TB
	transporttest.Run(t, transporttest.Harness{
		Open: func(t testing.TB) transport.Carrier {
			bus, _ := buses.LoadOrStore(t, &intraprocess.Bus{History: 100})
			o, err := outbox.Open(bus.(*intraprocess.Bus).Attach(), outbox.Options{File: newFile(t), Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			return o
		},
		Features: transporttest.Features{Ordered: true, Durable: true, Group: true, Last: true},
	})
}
