package email

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// batchTest is a sender that makes batches, at a server that takes a second for each mail.
type batchTest struct {
	*testing.T
	server *smtpScript
	sender *sender
	calls  sync.WaitGroup

	mu   sync.Mutex
	errs map[string]error // of the calls that have returned, by the body of their first message
	took map[string]time.Duration
}

// withBatches runs a test with a sender to a@test.
func withBatches(t *testing.T, limits Batching, run func(*batchTest)) {
	prepare := func(n *smtpNet) {
		n.servers[0].offers = "PIPELINING CHUNKING"
		n.servers[0].write = func(c net.Conn, reply string) error {
			if strings.Contains(reply, "slow ") {
				time.Sleep(time.Second)
			}
			_, err := c.Write([]byte(reply))
			return err
		}
		n.servers[0].judge = func(string) string { return "250 slow ok" }
	}
	withServers(t, 1, prepare, func(t *testing.T, n *smtpNet, s *sender) {
		s.collector.limits = limits.complete()
		b := &batchTest{T: t, server: n.servers[0], sender: s, errs: make(map[string]error), took: make(map[string]time.Duration)}
		run(b)
		b.calls.Wait()
	})
}

// judge sets what the server says to mails.
func (b *batchTest) judge(judge func(mail string) string) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	b.server.judge = judge
}

// poison makes the server say so to mails with that word, and take all others.
func (b *batchTest) poison(word, reply string) {
	b.judge(func(mail string) string {
		if strings.Contains(mail, word) {
			return reply
		}
		return "250 slow ok"
	})
}

// send sends messages with these bodies in the background, in one call.
func (b *batchTest) send(ctx context.Context, bodies ...string) {
	var msgs []*transport.Message
	for _, body := range bodies {
		m := topicMessage(1)
		recipients, text, addressed := strings.Cut(body, ">")
		if m.Body = []byte(body); addressed {
			m.To, m.Body = strings.Split(recipients, ","), []byte(text)
		}
		m.Name = "/" + string(m.Body[:min(len(m.Body), 20)])
		msgs = append(msgs, m)
	}
	b.sendMessages(ctx, bodies[0], msgs)
}

func (b *batchTest) sendMessages(ctx context.Context, name string, msgs []*transport.Message) {
	b.calls.Go(func() {
		start := time.Now()
		err := b.sender.send(ctx, msgs)
		clear(msgs) // as a node does, which only lends the slice
		b.mu.Lock()
		defer b.mu.Unlock()
		b.errs[name], b.took[name] = err, time.Since(start)
	})
	synctest.Wait() // so that the calls come in order
}

// want waits for all calls, and wants the server to have got mails with these bodies.
func (b *batchTest) want(mails ...string) {
	b.Helper()
	b.calls.Wait()
	var got []string
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	for _, mail := range b.server.mails {
		got = append(got, strings.Join(bodiesOf(b.T, mail), " "))
	}
	if !slices.Equal(got, mails) {
		b.Errorf("mails %q, want %q", got, mails)
	}
}

// bodiesOf returns the bodies of the messages in a mail.
func bodiesOf(t *testing.T, mail string) (bodies []string) {
	if !strings.Contains(mail, "multipart/digest") {
		m, err := wire.Decode([]byte(mail))
		if err != nil {
			t.Fatal(err)
		}
		return []string{string(m.Body)}
	}
	messages, err := wire.DecodeBatch([]byte(mail))
	if err != nil {
		t.Fatal(err)
	}
	for m, err := range messages {
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(m.Body))
	}
	return bodies
}

// wantError wants a call to have ended so.
func (b *batchTest) wantError(call string, outcome transport.Outcome, taken int, is error) {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	err, ok := b.errs[call]
	failure, _ := errors.AsType[*transport.SendError](err)
	switch {
	case !ok:
		b.Errorf("%s has not returned", call)
	case outcome == 0:
		if err != nil {
			b.Errorf("%s: %v", call, err)
		}
	case failure == nil || failure.Outcome != outcome || failure.Taken != taken || is != nil && !errors.Is(err, is):
		b.Errorf("%s: error %v, want %v, %d taken, %v", call, err, outcome, taken, is)
	}
}

// reopen makes a closed sender fit for being closed again, which withServers does.
func (b *batchTest) reopen() {
	if err := b.sender.open(b.Context()); err != nil {
		b.Fatal(err)
	}
}
