package nats_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// Interests in durable names and groups are stated and stopped while the carrier is closed: nothing is left behind, and each Receive gets through
// or says why not.
func TestReceiveRacesWithClose(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	pub := newPublisher(openNode(t, kept(s)))
	for range 5 {
		carrier, err := nats.Open(limited(t), kept(s), nats.Options{Logger: quiet})
		check(t, err)
		pub.publish(t, 1)
		begun := make(chan struct{}, 1<<16)
		var users, acks sync.WaitGroup
		for _, in := range []transport.Interest{durable(), durable(), inGroup(), inGroup()} {
			users.Go(func() {
				for {
					stop, err := carrier.Receive(in, func(d transport.Delivery) {
						acks.Go(func() { _ = d.Ack() }) // it fails when the carrier is closed
					})
					switch {
					case errors.Is(err, transport.ErrClosed):
						return
					case err == nil:
						begun <- struct{}{}
						stop()
						stop()
					case !errors.Is(err, transport.ErrInUse) && !errors.Is(err, context.Canceled):
						t.Errorf("receive %+v: %v", in, err)
						return
					}
				}
			})
		}
		for range 20 {
			<-begun
		}
		check(t, carrier.Close(limited(t)))
		users.Wait()
		acks.Wait()
	}
	await(t, "the name is free", func() bool { // for the next
		next := open(t, kept(s))
		stop, err := next.Receive(durable(), newBox(t).Deliver)
		if err == nil {
			stop()
		}
		return err == nil
	})
}
