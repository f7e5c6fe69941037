package nats

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/internal/backoff"
)

// reconnection says when to try to connect again, and to which server. nats.go's own way has no pause before all servers but one have been
// tried, and none at all after a write that failed. It holds its lock while it connects, so that who waited with a message for that lock
// would not hear that a connection was lost, and send the message ahead of those that were lost with it.
type reconnection struct {
	last  atomic.Pointer[string] // the URL of the last server
	tried atomic.Int64           // attempts since there was a connection
}

// switchPause is how long to wait before the next server is tried: long enough for whoever waits for the lock.
const switchPause = 20 * time.Millisecond

// connected notes a connection.
func (r *reconnection) connected(conn *nats.Conn) {
	url := conn.ConnectedUrl()
	r.last.Store(&url)
	r.tried.Store(0)
}

// next is a nats.ReconnectToServerHandler: it takes the servers in turn, beginning with the one after the last.
func (r *reconnection) next(servers []nats.Server, _ nats.ServerInfo) (*nats.Server, time.Duration) {
	if len(servers) == 0 {
		return nil, 0
	}
	first := 0
	if last := r.last.Load(); last != nil {
		first = 1 + slices.IndexFunc(servers, func(s nats.Server) bool { return s.URL.String() == *last })
	}
	tried := int(r.tried.Add(1)) - 1
	pause := switchPause
	if tried%len(servers) == 0 {
		pause = reconnectDelay(tried/len(servers) + 1)
	}
	return &servers[(first+tried)%len(servers)], pause
}

// reconnectDelay returns how long to wait when all servers have been tried so many times. It grows to 3.2 seconds and not to
// backoff.Longest: an attempt costs a server little that is there, and the messages of all subscriptions wait for it.
func reconnectDelay(failed int) time.Duration { return backoff.Delay(min(failed, 6)) }
