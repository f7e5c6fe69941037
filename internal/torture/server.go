package torture

import (
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/worker"
)

// Server is a mail server, or one of NATS, that can be taken away.
type Server interface {
	// Accounts returns the accounts of those who publish and call, and of those who receive
	// and serve. By mail both write to the second.
	Accounts() (from, to worker.Account, err error)
	// Outages returns what can be done to the server.
	Outages() []Outage
}

// Outage is something that can be done to a server.
type Outage struct {
	Name string
	// Begin takes the server away, or breaks connections.
	Begin func() error
	// End puts it back. Nil if there is nothing to put back.
	End func() error
}

// Embedded is the server of package mailserver, in this process.
type Embedded struct{ *mailserver.Server }

var _ Server = Embedded{}

// StartEmbedded starts a server with room for a long run.
func StartEmbedded() (Embedded, error) {
	server, err := mailserver.Start(mailserver.Config{MaxMailboxBytes: 8 << 30, MaxConnections: 1024})
	return Embedded{server}, err
}

// Accounts implements Server.
func (e Embedded) Accounts() (from, to worker.Account, err error) {
	a := e.Server.Accounts()
	from.Mail, to.Mail = accounts(e.SMTPURL(), e.IMAPURL(), nil, a[0].Address, a[0].Password, a[1].Address, a[1].Password)
	return from, to, nil
}

// Outages implements Server.
func (e Embedded) Outages() []Outage {
	var all []Outage
	for name, service := range map[string]mailserver.Service{"smtp": mailserver.SMTP, "imap": mailserver.IMAP} {
		all = append(all,
			Outage{name + "-stop", func() error { e.Stop(service); return nil }, func() error { return e.Resume(service) }},
			Outage{name + "-disconnect", func() error { e.Disconnect(service); return nil }, nil})
	}
	return append(all, Outage{Name: "renumber", Begin: func() error { return e.Renumber(e.Server.Accounts()[1].Address) }})
}
