package torture_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/postbus/postbus/internal/torture"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/transport"
)

// plantEnv gives the carrier of a worker a bug.
const plantEnv = "POSTBUS_TORTURE_PLANT"

// planted is a carrier with a bug: it drops, duplicates or swaps one message.
type planted struct {
	transport.Carrier
	bug string
}

func plant(bug string) func(transport.Carrier) transport.Carrier {
	if bug == "" {
		return nil
	}
	return func(c transport.Carrier) transport.Carrier { return planted{c, bug} }
}

// victim is the delivery that the bug strikes.
const victim = 20

// Receive implements transport.Receiver.
func (p planted) Receive(interest transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	if interest.Kind != transport.TopicMessage {
		return p.Carrier.Receive(interest, deliver)
	}
	var count atomic.Int64
	var held *transport.Delivery // deliveries come one at a time
	return p.Carrier.Receive(interest, func(d transport.Delivery) {
		switch n := count.Add(1); {
		case n == victim && p.bug == "drop":
			go d.Ack() // deliver does not block; the process lives longer
		case n == victim && p.bug == "duplicate":
			deliver(d)
			deliver(transport.Delivery{Message: d.Message})
		case n == victim && p.bug == "reorder":
			held = &d
		default:
			deliver(d)
			if held != nil {
				deliver(*held)
				held = nil
			}
		}
	})
}

// TestPlantedBugs: the harness as a whole finds a message that is dropped, comes twice, or is
// swapped with the next one, in a plain subscription, a durable one and each member of a group. A group
// has no order, and so none that could be wrong.
func TestPlantedBugs(t *testing.T) {
	all := []history.Violation{history.Lost, history.Duplicated, history.OutOfOrder, history.Corrupted, history.Strange}
	for bug, want := range map[string]struct {
		what  history.Violation
		least int // one for each end; one of the members may come away with none
	}{
		"drop":      {history.Lost, 3},
		"duplicate": {history.Duplicated, 3},
		"reorder":   {history.OutOfOrder, 2},
	} {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			o := options(t, embedded(t))
			o.Env = append(o.Env, plantEnv+"="+bug)
			o.Load = torture.Load{Messages: 100, Publishers: 1, Plains: 1, Durables: 1, Members: 2, Every: 5 * time.Millisecond}
			o.Patience, o.Settle = 3*time.Second, 100*time.Millisecond
			report, err := torture.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("\n%v", report)
			for _, v := range all {
				if found := report.Violations[v]; v == want.what && found < want.least || v != want.what && found > 0 {
					t.Errorf("%d times %q", found, v)
				}
			}
		})
	}
}
