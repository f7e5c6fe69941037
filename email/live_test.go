package email

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/transport"
)

// TestLiveOrder: what mail servers have shuffled and repeated comes in order, and once; a gap is
// reported.
func TestLiveOrder(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		var got []uint64
		var gaps []transport.Gap
		stop := t.receiver.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", Gap: func(g transport.Gap) { gaps = append(gaps, g) }},
			func(d transport.Delivery) { got = append(got, d.Message.Info.Sequence) })
		defer stop()
		for _, n := range []int{1, 3, 2, 2, 4, 7, 6, 7} {
			t.script.addMessages(n, n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if fmt.Sprint(got, gaps) != fmt.Sprintf("[1 2 3 4 6 7] [{%v 5 5}]", transport.GID{1}) {
			t.Errorf("got %v, gaps %v", got, gaps)
		}
		for range 6 { // nothing is held back for the interest of the script, nor repeated
			<-t.got
		}
	})
}

// renumber gives the inbox of the script another UIDVALIDITY, and all mails new UIDs from
// first on.
func (s *script) renumber(first int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.validity++
	for i := range s.mails {
		s.mails[i].uid = first + i
	}
	s.next = first + len(s.mails)
}

// addOld puts messages into the inbox that arrived an hour ago.
func (s *script) addOld(first, last int) {
	from := len(s.mails)
	s.addMessages(first, last)
	for i := range s.mails[from:] {
		s.mails[from+i].arrived = time.Now().Add(-time.Hour)
	}
}

// restore brings back the inbox as it was when it had only so many mails.
func (s *script) restore(count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = slices.Clone(s.mails[:count])
	s.next = 1
	if count > 0 {
		s.next = s.mails[count-1].uid + 1
	}
}

// outage breaks the connection, changes something, and waits until the receiver is back.
func (t *scriptTest) outage(change func()) {
	t.script.mu.Lock()
	t.script.refuse = 1
	conn := t.script.conns[len(t.script.conns)-1]
	t.script.mu.Unlock()
	conn.Close()
	synctest.Wait()
	change()
	time.Sleep(10 * time.Second)
	synctest.Wait()
}

// TestRenumberedLive: nothing that arrives around the renumbering is lost, nothing comes
// twice, and nothing that is older than the interest.
func TestRenumberedLive(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*script){
		"higher UIDs":    func(s *script) { s.renumber(1000) },
		"lower UIDs":     func(s *script) { s.renumber(1) },
		"the same UIDs":  func(s *script) { s.renumber(101) },
		"older state":    func(s *script) { s.restore(105) },
		"emptied":        func(s *script) { s.restore(0) },
		"no SEARCH":      func(s *script) { s.renumber(1) },
		"restored twice": func(s *script) { s.renumber(50); s.restore(104) },
	} {
		t.Run(name, func(t *testing.T) {
			withScript(t, func(s *script, _ *receiver) {
				s.addOld(1, 100)
				if name == "no SEARCH" {
					s.before = func(c *scriptConn, command string, _ []string) bool {
						if command == "UID SEARCH" {
							c.send("%s NO not here", c.tag)
						}
						return command == "UID SEARCH"
					}
				}
			}, func(t *scriptTest) {
				time.Sleep(time.Hour)
				t.script.addMessages(101, 106)
				t.want(101, 106)
				t.script.addMessages(108, 110)
				t.want(108, 110)
				t.outage(func() {
					t.script.addMessages(111, 112)
					change(t.script)
					t.script.add("Subject: holidays\r\n\r\n")
					t.script.addMessages(113, 114)
				})
				t.script.addMessages(115, 115)
				if name == "emptied" || strings.Contains(name, "older state") || name == "restored twice" {
					t.want(113, 115)
					return
				}
				t.want(111, 115)
				t.outage(func() { change(t.script) })
				t.outage(func() {})
				t.script.addMessages(116, 116)
				t.want(116, 116)
			})
		})
	}
}

