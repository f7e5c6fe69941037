package email

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

func TestReceiveInOrder(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.addMessages(1, 3) // old
	}, func(t *scriptTest) {
		t.script.addMessages(4, 500)
		t.want(4, 500)
		t.script.addMessages(501, 501)
		t.want(501, 501)
	})
}

// TestIdleHour shows what a node costs that waits for an hour: after the traffic has
// died down one look a minute, nothing else.
func TestIdleHour(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.addMessages(1, 1)
		t.want(1, 1)
		before := t.script.count("UID FETCH")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		looks := t.script.count("UID FETCH") - before
		if looks < 50 || looks > 300 {
			t.Errorf("%d looks after a sign of life, want some 145", looks)
		}
		before = t.script.count("UID FETCH")
		all := t.script.count("")
		time.Sleep(time.Hour)
		synctest.Wait()
		looks = t.script.count("UID FETCH") - before
		if looks < 29 || looks > 30 {
			t.Errorf("%d looks in an idle hour, want one in two minutes", looks)
		}
		if n := t.script.count("") - all; n != 3*looks {
			t.Errorf("%d commands for %d looks, want IDLE, DONE and UID FETCH for each", n, looks)
		}
		if n := len(t.script.conns); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestInterestIsForWhatComes: what arrives while nobody wants any mail is old by the time
// that somebody does, and is not fetched.
func TestInterestIsForWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		r := &receiver{connect: s.dial, maxBody: 1 << 20, maxMail: 1 << 20, logger: quietLog}
		if err := r.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer r.close(t.Context())
		got := make(chan uint64, 10)
		for next := 1; next < 8; next += 3 {
			s.addMessages(next, next+1)
			synctest.Wait()
			time.Sleep(time.Hour)
			stop := r.receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(d transport.Delivery) { got <- d.Message.Info.Sequence })
			s.addMessages(next+2, next+2)
			if n := <-got; n != uint64(next+2) {
				t.Errorf("got message %d, want %d", n, next+2)
			}
			time.Sleep(time.Hour)
			stop()
			s.conns[len(s.conns)-1].Close() // the outage changes nothing
		}
		if len(got) > 0 {
			t.Errorf("got message %d", <-got)
		}
	})
}

// TestRequestWakesFromIdle: where IDLE does not tell, an answer is looked for.
func TestRequestWakesFromIdle(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) { s.silent.Store(true) }, func(t *scriptTest) {
		time.Sleep(time.Minute / 2)
		t.receiver.expect()
		time.Sleep(100 * time.Millisecond)
		t.script.addMessages(1, 1)
		start := time.Now()
		t.want(1, 1)
		if late := time.Since(start); late > 10*time.Millisecond {
			t.Errorf("an answer was found after %v", late)
		}
	})
}

// TestUnsolicitedFetch: go-imap takes the announcement of a mail that has just arrived
// for the answer to the FETCH under way, and the mail's body gets lost on that way.
func TestUnsolicitedFetch(t *testing.T) {
	const n = 60
	withScript(t, func(s *script, _ *receiver) {
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" {
				return false
			}
			from, to, partial := c.parseFetch(args)
			for i, m := range s.inbox() {
				if m.uid >= from && m.uid <= to {
					c.sendMail(i+1, m, partial)
				}
				if added := len(s.inbox()) + 1; m.uid >= from && added > 2 && added <= n {
					// Another client delivers, right now. Only some are announced.
					s.add(messageMail(s.t, added, ""))
					c.send("* %d EXISTS", added)
					if added%3 != 0 {
						c.send("* %d FETCH (UID %d FLAGS ())", added, added)
					}
				}
			}
			c.ok()
			return true
		}
	}, func(t *scriptTest) {
		t.script.addMessages(1, 2)
		t.want(1, n)
	})
}

// TestFlagsOnlyInIdle: DONE and FETCH share a round trip, so announcements in IDLE
// pass for answers too.
func TestFlagsOnlyInIdle(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.before = func(c *scriptConn, command string, _ []string) bool {
			if command == "DONE" && len(s.inbox()) > 0 {
				c.send("* 1 FETCH (UID 1 FLAGS (\\Recent))")
			}
			return false
		}
	}, func(t *scriptTest) {
		time.Sleep(time.Second) // in IDLE
		t.script.addMessages(1, 1)
		t.want(1, 1)
	})
}

