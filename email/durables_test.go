package email

import (
	"io"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-imap/v2"

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

// TestDurableKeepsWhenMisused: a durable name that is stated for something else, in vain, still needs what it
// has not settled.
func TestDurableKeepsWhenMisused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		path := filepath.Join(t.TempDir(), "state")
		l := newLife(t, s, path, io.Discard)
		l.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}, func(transport.Delivery) {})
		s.addMessages(1, 3)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.end()
		l = newLife(t, s, path, io.Discard)
		defer l.end()
		if _, err := l.durables.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/other", Durable: "d"}, nil); err == nil {
			t.Fatal("a durable name was used for something else")
		}
		from, open := l.durables.keeps(7)
		slices.Sort(open)
		if from != 4 || !slices.Equal(open, []imap.UID{1, 2, 3}) {
			t.Errorf("it keeps what is from %d on, and %d", from, open)
		}
	})
}

// TestDurableRepetitionsBounded: requests that have been handled and come again do not fill the memory
// while another one is being handled.
func TestDurableRepetitionsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, newScript(t), filepath.Join(t.TempDir(), "state"), io.Discard)
		defer l.end()
		var last transport.Delivery
		stop := l.receive(transport.Interest{Kind: transport.Request, Name: "/t", Durable: "d", InFlight: 1}, func(d transport.Delivery) { last = d })
		defer stop()
		synctest.Wait()
		d := l.durables.names["d"]
		offer := func(uid imap.UID, n uint64) bool {
			m := &transport.Message{Kind: transport.Request, Name: "/t"}
			m.Info.PublisherGID, m.Info.Sequence = transport.GID{1}, n
			return d.offer(uid, m, time.Time{})
		}
		offer(1, 1)
		if err := last.Ack(); err != nil {
			t.Fatal(err)
		}
		offer(2, 2) // takes the only place, and the next one waits
		offer(3, 3)
		taken := 0
		for taken < 2*readyMessages && offer(imap.UID(4+taken), 1) {
			taken++
		}
		if taken > readyMessages {
			t.Errorf("%d repetitions wait", taken)
		}
	})
}