// TestRenumberedRequests: requests are not deduplicated, but they do not come again because the inbox is
// read again.
func TestRenumberedRequests(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		var got []uint64
		stop := t.receiver.receive(transport.Interest{Kind: transport.Request, Name: "/t"}, func(d transport.Delivery) { got = append(got, d.Message.Info.Sequence) })
		defer stop()
		request := func(n int) string {
			return strings.Replace(messageMail(t, n, ""), "Publisher-GID", "Request-Sequence-Number: 1\r\nClient-GID: 01000000000000000000000000000000\r\nPublisher-GID", 1)
		}
		for _, n := range []int{1, 2, 2} {
			t.script.add(request(n))
		}
		time.Sleep(time.Minute)
		t.outage(func() {
			t.script.renumber(500)
			t.script.add(request(3))
		})
		if fmt.Sprint(got) != "[1 2 2 3]" {
			t.Errorf("got %v", got)
		}
	})
}

// TestLast: the last messages come first, in order, and what comes later after them.
func TestLast(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.addOld(1, 20)
		for n := range 500 {
			s.add(fmt.Sprintf("Subject: holidays %d\r\n\r\n", n))
		}
		s.add(messageMail(s.t, 22, strings.Repeat("x", 100_000)))
		s.mails[len(s.mails)-1].arrived = time.Now().Add(-time.Hour)
		s.addOld(21, 21)
		s.addOld(24, 25)
	}, func(t *scriptTest) {
		got := make(chan uint64, 100)
		stop := t.receiver.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: 7},
			func(d transport.Delivery) { got <- d.Message.Info.Sequence })
		defer stop()
		t.script.addMessages(23, 23)
		t.script.addMessages(26, 30)
		want := upTo(18, 30)
		if n := <-got; n != 18 && n != 19 { // the one that arrives at once may count as the last
			t.Errorf("the first is %d", n)
		} else {
			want = upTo(n+1, 30)
		}
		for _, n := range want {
			if m := <-got; m != n {
				t.Errorf("got %d, want %d", m, n)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("got %d", <-got)
		}
		t.outage(func() {
			t.script.renumber(2000)
			t.script.addMessages(31, 31)
		})
		if n := <-got; n != 31 || len(got) > 0 {
			t.Errorf("got %d", n)
		}
		for range 7 {
			<-t.got
		}
	})
}

// TestRecall: which messages are the last, when mail servers have shuffled and repeated them.
func TestRecall(t *testing.T) {
	found := func(first int, numbers ...string) []recalled {
		var list []recalled
		for i, text := range numbers {
			m := &transport.Message{}
			var publisher byte
			if n, _ := fmt.Sscanf(text, "%c%d", &publisher, &m.Info.Sequence); n == 2 {
				m.Info.PublisherGID = transport.GID{publisher}
			} else {
				m.ID = transport.ParseID(text)
			}
			list = append(list, recalled{imap.UID(first + i), 0, m})
		}
		return list
	}
	for _, test := range []struct {
		count int
		found [][]recalled // newest portion first
		want  string
	}{
		{3, [][]recalled{found(1, "a1", "a2", "a3", "a4")}, "[2 3 4]"},
		{3, [][]recalled{found(1, "a1", "a3", "a4", "a2")}, "[2 3 4]"},
		{3, [][]recalled{found(1, "a1", "a2", "a3", "a4", "a2", "a1")}, "[2 3 4]"},
		{2, [][]recalled{found(1, "a1", "b1", "a2", "b2", "a3")}, "[4 5]"},
		{3, [][]recalled{found(1, "a1", "a3", "x", "b9", "a2")}, "[2 3 4]"},
		{2, [][]recalled{found(1, "x", "y", "x", "z")}, "[2 4]"},
		{2, [][]recalled{found(1, "x", "x")}, "[1]"},
		{3, [][]recalled{found(10, "a1", "a2"), found(1, "a2", "b1")}, "[1 2 10]"},
		{9, [][]recalled{nil, found(1, "a1")}, "[1]"},
		{9, nil, "[]"},
	} {
		s := recall{count: test.count}
		for _, portion := range test.found {
			s.add(portion)
		}
		var got []imap.UID
		for _, r := range s.last() {
			got = append(got, r.uid)
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}
