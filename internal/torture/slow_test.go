package torture_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
)

// TestOneByteAtATime: it does not matter how the bytes of either side are cut into packets.
func TestOneByteAtATime(t *testing.T) {
	t.Parallel()
	for _, protocol := range []mailserver.Service{mailserver.SMTP, mailserver.IMAP} {
		t.Run(protocol.String(), func(t *testing.T) {
			l := newLane(t, protocol)
			for _, d := range []proxy.Direction{proxy.ToServer, proxy.ToClient} {
				l.proxy.Set(d, proxy.Rule{Piece: 1})
			}
			for range 20 {
				l.send()
			}
			l.check()
		})
	}
}

// TestLateReplies: the publisher gives up while a reply of the server is on its way, whichever, and at
// any byte of it. What it is told then is true: a message that was not sent does not come, and one of which that is
// unknown does not come twice.
func TestLateReplies(t *testing.T) {
	measure := newLane(t, mailserver.SMTP)
	length := measure.session(proxy.ToClient, -1)
	for _, at := range []int64{0, 1} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			lateReplies(newLane(t, mailserver.SMTP), at*lateStride/2, lateStride, length)
		})
	}
}

const lateStride = 60

func lateReplies(l *lane, first, stride, length int64) {
	for at := first; at <= length; at += stride {
		l.proxy.Heal()
		l.proxy.Cut()
		l.proxy.HoldAfter(proxy.ToClient, at)
		ctx, cancel := context.WithTimeout(l.Context(), 100*time.Millisecond)
		l.publish(ctx)
		cancel()
		l.proxy.Heal()
		l.publish(l.Context())
		for l.pending() {
			l.take(l.Context())
		}
	}
	l.session(proxy.ToClient, -1)
	l.check()
}
