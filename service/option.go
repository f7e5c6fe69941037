package service

import (
	"time"

	"github.com/postbus/postbus/transport"
)

// ServerOption is an option of NewServer.
type ServerOption interface{ server(*serving) }

// serving is what the options of a server say.
type serving struct {
	interest    transport.Interest
	concurrency int
	cached      bool
	ttl         time.Duration // of what is cached
}

// ConcurrencyOption is an option of servers. See Concurrency.
type ConcurrencyOption int

// Concurrency lets Handle work on at most n requests at once; n below 1 counts as 1.
// The default is DefaultConcurrency. A durable server or a member of a group also takes no more than n requests
// at once from the carrier.
func Concurrency(n int) ConcurrencyOption { return ConcurrencyOption(max(n, 1)) }

func (n ConcurrencyOption) server(s *serving) { s.concurrency = int(n) }

type serverOption func(*transport.Interest)

func (o serverOption) server(s *serving) { o(&s.interest) }

// Durable makes the server durable: under this name the carrier remembers which requests have been
// answered. A server of the same name, in this process or a later one, gets what has arrived since and what
// was not answered. The name begins to count when it is first used; only one server at a time can have
// it (transport.ErrInUse). It is 1 to 64 of A-Z a-z 0-9 _ -.
func Durable(name string) ServerOption {
	return serverOption(func(i *transport.Interest) { i.Durable = name })
}

// Group makes the server a member of a group: of all its members, in any number of nodes, with the same
// service or pattern, exactly one gets each request. What a member has not answered when it leaves, or
// when it has been silent for a lease, goes to another. A group remembers by itself what arrives when
// it has no member, and does not go together with Durable. For the name see Durable.
func Group(name string) ServerOption {
	return serverOption(func(i *transport.Interest) { i.Group = name })
}

// Lease is how long a member of a group may be silent, because its process or network has died,
// before others get what it had not answered. The default is transport.DefaultLease, the least
// transport.MinLease, the longest transport.MaxLease. It is an error without Group.
func Lease(d time.Duration) ServerOption {
	return serverOption(func(i *transport.Interest) { i.Lease = d })
}
