package nats_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// olden listens for the clients of a server, and has it say that it is of an old version.
func olden(t *testing.T, s *server.Server) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			conn, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				client.Close()
				return
			}
			all.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, client)
			})
			all.Go(func() {
				defer client.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					line := strings.ReplaceAll(lines.Text(), `"version":"`+server.VERSION, `"version":"2.10.29`)
					if _, err := io.WriteString(client, line+"\r\n"); err != nil {
						return
					}
				}
			})
		}
	})
	return "nats://" + listener.Addr().String()
}

// TestOldServer: what a server is too old for is said before anything is created.
func TestOldServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	url := olden(t, s)
	withCache := config(s)
	withCache.Cache.Bucket = "results"
	for what, c := range map[string]nats.Config{"stream KEPT": kept(s), "bucket results": withCache} {
		c.Servers = []string{url}
		_, err := nats.Open(limited(t), c, nats.Options{Logger: quiet})
		if !errors.Is(err, transport.ErrNotSupported) || !strings.Contains(err.Error(), what+": it needs nats-server 2.11 or later, and the server is 2.10.29") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for name := range jetStream(t, s).StreamNames(limited(t)).Name() {
		t.Errorf("the stream %s is there", name)
	}
	c := config(s)
	c.Servers = []string{url}
	c.Objects.Bucket = "bodies" // which old servers have
	open(t, c)
}
