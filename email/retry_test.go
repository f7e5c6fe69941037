package email_test

import (
	"bytes"
	"context"
	"errors"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// inbox returns the Message-IDs of the mails in the person's inbox.
func (o *office) inbox() (ids []string) {
	o.Helper()
	mails, err := o.server.Messages(o.person)
	if err != nil {
		o.Fatal(err)
	}
	for _, raw := range mails {
		m, err := mail.ReadMessage(bytes.NewReader(raw))
		if err != nil {
			o.Fatal(err)
		}
		ids = append(ids, m.Header.Get("Message-ID"))
	}
	return ids
}

// TestPublishDuringOutage: what is published while the server is away is sent once when it is
// back, and what ran out of time before that is certainly not sent.
func TestPublishDuringOutage(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	pub, err := pubsub.NewPublisher(o.node, "/t")
	if err != nil {
		t.Fatal(err)
	}
	o.server.Stop(mailserver.SMTP)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // enough for an attempt on a busy machine
	defer cancel()
	err = pub.Publish(ctx, []byte("given up"))
	failure, ok := errors.AsType[*transport.SendError](err)
	if !ok || failure.Outcome != transport.Temporary || failure.Name != "/t" || !errors.Is(err, transport.ErrTimeout) ||
		!strings.Contains(err.Error(), "not sent") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v", err)
	}
	const many = 20
	sent := make(chan error, many)
	for range many {
		go func() { sent <- pub.Publish(t.Context(), []byte("waiting")) }()
	}
	time.Sleep(500 * time.Millisecond) // an outage has to last
	if len(sent) > 0 {
		t.Errorf("published to nobody: %v", <-sent)
	}
	if err := o.server.Resume(mailserver.SMTP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for range many {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the messages went out %v after the server was back", took)
	}
	seen := make(map[string]bool)
	for _, id := range o.inbox() {
		seen[id] = true
	}
	if n := len(o.inbox()); n != many || len(seen) != many {
		t.Errorf("%d mails with %d IDs arrived, want %d", n, len(seen), many)
	}
}

// TestPublishUnknown: when the answer to a mail is lost it is sent again under the same
// Message-ID.
func TestPublishUnknown(t *testing.T) {
	t.Parallel()
	var between *proxy.Proxy
	o := newOffice(t, func(c *email.Config) {
		var err error
		if between, err = proxy.Listen(strings.TrimPrefix(c.SMTP, "smtp+insecure://")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { between.Close() })
		c.SMTP = "smtp+insecure://" + between.Addr()
	})
	pub, err := pubsub.NewPublisher(o.node, "/t")
	if err != nil {
		t.Fatal(err)
	}
	publish := func() {
		t.Helper()
		if err := pub.Publish(t.Context(), []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	before := between.Passed(proxy.ToClient)
	publish()
	// All answers but the last, and its first byte.
	answers := between.Passed(proxy.ToClient) - before - int64(len("50 2.0.0 OK: queued\r\n"))
	between.CutAfter(proxy.ToClient, answers)
	publish()
	ids := o.inbox()
	if len(ids) != 3 || ids[0] == ids[1] || ids[1] != ids[2] {
		t.Errorf("mails %q arrived, want the second twice", ids)
	}
	// Without time for another attempt the caller gets to know that it is unknown.
	between.HoldAfter(proxy.ToClient, answers)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = pub.Publish(ctx, []byte("hello"))
	if failure, ok := errors.AsType[*transport.SendError](err); !ok || failure.Outcome != transport.Unknown || !errors.Is(err, transport.ErrTimeout) {
		t.Errorf("error %v", err)
	}
	if n := len(o.inbox()); n != 4 {
		t.Errorf("%d mails arrived, want 4", n)
	}
	between.Heal()
}