// TestMailBetweenDoneAndOK: a mail is announced when IDLE is being ended, after the FETCH that ends it
// was sent, and is not in the answer. Nothing announces it again.
func TestMailBetweenDoneAndOK(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		late := false // the second mail has been announced, and not been asked for since
		s.before = func(c *scriptConn, command string, args []string) bool {
			switch n := len(s.inbox()); {
			case command == "DONE" && n == 1:
				c.setIdle(false)
				s.add(messageMail(s.t, 2, ""))
				c.send("* 2 EXISTS")
				late = true
				c.ok()
				return true
			case command == "UID FETCH" && late:
				late = false
				_, _, partial := c.parseFetch(args)
				c.sendMail(1, s.inbox()[0], partial)
				c.ok()
				return true
			}
			return false
		}
	}, func(t *scriptTest) {
		time.Sleep(time.Minute) // in IDLE
		t.script.addMessages(1, 1)
		start := time.Now()
		t.want(1, 2)
		if late := time.Since(start); late > time.Second {
			t.Errorf("found after %v", late)
		}
	})
}

// TestMailAfterExpunge: a mail is deleted during the FETCH that finds another one, and then one is announced that the FETCH
// does not have: the number of the mails is what it was. Nothing announces it again.
func TestMailAfterExpunge(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		done := false
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" || len(s.inbox()) != 2 || done {
				return false
			}
			from, _, partial := c.parseFetch(args)
			if from > 2 || partial == 0 {
				return false
			}
			done = true
			c.setIdle(false)
			c.sendMail(2, s.inbox()[1], partial)
			c.send("* 1 EXPUNGE")
			s.mu.Lock()
			s.mails, c.seen = s.mails[1:], 2
			s.mu.Unlock()
			s.add(messageMail(s.t, 2, ""))
			c.send("* 2 EXISTS")
			c.ok()
			return true
		}
	}, func(t *scriptTest) {
		time.Sleep(time.Second)
		t.script.addMessages(1, 1)
		t.want(1, 1)
		time.Sleep(10 * time.Minute) // looks are rare
		t.script.add("From: a@test\r\nSubject: no message\r\n\r\nhello\r\n")
		start := time.Now()
		t.want(2, 2)
		if late := time.Since(start); late > time.Second {
			t.Errorf("found after %v", late)
		}
	})
}

// TestLostWakeUp: some servers forget to announce mail that arrives while IDLE begins.
func TestLostWakeUp(t *testing.T) {
	withScript(t, func(s *script, r *receiver) {
		s.silent.Store(true)
		r.period = 20 * time.Second
	}, func(t *scriptTest) {
		time.Sleep(time.Second)
		t.script.addMessages(1, 1)
		start := time.Now()
		t.want(1, 1)
		if late := time.Since(start); late > 20*time.Second {
			t.Errorf("found after %v", late)
		}
	})
}

func TestWithoutIdle(t *testing.T) {
	for name, prepare := range map[string]func(*script, *receiver){
		"no capability": func(s *script, _ *receiver) { s.caps = "IMAP4rev1" },
		"refused": func(s *script, _ *receiver) {
			s.before = func(c *scriptConn, command string, _ []string) bool {
				if command == "IDLE" {
					c.send("%s NO not today", c.tag)
				}
				return command == "IDLE"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			withScript(t, prepare, func(t *scriptTest) {
				for n := 1; n <= 3; n++ {
					time.Sleep(10 * time.Second)
					t.script.addMessages(n, n)
					start := time.Now()
					t.want(n, n)
					if late := time.Since(start); late > pollPeriod {
						t.Errorf("found after %v", late)
					}
				}
				if n := t.script.count("IDLE"); n > 1 {
					t.Errorf("%d times IDLE", n)
				}
			})
		})
	}
}

