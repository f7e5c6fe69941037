package email

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

func TestSentBatches(t *testing.T) {
	var s sentBatches
	id := func(n int) transport.ID { return transport.ParseID(fmt.Sprintf("%d@x", n)) }
	ids := make([]transport.ID, 100)
	const last = 2 * rememberedMessages / 100
	for n := range last + 1 {
		ids[0] = id(-n)
		s.add(id(n), slices.Clone(ids))
	}
	if got := s.messages(id(last)); len(got) != 100 || got[0] != id(-last) {
		t.Errorf("of the last batch it knows %v", got)
	}
	if got := s.messages(id(0)); got != nil {
		t.Errorf("of the first batch it still knows %v", got)
	}
	if s.count > rememberedMessages || s.count < rememberedMessages-100 || len(s.in) != len(s.order) || len(s.in) != s.count/100 {
		t.Errorf("it knows %d messages of %d batches, %d in order", s.count, len(s.in), len(s.order))
	}
	if (*sentBatches)(nil).messages(id(1)) != nil {
		t.Error("nothing remembers something")
	}
}

// batchMail returns a mail with the messages from first to last that script's messageMail makes.
func batchMail(t testing.TB, first, last int) string {
	t.Helper()
	publisher := transport.GID{1}
	batch, err := wire.NewBatch(transport.NewID(transport.GID{2}, uint64(first), "host.test"), wire.Envelope{From: "a@test"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := first; n <= last; n++ {
		m, err := wire.Decode([]byte(messageMail(t, n, "")))
		if err != nil {
			t.Fatal(err)
		}
		m.ID = transport.NewID(publisher, uint64(n), "host.test")
		if err := batch.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	return string(batch.Mail())
}

func TestReceiveBatches(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.add(batchMail(t, 1, 3))
		t.script.addMessages(4, 5)
		t.script.add(batchMail(t, 6, 1500)) // more than the first FETCH brings
		t.script.add(batchMail(t, 1501, 1501))
		t.want(1, 1501)
	})
}

// portions is a consumer that takes so many messages at a time, and forgets what it has taken.
type portions struct {
	picky
	size, room int
}

func (p *portions) offer(_ imap.UID, m *transport.Message, _ time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.room--; p.room < 0 {
		p.room = p.size
		go p.feed.poke()
		return false
	}
	p.order = append(p.order, m.Info.Sequence)
	return true
}

// Of a batch that is too much for one time the rest comes later, and nothing twice.
func TestConsumerTakesPartsOfBatches(t *testing.T) {
	for _, size := range []int{3, 300, 1500} {
		withScript(t, func(s *script, _ *receiver) {
			s.add(batchMail(s.t, 1, size))
			s.addMessages(size+1, size+2)
			s.add(batchMail(s.t, size+3, 2*size))
		}, func(t *scriptTest) {
			p := &portions{picky: picky{from: 1}, size: 70}
			p.t = t
			p.feed = t.receiver.newFeed(transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
			p.feed.start(p)
			defer func() { p.feed.stop() }()
			synctest.Wait()
			t.script.add(batchMail(t, 2*size+1, 3*size)) // with everybody else's mail, until it is too much
			t.want(2*size+1, 3*size)
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := p.numbers(); !slices.Equal(got, upTo(1, uint64(3*size))) {
				t.Errorf("got %d", got)
			}
			if p.place != 6 {
				t.Errorf("it is at %d, want 6", p.place)
			}
		})
	}
}

// Of a batch that is read again only those messages are offered that are wanted again, and of the others
// nobody says that they are gone.
func TestDurableReadsBatchesAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	remember := func(t *scriptTest, settle func(d transport.Delivery)) (end func()) {
		j, err := openState(path)
		if err != nil {
			t.Fatal(err)
		}
		all := &durables{receiver: t.receiver, logger: quietLog, journal: j}
		stop, err := all.receive(transport.Interest{Kind: transport.Request, Name: "/s", InFlight: 1000, Durable: "script"}, settle)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			synctest.Wait()
			stop()
			if err := all.close(); err != nil {
				t.Error(err)
			}
		}
	}
	requests := func(t testing.TB) string {
		batch, err := wire.NewBatch(transport.NewID(transport.GID{2}, 1, "host.test"), wire.Envelope{From: "a@test"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(100) {
			m := &transport.Message{Kind: transport.Request, Name: "/s", ID: transport.NewID(transport.GID{1}, n+1, "host.test")}
			m.Info = transport.Info{PublisherGID: transport.GID{1}, Sequence: n + 1, ClientGID: transport.GID{1}, RequestSequence: n + 1, SourceTime: time.Unix(1, 0)}
			if err := batch.Add(m); err != nil {
				t.Fatal(err)
			}
		}
		return string(batch.Mail())
	}
	withScript(t, nil, func(t *scriptTest) {
		n := 0
		end := remember(t, func(d transport.Delivery) {
			if n++; n%10 != 0 {
				go d.Ack()
			}
		})
		t.script.add(requests(t))
		synctest.Wait()
		time.Sleep(time.Second)
		end()
		if n != 100 {
			t.Errorf("%d requests came, want 100", n)
		}
	})
	// The next life of the inbox is a new one with the same mail in it, under the same UID.
	var got []uint64
	withScript(t, func(s *script, _ *receiver) { s.add(requests(s.t)) }, func(t *scriptTest) {
		end := remember(t, func(d transport.Delivery) {
			if d.Repeated || d.Attempt != 2 {
				t.Errorf("request %d comes as attempt %d, repeated %t", d.Message.Info.Sequence, d.Attempt, d.Repeated)
			}
			got = append(got, d.Message.Info.Sequence)
			go d.Ack()
		})
		time.Sleep(time.Minute)
		end()
	})
	if want := []uint64{10, 20, 30, 40, 50, 60, 70, 80, 90, 100}; !slices.Equal(got, want) {
		t.Errorf("after the restart came %d, want %d", got, want)
	}
}
