package nats

import (
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// Servers are tried in turn, the last one at the end, with a pause before each; and a server that is there for moments only must be met there.
func TestReconnection(t *testing.T) {
	const longest = 3200 * time.Millisecond
	var servers []nats.Server
	for _, host := range []string{"a", "b", "c"} {
		servers = append(servers, nats.Server{URL: &url.URL{Scheme: "nats", Host: host}})
	}
	r := new(reconnection)
	last := "nats://b"
	r.last.Store(&last)
	for n := range 1000 {
		s, pause := r.next(servers, nats.ServerInfo{})
		if want := []string{"c", "a", "b"}[n%3]; s.URL.Host != want {
			t.Fatalf("attempt %d is at %s, want %s", n, s.URL.Host, want)
		}
		switch {
		case n%3 != 0 && pause != switchPause, n%3 == 0 && pause < switchPause, pause > longest, n%3 == 0 && n > 15 && pause < longest/2:
			t.Fatalf("the pause before attempt %d is %v", n, pause)
		}
	}
	last = "nats://elsewhere" // it is not in the list any more
	if s, _ := new(reconnection).next(servers, nats.ServerInfo{}); s.URL.Host != "a" {
		t.Errorf("the first attempt is at %s", s.URL.Host)
	}
	if s, _ := r.next(nil, nats.ServerInfo{}); s != nil {
		t.Error("there is a server in an empty list")
	}
}