// TestSilence: at a command that gets no answer the connection is replaced.
func TestSilence(t *testing.T) {
	for _, command := range []string{"DONE", "UID FETCH", "IDLE"} {
		t.Run(command, func(t *testing.T) {
			withScript(t, func(s *script, _ *receiver) {
				s.before = func(c *scriptConn, got string, _ []string) bool {
					return c.number <= 2 && got == command
				}
			}, func(t *scriptTest) {
				time.Sleep(time.Second)
				t.script.addMessages(1, 3)
				start := time.Now()
				t.want(1, 3)
				if late := time.Since(start); late > 2*(commandTimeout+time.Second) {
					t.Errorf("found after %v", late)
				}
			})
		})
	}
}

// TestDropped: a connection that breaks anywhere is replaced, and nothing is lost or
// comes twice.
func TestDropped(t *testing.T) {
	for name, drop := range map[string]func(c *scriptConn, m scriptMail){
		"before a response": func(c *scriptConn, m scriptMail) {},
		"within a literal": func(c *scriptConn, m scriptMail) {
			c.send("* 1 FETCH (UID %d RFC822.SIZE %d BODY[]<0> {%d}\r\n%s", m.uid, len(m.raw), len(m.raw), m.raw[:len(m.raw)-20])
		},
		"after a literal": func(c *scriptConn, m scriptMail) {
			c.send("* 1 FETCH (UID %d RFC822.SIZE %d BODY[]<0> {%d}\r\n%s", m.uid, len(m.raw), len(m.raw), m.raw)
		},
		"with BYE":           func(c *scriptConn, m scriptMail) { c.send("* BYE maintenance") },
		"after BYE":          func(c *scriptConn, m scriptMail) { c.send("* BYE maintenance"); c.send("%s OK done", c.tag) },
		"with nonsense":      func(c *scriptConn, m scriptMail) { c.send("* 12 VANISHED (EARLIER) 1:5") },
		"with a broken line": func(c *scriptConn, m scriptMail) { c.send("* 1 FETCH (UID") },
	} {
		t.Run(name, func(t *testing.T) {
			withScript(t, func(s *script, _ *receiver) {
				s.before = func(c *scriptConn, command string, args []string) bool {
					if command != "UID FETCH" || c.number > 5 {
						return false
					}
					from, _, partial := c.parseFetch(args)
					sent := 0
					for i, m := range s.inbox() {
						switch {
						case m.uid < from:
						case sent == 2:
							drop(c, m)
							c.Close()
							return true
						default:
							c.sendMail(i+1, m, partial)
							sent++
						}
					}
					c.ok()
					return true
				}
			}, func(t *scriptTest) {
				t.script.addMessages(1, 20)
				t.want(1, 20)
				if n := len(t.script.conns); n != 6 {
					t.Errorf("%d connections", n)
				}
				for text, want := range map[string]int{"connection for receiving lost": 5, "connection for receiving is back": 5} {
					if n := strings.Count(t.log.String(), text); n != want {
						t.Errorf("%d times %q in the log, want %d", n, text, want)
					}
				}
			})
		})
	}
}

// TestOutage: the server is away for long; what arrives meanwhile comes once.
func TestOutage(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.addMessages(1, 2)
		t.want(1, 2)
		t.script.mu.Lock()
		t.script.refuse = 12
		t.script.mu.Unlock()
		t.script.conns[0].Close()
		t.script.addMessages(3, 10)
		start := time.Now()
		t.want(3, 10)
		if away := time.Since(start); away < 30*time.Second || away > 5*time.Minute {
			t.Errorf("12 attempts took %v", away)
		}
		if n := strings.Count(t.log.String(), "level=WARN") + strings.Count(t.log.String(), "level=INFO"); n != 2 {
			t.Errorf("%d lines in the log, want 2", n)
		}
	})
}

