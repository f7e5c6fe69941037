package torture_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture"
)

// gone is a server whose SMTP service does not come back.
type gone struct{ torture.Embedded }

func (g gone) Outages() []torture.Outage {
	return []torture.Outage{{Name: "gone", Begin: func() error { g.Stop(mailserver.SMTP); return nil }}}
}

// Faults alone are no progress: a run in which nothing gets through any more ends.
func TestNothingGetsThrough(t *testing.T) {
	t.Parallel()
	o := options(t, gone{embedded(t)})
	o.Patience = 2 * time.Second
	o.Load = torture.Load{Messages: 1 << 20, Publishers: 1, Durables: 1, Every: time.Millisecond, Timeout: 100 * time.Millisecond}
	o.Faults = []string{"gone", "cut"}
	o.FaultEvery = 10 * time.Millisecond
	report, err := torture.Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "nothing has got through") {
		t.Errorf("the run ended with %v", err)
	}
	if report == nil || !report.OK() {
		t.Errorf("the report:\n%v", report)
	}
}

// interrupting is a server at which the run is interrupted when some messages have been published.
type interrupting struct {
	torture.Embedded
	interrupt func()
}

func (i interrupting) Outages() []torture.Outage {
	return []torture.Outage{{Name: "interrupt", Begin: func() error {
		mails, err := i.Messages(i.Server.Accounts()[1].Address)
		if len(mails) >= 20 {
			i.interrupt()
		}
		return err
	}}}
}

// What is owed when a run is interrupted is not lost.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := options(t, interrupting{embedded(t), cancel})
	// The handlers are slower than the publisher.
	o.Load = torture.Load{Messages: 1 << 20, Publishers: 1, Durables: 1, Every: time.Millisecond, Work: time.Second}
	o.Faults = []string{"interrupt"}
	o.FaultEvery = 50 * time.Millisecond
	report, err := torture.Run(ctx, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the run ended with %v", err)
	}
	if report == nil || !report.OK() || report.Unawaited == 0 {
		t.Errorf("the report:\n%v", report)
	}
}
