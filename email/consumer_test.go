package email

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/transport"
)

// picky is a consumer that takes some mails and refuses others.
type picky struct {
	t     testing.TB
	feed  *feed
	from  imap.UID // 0: what comes from now on
	since time.Time
	takes func(n uint64) bool

	mu      sync.Mutex
	taken   map[imap.UID]uint64
	order   []uint64
	missing []imap.UID // to be read again
	lost    []imap.UID
	place   imap.UID
	begun   int
}

func (p *picky) begin(_ uint32, next imap.UID) (imap.UID, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
	p.taken = make(map[imap.UID]uint64)
	if p.place = next; p.from != 0 && p.begun == 1 {
		p.place = p.from
	}
	if p.begun > 1 {
		return p.place, p.since
	}
	return p.place, time.Time{}
}

func (p *picky) offer(uid imap.UID, m *transport.Message, _ time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.taken[uid]; again {
		return true
	}
	if p.takes != nil && !p.takes(m.Info.Sequence) {
		go p.feed.poke()
		return false
	}
	p.taken[uid] = m.Info.Sequence
	p.order = append(p.order, m.Info.Sequence)
	p.missing = slices.DeleteFunc(p.missing, func(u imap.UID) bool { return u == uid })
	return true
}

func (p *picky) passed(uid imap.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if uid < p.place {
		p.t.Errorf("passed %d after %d", uid, p.place)
	}
	p.place = uid
}

func (p *picky) again() []imap.UID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.missing)
}

func (p *picky) awaits(uid imap.UID, _ *transport.Message) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.missing, uid)
}

func (p *picky) gone(uid imap.UID, found []*transport.Message) {
	if len(found) > 0 {
		return
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = append(p.lost, uid)
	p.missing = slices.DeleteFunc(p.missing, func(u imap.UID) bool { return u == uid })
}

// numbers returns what has been taken.
func (p *picky) numbers() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.order)
}

func (p *picky) consume(t *scriptTest) {
	p.t = t
	p.feed = t.receiver.newFeed(transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	p.feed.start(p)
}

func upTo(first, last uint64) []uint64 {
	var list []uint64
	for n := first; n <= last; n++ {
		list = append(list, n)
	}
	return list
}

// TestConsumer: one that begins in the past and refuses at random misses nothing, and delays
// nobody.
func TestConsumer(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		withScript(t, func(s *script, _ *receiver) { s.addMessages(1, 300) }, func(t *scriptTest) {
			r := rand.New(rand.NewPCG(seed, 1))
			moods := rand.New(rand.NewPCG(seed, 2))
			p := &picky{from: imap.UID(1 + r.IntN(300)), takes: func(uint64) bool { return moods.IntN(10) > 0 }}
			p.consume(t)
			defer func() { p.feed.stop() }()
			next := 301
			for range 10 {
				count := r.IntN(40)
				t.script.addMessages(next, next+count-1)
				t.want(next, next+count-1)
				next += count
				if r.IntN(3) == 0 {
					t.script.conns[len(t.script.conns)-1].Close()
					time.Sleep(time.Minute)
				}
			}
			synctest.Wait()
			time.Sleep(time.Minute)
			synctest.Wait()
			got := p.numbers()
			slices.Sort(got)
			if want := upTo(uint64(p.from), uint64(next-1)); !slices.Equal(got, want) {
				t.Errorf("seed %d: got %d messages, want %d", seed, len(got), len(want))
			}
			if p.place != imap.UID(next) {
				t.Errorf("seed %d: it is at %d, want %d", seed, p.place, next)
			}
		})
	}
}

// TestConsumerFromNow: one without a past gets what comes, with everybody else's mails.
func TestConsumerFromNow(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) { s.addMessages(1, 3) }, func(t *scriptTest) {
		p := &picky{}
		p.consume(t)
		t.script.addMessages(4, 9)
		t.want(4, 9)
		looks := t.script.count("UID FETCH")
		time.Sleep(time.Hour)
		synctest.Wait()
		t.script.addMessages(10, 10)
		t.want(10, 10)
		if n := t.script.count("UID FETCH") - looks; n > 400 {
			t.Errorf("%d looks in an idle hour", n)
		}
		p.feed.stop()
		synctest.Wait()
		t.script.addMessages(11, 11)
		t.want(11, 11)
		if got := p.numbers(); !slices.Equal(got, upTo(4, 10)) {
			t.Errorf("got %d", got)
		}
	})
}

// TestConsumerBlocked: one that takes nothing is left alone until it says so.
func TestConsumerBlocked(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		q := new(blocked)
		q.t = t
		q.feed = t.receiver.newFeed(transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
		q.feed.start(q)
		synctest.Wait()
		t.script.addMessages(1, 300)
		t.want(1, 300)
		before := t.script.count("UID FETCH")
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := t.script.count("UID FETCH") - before; n > 400 {
			t.Errorf("%d looks in an hour for a consumer that takes nothing", n)
		}
		q.mu.Lock()
		q.open = true
		q.mu.Unlock()
		q.feed.poke()
		synctest.Wait()
		if got := q.numbers(); !slices.Equal(got, upTo(1, 300)) {
			t.Errorf("got %d messages", len(got))
		}
		q.feed.stop()
	})
}

// blocked takes nothing until it is open.
type blocked struct {
	picky
	open bool
}

func (b *blocked) offer(uid imap.UID, m *transport.Message, arrived time.Time) bool {
	b.mu.Lock()
	open := b.open
	b.mu.Unlock()
	return open && b.picky.offer(uid, m, arrived)
}

