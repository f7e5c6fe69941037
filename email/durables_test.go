package email

import (
	"io"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// TestDurableAgainWhileRenumbered: a durable name that is given up and used again while the inbox is read
// again because it has been renumbered misses nothing.
func TestDurableAgainWhileRenumbered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		s.addOld(1, 1)
		l := newLife(t, s, filepath.Join(t.TempDir(), "state"), io.Discard)
		defer l.end()
		var got []uint64
		interest := transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}
		stop := l.receive(interest, func(transport.Delivery) {})
		synctest.Wait()
		stop()
		synctest.Wait()
		s.addMessages(2, 400)
		s.renumber(1001)
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command == "UID FETCH" {
				if _, partial := c.parseSet(args); partial > 0 && c.dates {
					time.Sleep(time.Second)
				}
			}
			return false
		}
		s.conns[0].Close()
		stop = l.receive(interest, func(transport.Delivery) {})
		time.Sleep(3 * time.Second)
		stop()
		stop = l.receive(interest, func(d transport.Delivery) {
			got = append(got, d.Message.Info.Sequence)
			go func() { _ = d.Ack() }()
		})
		defer stop()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if !slices.Equal(got, upTo(2, 400)) {
			t.Errorf("got %v", got)
		}
	})
}
