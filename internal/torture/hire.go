package torture

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/internal/torture/worker"
)

// link is a worker's way to a server.
type link struct {
	*proxy.Proxy
	worker, protocol string
}

// hire makes the workers of the load, each with a proxy of its own to each server.
func (r *run) hire() error {
	from, to, err := r.Server.Accounts()
	if err != nil {
		return err
	}
	l := r.Load
	base := worker.Config{History: r.path, Topic: r.topic, Every: l.Every, Timeout: l.Timeout, Work: l.Work,
		MaxBody: l.MaxBody, Lease: l.Lease, GapWait: l.GapWait, NackEvery: l.NackEvery, Seed: r.Seed}
	if base.Timeout == 0 {
		base.Timeout = time.Minute
	}
	if l.Batch {
		from.Mail.Batch.On, to.Mail.Batch.On = true, true
		base.Parallel = 8
	}
	base.Account = to
	for i := range l.Plains {
		c := base
		c.Role, c.Mode = worker.Subscription, history.Plain
		if to.NATS != nil {
			c.Mode = history.Live // what comes while the connection is lost is for those who remember
		}
		r.add("plain", i, c, 0)
	}
	for i := range l.Durables {
		c := base
		c.Role, c.Mode, c.Receiver = worker.Subscription, history.Durable, fmt.Sprintf("durable-%d", i)
		c.Mail.State = filepath.Join(r.Dir, c.Receiver+".state")
		r.add("durable", i, c, 0)
	}
	for i := range l.Members {
		c := base
		c.Role, c.Mode, c.Receiver = worker.Subscription, history.Group, "group"
		r.add("member", i, c, 0)
	}
	for i := range l.Servers {
		c := base
		c.Role, c.Mode, c.Topic = worker.Server, cmp.Or(l.ServerMode, history.Plain), r.service
		switch c.Mode {
		case history.Durable:
			c.Receiver = fmt.Sprintf("server-%d", i)
			c.Mail.State = filepath.Join(r.Dir, c.Receiver+".state")
		case history.Group:
			c.Receiver = "servers"
		}
		r.add("server", i, c, 0)
	}
	base.Account = from
	for i := range l.Publishers + l.Outboxes {
		c := base
		c.Role = worker.Publisher
		name := "publisher"
		if i >= l.Publishers {
			name = "outbox"
			c.Outbox = filepath.Join(r.Dir, fmt.Sprintf("%s-%d.outbox", name, i))
		}
		r.add(name, i, c, share(l.Messages, l.Publishers+l.Outboxes, i))
	}
	for i := range l.Clients {
		c := base
		c.Role, c.Topic = worker.Client, r.service
		r.add("client", i, c, share(l.Calls, l.Clients, i))
	}
	for _, c := range r.children {
		if err := r.connect(c); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) add(name string, i int, config worker.Config, total uint64) {
	r.children = append(r.children, &child{run: r, name: fmt.Sprintf("%s-%d", name, i), config: config, total: total})
}

// share is the part of the i-th of n in a total.
func share(total, n, i int) uint64 {
	part := total / n
	if i < total%n {
		part++
	}
	return uint64(part)
}

// connect puts proxies between a worker and its servers, if the servers are on this
// machine: others would see another host name than their certificates'.
func (r *run) connect(c *child) error {
	if c.config.NATS != nil {
		config := *c.config.NATS // the workers share it
		config.Servers = slices.Clone(config.Servers)
		for i := range config.Servers {
			if err := r.detour(c, "nats", &config.Servers[i]); err != nil {
				return err
			}
		}
		c.config.NATS = &config
		return nil
	}
	return errors.Join(r.detour(c, "smtp", &c.config.Mail.SMTP), r.detour(c, "imap", &c.config.Mail.IMAP))
}

// detour puts a proxy in front of a server, and its address into the URL.
func (r *run) detour(c *child, protocol string, address *string) error {
	u, err := url.Parse(*address)
	if err != nil || u.Port() == "" || !local(u.Hostname()) {
		return nil
	}
	p, err := proxy.Listen(net.JoinHostPort("127.0.0.1", u.Port()))
	if err != nil {
		return err
	}
	r.proxies = append(r.proxies, &link{p, c.name, protocol})
	_, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		return err
	}
	u.Host = net.JoinHostPort(u.Hostname(), port)
	*address = u.String()
	return nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// accounts returns the configurations of two accounts of one server: from writes to to.
func accounts(smtp, imap string, ca []byte, from, fromPassword, to, toPassword string) (email.Config, email.Config) {
	config := email.Config{SMTP: smtp, IMAP: imap, CA: ca, To: []string{to}}
	a, b := config, config
	a.Username, a.Password = from, fromPassword
	b.Username, b.Password = to, toPassword
	return a, b
}
