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
// swapped with the next one.
func TestPlantedBugs(t *testing.T) {
	for bug, want := range map[string]history.Violation{"drop": history.Lost, "duplicate": history.Duplicated, "reorder": history.OutOfOrder} {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			o := options(t, embedded(t))
			o.Env = append(o.Env, plantEnv+"="+bug)
			o.Load = torture.Load{Messages: 50, Publishers: 1, Plains: 1}
			o.Patience, o.Settle = time.Second, 100*time.Millisecond
			report, err := torture.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("\n%v", report)
			for _, v := range []history.Violation{history.Lost, history.Duplicated, history.OutOfOrder, history.Corrupted, history.Strange} {
				if found := report.Violations[v] > 0; found != (v == want) {
					t.Errorf("%d times %q", report.Violations[v], v)
				}
			}
		})
	}
}
