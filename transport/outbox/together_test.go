package outbox_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// together is a carrier that sends what it gets in one call as one mail.
type together struct {
	*hop
	outcomes []transport.Outcome // of the next mails
}

func (c *together) Send(ctx context.Context, msgs ...*transport.Message) error {
	if len(c.outcomes) == 0 {
		return c.hop.Send(ctx, msgs...)
	}
	e := &transport.SendError{Name: "/t", Outcome: c.outcomes[0], Err: errDown, With: len(msgs) - 1}
	c.outcomes = c.outcomes[1:]
	return e
}

// TestTogether: the messages of a mail that is refused are dead letters, all of them; those of an earlier mail of which nobody
// knows what has become say so.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(t)
		down := newHop(func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) })
		o := open(t, down, outbox.Options{File: file})
		send(t, o, newPublisher().several("a", 2)...)
		send(t, o, newPublisher().several("b", 2)...)
		closeBox(t, o)
		c := &together{hop: newHop(nil), outcomes: []transport.Outcome{transport.Unknown, transport.Permanent, transport.Permanent}}
		o = open(t, c, outbox.Options{File: file, Batch: 10})
		time.Sleep(time.Hour)
		dead := entries(t, o.Dead())
		if len(dead) != 4 || len(c.taken) > 0 {
			t.Fatalf("%d dead letters and %d messages sent, want 4 and 0", len(dead), len(c.taken))
		}
		for _, e := range dead {
			if !strings.Contains(e.Dead.Reason, "may have got it through") {
				t.Errorf("message %s: %q", e.Message.Body, e.Dead.Reason)
			}
		}
	})
}