// TestConsumerAgain: mails are read again, whatever there is to them; those that are not there
// any more, or that the server does not send, are said to be gone.
func TestConsumerAgain(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.addMessages(1, 3)
		s.add(messageMail(s.t, 4, strings.Repeat("x", 100_000)))
		s.addMessages(5, 8)
		s.mails = slices.Delete(s.mails, 5, 6) // number 6
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" {
				return false
			}
			in, partial := c.parseSet(args)
			for i, m := range s.inbox() {
				if in(m.uid) {
					if m.uid == 7 {
						c.send("* 7 FETCH (UID 7 FLAGS ())")
					} else {
						c.sendMail(i+1, m, partial)
					}
				}
			}
			c.ok()
			return true
		}
	}, func(t *scriptTest) {
		p := &picky{missing: []imap.UID{8, 4, 6, 7, 2}}
		p.consume(t)
		defer func() { p.feed.stop() }()
		t.script.addMessages(9, 9)
		t.want(9, 9)
		for range 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		got := p.numbers()
		slices.Sort(got)
		if fmt.Sprint(got, p.lost, p.missing) != "[2 4 8 9] [6 7] []" {
			t.Errorf("got %v, lost %v, missing %v", got, p.lost, p.missing)
		}
	})
}

// TestConsumerRenumbered: after the inbox has been renumbered a consumer gets what arrived
// since a day.
func TestConsumerRenumbered(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.addMessages(1, 2)
		t.want(1, 2)
		time.Sleep(72 * time.Hour)
		t.script.addMessages(3, 4)
		t.want(3, 4)
		p := &picky{since: time.Now().Add(-24 * time.Hour)}
		p.consume(t)
		t.script.addMessages(5, 5)
		t.want(5, 5)
		t.script.mu.Lock()
		t.script.validity++
		for i := range t.script.mails {
			t.script.mails[i].uid += 100
		}
		t.script.next += 100
		t.script.mu.Unlock()
		t.script.conns[0].Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		t.script.addMessages(6, 6)
		t.want(6, 6)
		synctest.Wait()
		p.feed.stop()
		if got := p.numbers(); fmt.Sprint(got) != "[5 3 4 5 6]" || p.begun != 2 {
			t.Errorf("got %v, begun %d times", got, p.begun)
		}
	})
}

// TestConsumerPassedNothingUnread: while the server does not send a mail, a consumer is not told that it has
// passed it, though it was offered one behind it.
func TestConsumerPassedNothingUnread(t *testing.T) {
	broken := true
	withScript(t, func(s *script, _ *receiver) {
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" || !broken {
				return false
			}
			in, partial := c.parseSet(args)
			if partial == 0 || !in(1) {
				return false
			}
			for i, m := range s.inbox() {
				if m.uid != 1 && in(m.uid) {
					c.sendMail(i+1, m, partial)
				}
			}
			c.send("%s NO message 1 can't be read", c.tag)
			return true
		}
	}, func(t *scriptTest) {
		p := new(blocked)
		p.t = t
		p.feed = t.receiver.newFeed(transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
		p.feed.start(p)
		defer p.feed.stop()
		synctest.Wait()
		t.script.addMessages(1, 2)
		t.want(2, 2)
		p.feed.poke()
		synctest.Wait()
		p.mu.Lock()
		if p.place != 1 {
			t.Errorf("it has passed all below %d", p.place)
		}
		p.open, broken = true, false
		p.mu.Unlock()
		p.feed.poke()
		t.want(1, 1)
		p.feed.poke()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := p.numbers(); !slices.Equal(got, upTo(1, 2)) {
			t.Errorf("got %d", got)
		}
	})
}

// TestConsumerAgainUnwanted: mails to be read again that are no messages for the consumer, for whatever
// reason, are gone; they are not asked for again and again.
func TestConsumerAgainUnwanted(t *testing.T) {
	withScript(t, func(s *script, r *receiver) {
		r.maxBody, r.maxMail = 50_000, 100_000
		s.add("Subject: lunch?\r\nFrom: a@b.test\r\n\r\nAt noon.\r\n")
		s.add(strings.Replace(messageMail(s.t, 2, ""), "Source-Timestamp: ", "Source-Timestamp: x", 1))
		s.add(messageMail(s.t, 3, strings.Repeat("x", 60_000)))
		s.add(messageMail(s.t, 4, strings.Repeat("x", 200_000)))
		s.addMessages(5, 5)
		asked := 0
		s.before = func(c *scriptConn, _ string, _ []string) bool {
			if asked++; asked > 1000 {
				c.Close() // and the test comes to an end
			}
			return false
		}
	}, func(t *scriptTest) {
		p := &picky{missing: []imap.UID{1, 2, 3, 4, 5}}
		p.consume(t)
		defer func() { p.feed.stop() }()
		time.Sleep(time.Minute)
		synctest.Wait()
		slices.Sort(p.lost)
		if got := p.numbers(); fmt.Sprint(got, p.lost) != "[5] [1 2 3 4]" {
			t.Errorf("got %v, lost %v", got, p.lost)
		}
	})
}

// TestConsumerLeaps: UIDs that are not in use any more, however many, cost next to nothing.
func TestConsumerLeaps(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) { s.addMessages(1, 3) }, func(t *scriptTest) {
		t.script.mu.Lock()
		t.script.next = 4_000_000_000
		t.script.mu.Unlock()
		p := &picky{from: 1}
		t.script.addMessages(4, 5)
		t.want(4, 5)
		looks := t.script.count("UID FETCH")
		p.consume(t)
		defer func() { p.feed.stop() }()
		synctest.Wait()
		if n := t.script.count("UID FETCH") - looks; n > 100 {
			t.Errorf("%d looks", n)
		}
		if got := p.numbers(); !slices.Equal(got, upTo(1, 5)) {
			t.Errorf("got %d", got)
		}
	})
}
