package email

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// TestOftenCut: a connection that is cut again and again, and works in between, is made anew at once each
// time. The delays are for servers that can't be reached.
func TestOftenCut(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		for n := 1; n <= 20; n++ {
			time.Sleep(3 * time.Second)
			t.script.mu.Lock()
			conn := t.script.conns[len(t.script.conns)-1]
			t.script.mu.Unlock()
			conn.Close()
			start := time.Now()
			t.script.addMessages(n, n)
			t.want(n, n)
			if late := time.Since(start); late > backoff.First {
				t.Fatalf("message %d came %v after the connection was cut", n, late)
			}
		}
	})
}

// TestCutAtOnce: a server that ends each connection as soon as it is there is not asked for more all the
// time.
func TestCutAtOnce(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.before = func(c *scriptConn, command string, _ []string) bool {
			if command == "UID FETCH" {
				c.Close()
			}
			return command == "UID FETCH"
		}
	}, func(t *scriptTest) {
		time.Sleep(time.Hour)
		t.script.mu.Lock()
		defer t.script.mu.Unlock()
		if n, most := len(t.script.conns), int(time.Hour/(backoff.Longest/2))+20; n > most {
			t.Errorf("%d connections in an hour, want %d at most", n, most)
		}
	})
}

// TestGroupBackOff: so it is with the log of a group. When it can't be reached, and there is something to be
// written into it, it is tried once in backoff.Least.
func TestGroupBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tried := make(chan time.Time)
		var g *group
		attempts := 0
		connect := func(context.Context, string) (*logFolder, error) {
			tried <- time.Now()
			if attempts++; attempts <= 20 { // it works for a while
				g.opened = time.Now()
				time.Sleep(3 * time.Second)
			}
			return nil, io.ErrUnexpectedEOF
		}
		s := &groups{logger: quietLog, receiver: new(receiver), connect: connect}
		g = newGroup(s, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}, "folder")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			g.run(ctx)
		}()
		last := <-tried
		for range 20 {
			at := <-tried
			if at.Sub(last) > 3*time.Second+backoff.First {
				t.Fatalf("%v from one connection to the next, of which the first worked for three seconds", at.Sub(last))
			}
			last = at
		}
		for range 20 { // it does not any more
			last = <-tried
		}
		for range 5 {
			signal(g.wake)
			at := <-tried
			if at.Sub(last) != backoff.Least {
				t.Errorf("%v from one attempt to the next while there is something to do", at.Sub(last))
			}
			last = at
		}
		signal(g.wake)
		cancel()
		<-ended
	})
}