// TestWorkCutsBackOffShort: whoever begins to wait for an answer does not wait for the whole delay
// that a long outage has led to.
func TestWorkCutsBackOffShort(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.mu.Lock()
		t.script.refuse = 1000
		t.script.mu.Unlock()
		t.script.conns[0].Close()
		time.Sleep(5 * time.Minute)
		t.script.mu.Lock()
		before := t.script.refuse
		t.script.mu.Unlock()
		for range 100 {
			t.receiver.expect()
			time.Sleep(100 * time.Millisecond)
		}
		t.script.mu.Lock()
		attempts := before - t.script.refuse
		t.script.refuse = 0
		t.script.mu.Unlock()
		if attempts < 6 || attempts > 12 {
			t.Errorf("%d attempts in ten seconds of work, want one a second", attempts)
		}
		t.script.addMessages(1, 1)
		t.receiver.expect()
		start := time.Now()
		t.want(1, 1)
		if late := time.Since(start); late > time.Second {
			t.Errorf("back after %v", late)
		}
	})
}

// TestOddInboxes: what servers and other clients do to the inbox.
func TestOddInboxes(t *testing.T) {
	t.Parallel()
	answer := func(f func(c *scriptConn, mails []scriptMail, from, to, partial int)) func(*scriptConn, string, []string) bool {
		return func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" {
				return false
			}
			from, to, partial := c.parseFetch(args)
			mails := slices.DeleteFunc(c.script.inbox(), func(m scriptMail) bool { return m.uid < from || m.uid > to })
			f(c, mails, from, to, partial)
			return true
		}
	}
	for _, test := range []struct {
		name   string
		before func(*scriptConn, string, []string) bool
		gone   []int // messages that can't be delivered
	}{
		{"out of order", answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
			slices.Reverse(mails)
			for _, m := range mails {
				c.sendMail(m.uid, m, partial)
			}
			c.ok()
		}), nil},
		{"never a body", answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
			for _, m := range mails {
				if m.uid == 3 {
					c.send("* 3 FETCH (UID 3 FLAGS ())")
				} else {
					c.sendMail(m.uid, m, partial)
				}
			}
			c.ok()
		}), []int{3}},
		{"NIL", answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
			for _, m := range mails {
				if m.uid == 3 {
					c.send("* 3 FETCH (UID 3 RFC822.SIZE 0 BODY[]<0> NIL)")
				} else {
					c.sendMail(m.uid, m, partial)
				}
			}
			c.ok()
		}), []int{3}},
		{"NO at first", func() func(*scriptConn, string, []string) bool {
			refused := 0
			return answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
				for _, m := range mails {
					if m.uid != 3 || partial == 0 || refused > 4 {
						c.sendMail(m.uid, m, partial)
					}
				}
				if len(mails) > 0 && partial > 0 && refused <= 4 {
					refused++
					c.send("%s NO [SERVERBUG] some failed", c.tag)
				} else {
					c.ok()
				}
			})
		}(), nil},
		{"NO for ever", answer(func(c *scriptConn, mails []scriptMail, from, _, partial int) {
			for _, m := range mails {
				if m.uid != 3 || partial == 0 {
					c.sendMail(m.uid, m, partial)
				}
			}
			if from <= 3 && partial > 0 && len(c.script.inbox()) >= 3 {
				c.send("%s NO [SERVERBUG] some failed", c.tag)
			} else {
				c.ok()
			}
		}), []int{3}},
		{"NO and nothing from there on", answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
			for _, m := range mails {
				if m.uid == 3 && partial > 0 {
					c.send("%s NO [SERVERBUG] this one failed", c.tag)
					return
				}
				c.sendMail(m.uid, m, partial)
			}
			c.ok()
		}), []int{3}},
		{"connection breaks", answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
			for _, m := range mails {
				if m.uid == 3 && partial > 0 {
					c.Close()
					return
				}
				c.sendMail(m.uid, m, partial)
			}
			c.ok()
		}), []int{3}},
		{"literal too large", answer(func(c *scriptConn, mails []scriptMail, _, _, partial int) {
			for _, m := range mails {
				if m.uid == 3 {
					c.send("* 3 FETCH (UID 3 RFC822.SIZE 9 BODY[]<0> {4294967295}\r\nabc")
				} else {
					c.sendMail(m.uid, m, partial)
				}
			}
			c.ok()
		}), []int{3}},
		{"highest UID", func(c *scriptConn, _ string, _ []string) bool {
			c.script.mu.Lock()
			defer c.script.mu.Unlock()
			if len(c.script.mails) == 5 {
				c.script.mails[4].uid = math.MaxUint32
			}
			return false
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			withScript(t, func(s *script, _ *receiver) { s.before = test.before }, func(t *scriptTest) {
				t.script.addMessages(1, 5)
				var got []int
				for n := range 5 - len(test.gone) {
					select {
					case m := <-t.got:
						got = append(got, m)
					case <-time.After(time.Hour):
						t.Fatalf("message %d did not come", n)
					}
				}
				time.Sleep(time.Hour) // until the receiver gives up what is missing
				synctest.Wait()
				slices.Sort(got) // a server may answer in any order
				want := slices.DeleteFunc([]int{1, 2, 3, 4, 5}, func(n int) bool { return slices.Contains(test.gone, n) })
				if !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				if warned := strings.Contains(t.log.String(), "skipped"); warned != (len(test.gone) > 0) {
					t.Errorf("%v messages are missing, but the log has a line on it: %v", test.gone, warned)
				}
			})
		})
	}
}

