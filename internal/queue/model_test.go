package queue_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/internal/queue"
	"github.com/postbus/postbus/transport"
)

// TestAgainstModel does random things to a queue and to a slice.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runAgainstModel(t, seed) })
		})
	}
}

func runAgainstModel(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	depth := 1 + random.IntN(12)
	const lifespan = 20 * time.Second
	q := queue.New(transport.QoS{Depth: depth, Lifespan: lifespan})
	var model []transport.Delivery
	var dropped uint64
	for seq := range uint64(500) {
		switch random.IntN(4) {
		case 0, 1:
			d := numbered(seq)
			q.Push(d)
			model = append(model, d)
			if len(model) > depth {
				model = model[1:]
				dropped++
			}
		case 2:
			time.Sleep(time.Duration(random.IntN(5)) * time.Second)
		case 3:
			d, ok := q.TryPop()
			if ok != (len(model) > 0) || ok && d.Message != model[0].Message {
				t.Fatalf("step %d: TryPop = %v, %v, want %v", seq, d.Message, ok, len(model) > 0)
			}
			if ok {
				model = model[1:]
			}
		}
		for len(model) > 0 && time.Since(model[0].Message.Info.SourceTime) > lifespan {
			model = model[1:]
			dropped++
		}
		if ready := q.Ready(); ready != (len(model) > 0) || q.Dropped() != dropped || q.Len() != len(model) {
			t.Fatalf("step %d: Ready %v, Dropped %d, Len %d, want %v, %d, %d",
				seq, ready, q.Dropped(), q.Len(), len(model) > 0, dropped, len(model))
		}
	}
}
