//go:build integration

package email_test

import (
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

// TestRealBatches: messages that are sent at the same time travel as one mail, and come once, each
// publisher's in order.
func TestRealBatches(t *testing.T) {
	config, _ := real(t)
	config.To = []string{config.Username}
	config.Batch.On = true
	c := open(t, config)
	defer closeCarrier(t, c)
	name := "/" + transport.NewGID().String()
	got, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: name, GapWait: time.Minute})
	const publishers, each = 200, 80 // no more than can be held back, should Postfix put a batch off
	start := time.Now()
	var sending sync.WaitGroup
	for range publishers {
		gid := transport.NewGID()
		sending.Go(func() {
			for n := uint64(1); n <= each; n++ {
				m := &transport.Message{Kind: transport.TopicMessage, Name: name, Body: []byte(payload), ID: transport.NewID(gid, n, "test")}
				m.Info = transport.Info{PublisherGID: gid, Sequence: n, SourceTime: time.Now()}
				if err := c.Send(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := make(map[transport.GID]uint64)
	for range publishers * each {
		m := got.next(t).Message
		if gid := m.Info.PublisherGID; m.Info.Sequence != last[gid]+1 || string(m.Body) != payload {
			t.Fatalf("message %d of %v came after %d: %q", m.Info.Sequence, gid, last[gid], m.Body)
		}
		last[m.Info.PublisherGID]++
	}
	sending.Wait()
	t.Logf("%.0f messages a second", publishers*each/time.Since(start).Seconds())
}
