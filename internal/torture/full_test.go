//go:build integration

package torture_test

import (
	"fmt"
	"testing"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
)

// lanes are used at once by the full versions.
const lanes = 8

// TestFullSweepSMTP, and the two below it, leave out no byte.
func TestFullSweepSMTP(t *testing.T) { sweep(t, mailserver.SMTP, 1, lanes, 1) }

func TestFullSweepIMAP(t *testing.T) { sweep(t, mailserver.IMAP, 1, lanes, 1) }

func TestFullLateReplies(t *testing.T) {
	length := newLane(t, mailserver.SMTP).session(proxy.ToClient, -1)
	for at := range int64(lanes) {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			lateReplies(newLane(t, mailserver.SMTP), at, lanes, length)
		})
	}
}
