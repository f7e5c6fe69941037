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

// batchMail returns a mail with some of the messages that messageMail makes.
func batchMail(t testing.TB, numbers ...int) string {
	t.Helper()
	batch, err := wire.NewBatch(transport.NewID(transport.GID{2}, uint64(numbers[0]), "test"), wire.Envelope{From: "a@test"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		m, err := wire.Decode([]byte(messageMail(t, n, "")))
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	return string(batch.Mail())
}

// from returns the numbers from first to last.
func from(first, last int) (numbers []int) {
	for n := first; n <= last; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

func TestReceiveBatches(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.add(batchMail(t, 1, 2, 3))
		t.script.addMessages(4, 5)
		t.script.add(batchMail(t, from(6, 1500)...)) // more than the first FETCH brings
		t.script.add(batchMail(t, 1501))
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
	t.Parallel()
	for _, size := range []int{3, 300, 1500} {
		withScript(t, func(s *script, _ *receiver) {
			s.add(batchMail(s.t, from(1, size)...))
			s.addMessages(size+1, size+2)
			s.add(batchMail(s.t, from(size+3, 2*size)...))
		}, func(t *scriptTest) {
			p := &portions{picky: picky{from: 1}, size: 70}
			p.t = t
			p.feed = t.receiver.newFeed(transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
			p.feed.start(p)
			defer func() { p.feed.stop() }()
			synctest.Wait()
			t.script.add(batchMail(t, from(2*size+1, 3*size)...)) // with everybody else's mail, until it is too much
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

// The last messages are counted, not the mails that they are in.
func TestLastOfBatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mails [][]int
		count int
		want  []int
	}{
		{[][]int{{1, 2, 3}, {4, 5, 6}, {7}}, 5, []int{3, 4, 5, 6, 7}},
		{[][]int{{1, 2, 3}, {6, 5, 4}}, 2, []int{5, 6}},
		{[][]int{from(1, 1500)}, 3, []int{1498, 1499, 1500}}, // its beginning is not enough
		{[][]int{{1, 2, 3}, {2, 3, 4}}, 3, []int{2, 3, 4}},
	} {
		withScript(t, func(s *script, _ *receiver) {
			for _, numbers := range test.mails {
				s.add(batchMail(s.t, numbers...))
			}
		}, func(t *scriptTest) {
			var got []int
			deliver := func(d transport.Delivery) { got = append(got, int(d.Message.Info.Sequence)) }
			stop := t.receiver.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: test.count}, deliver)
			defer stop()
			time.Sleep(time.Minute)
			synctest.Wait()
			next := test.want[len(test.want)-1] + 1
			t.script.add(batchMail(t, next, next+1))
			t.want(next, next+1)
			if want := append(test.want, next, next+1); !slices.Equal(got, want) {
				t.Errorf("the last %d are %d, want %d", test.count, got, want)
			}
		})
	}
}

// A mail of several messages is finished when all of them are.
func TestRetentionOfBatches(t *testing.T) {
	t.Parallel()
	for _, interest := range []transport.Interest{{Durable: "d"}, {Group: "g"}} {
		t.Run(interest.Durable+interest.Group, func(t *testing.T) {
			interest.Kind, interest.Name = transport.TopicMessage, "/t"
			a := newArchive(t)
			c := a.openWith(Retention{Action: DeleteMessages, After: time.Millisecond}, filepath.Join(t.TempDir(), "state"))
			deliveries := make(chan transport.Delivery, 10)
			if _, err := c.Receive(interest, func(d transport.Delivery) { deliveries <- d }); err != nil {
				t.Fatal(err)
			}
			settle := func(all []transport.Delivery) {
				for _, d := range all {
					if err := d.Settler.Ack(); err != nil {
						t.Fatal(err)
					}
				}
			}
			a.put("Subject: lunch?\r\n\r\nAt noon.\r\n", 0)
			if interest.Group != "" {
				time.Sleep(100 * time.Millisecond) // it begins with what arrives after its first member has joined
			}
			a.put(batchMail(t, 2, 3, 4), 0)
			a.put(batchMail(t, 5, 6), 0)
			var got []transport.Delivery
			for range 5 {
				got = append(got, <-deliveries)
			}
			slices.SortFunc(got, func(a, b transport.Delivery) int {
				return int(a.Message.Info.Sequence) - int(b.Message.Info.Sequence)
			})
			settle(got[1:])
			a.want("1 2", "")
			settle(got[:1])
			a.want("1", "")
		})
	}
}