func TestRenumbered(t *testing.T) {
	for name, change := range map[string]func(*script){
		"UIDVALIDITY":   func(s *script) { s.validity++; s.next = 1; s.mails = nil },
		"UIDs go back":  func(s *script) { s.next = 2; s.mails = s.mails[:1] },
		"only validity": func(s *script) { s.validity++ },
	} {
		t.Run(name, func(t *testing.T) {
			withScript(t, nil, func(t *scriptTest) {
				t.script.addMessages(1, 3)
				t.want(1, 3)
				t.script.mu.Lock()
				change(t.script)
				t.script.mu.Unlock()
				t.script.conns[0].Close()
				time.Sleep(time.Second)
				t.script.addMessages(10, 12)
				t.want(10, 12)
				if !strings.Contains(t.log.String(), "renumbered") {
					t.Error("the log does not mention it")
				}
			})
		})
	}
}

func TestNoUIDNext(t *testing.T) {
	for _, old := range []int{0, 3} {
		t.Run(fmt.Sprint(old), func(t *testing.T) {
			withScript(t, func(s *script, _ *receiver) {
				s.noNext = true
				s.addMessages(1, old)
			}, func(t *scriptTest) {
				t.script.addMessages(old+1, old+3)
				t.want(old+1, old+3)
			})
		})
	}
}

// TestLargeMails: large ones are fetched entirely if somebody wants them, in order,
// and many in a row do not cost more and more.
func TestLargeMails(t *testing.T) {
	withScript(t, func(s *script, r *receiver) {
		s.silent.Store(true)
		r.period = time.Minute
	}, func(t *scriptTest) {
		time.Sleep(90 * time.Second) // so that all are there at the next look
		looks := t.script.count("UID FETCH")
		large := strings.Repeat("x", 100_000)
		t.script.addMessages(1, 3)
		for n := 4; n <= 30; n++ {
			t.script.add(messageMail(t, n, large))
		}
		foreign := "Subject: holidays\r\n\r\n" + strings.Repeat(large+"\r\n", 100)
		other := strings.Replace(messageMail(t, 1, large), "Subject: /t", "Subject: /other", 1)
		t.script.add(foreign)
		t.script.add(other)
		t.script.add(messageMail(t, 99, strings.Repeat(large, 11))) // above the limit
		t.script.addMessages(31, 60)
		t.want(1, 60)
		if n := t.script.count("UID FETCH") - looks; n > 70 {
			t.Errorf("%d looks for 28 large mails", n)
		}
	})
}

var quietLog = slog.New(slog.DiscardHandler)

// TestLargeMailDropped: a large mail is not delivered again because the connection broke
// when it had come.
func TestLargeMailDropped(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" || c.number > 3 {
				return false
			}
			from, _, partial := c.parseFetch(args)
			if partial == headBytes || len(s.inbox()) == 0 {
				return false
			}
			c.sendMail(from, s.inbox()[from-1], partial)
			c.Close()
			return true
		}
	}, func(t *scriptTest) {
		for n := 1; n <= 5; n++ {
			t.script.add(messageMail(t, n, strings.Repeat("x", 100_000)))
		}
		t.want(1, 5)
	})
}
