package email_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// TestCollectMany: what many publishers send at once arrives, each publisher's in order, nothing twice, in far fewer mails.
func TestCollectMany(t *testing.T) {
	const publishers, each = 50, 40
	bench := newBench(t, mailserver.Config{}, quiet)
	config := bench.config()
	config.Batch.On = true
	c := open(t, config)
	defer closeCarrier(t, c)
	var sending sync.WaitGroup
	for range publishers {
		gid := transport.NewGID()
		sending.Go(func() {
			for n := uint64(1); n <= each; n++ {
				m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: fmt.Append(nil, n), ID: transport.NewID(gid, n, "test")}
				m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = gid, n, time.Now()
				if err := c.Send(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := make(map[transport.GID]uint64)
	for range publishers * each {
		select {
		case m := <-bench.got:
			if gid := m.Info.PublisherGID; m.Info.Sequence != last[gid]+1 || string(m.Body) != fmt.Sprint(m.Info.Sequence) {
				t.Fatalf("message %d with body %q after message %d", m.Info.Sequence, m.Body, last[gid])
			}
			last[m.Info.PublisherGID]++
		case <-time.After(timeout):
			t.Fatal("messages are missing")
		}
	}
	sending.Wait()
	if mails := bench.server.Stats().Accepted; mails > publishers*each/4 {
		t.Errorf("%d messages took %d mails", publishers*each, mails)
	}
}
