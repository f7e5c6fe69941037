package main

import (
	"context"
	"fmt"
	"time"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// The talker's programme.
const (
	chatterMessages = 12
	chatterPeriod   = 60 * time.Millisecond
)

// chatter has robot publish and peer listen.
func (d *demo) chatter(ctx context.Context) error {
	d.section("A topic", fmt.Sprintf("robot publishes on %s, peer listens. The time at the end is from publishing to receiving.", topicName))
	d.printf("")
	sub, err := pubsub.NewSubscription(d.peer, topicName, pubsub.KeepAll())
	if err != nil {
		return err
	}
	defer sub.Close()
	pub, err := pubsub.NewPublisher(d.robot, topicName)
	if err != nil {
		return err
	}
	d.wire.watch(pub.GID())
	return both(ctx,
		func(ctx context.Context) error { return d.listen(ctx, sub, pub.GID()) },
		func(ctx context.Context) error { return d.talk(ctx, pub) })
}

// chatterText is what message number n says.
func chatterText(n uint64) string { return fmt.Sprintf("Hello, this is message %d.", n) }

func (d *demo) talk(ctx context.Context, pub *pubsub.Publisher) error {
	pace := time.NewTicker(chatterPeriod)
	defer pace.Stop()
	for n := uint64(1); ; n++ {
		d.event("talker", "publishes %2d   %s", n, chatterText(n))
		if err := d.publish(ctx, pub, chatterText(n)); err != nil {
			return err
		}
		if n == chatterMessages {
			return nil
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return transport.ContextError(ctx)
		}
	}
}

func (d *demo) publish(ctx context.Context, pub *pubsub.Publisher, text string) error {
	ctx, cancel := d.step(ctx)
	defer cancel()
	if err := pub.Publish(ctx, []byte(text), transport.WithContentType("text/plain; charset=utf-8")); err != nil {
		return err
	}
	d.topic.addSent()
	return nil
}

// listen receives what the talker publishes, all of it.
func (d *demo) listen(ctx context.Context, sub *pubsub.Subscription, talker transport.GID) error {
	seen := make(map[uint64]bool)
	for len(seen) < chatterMessages {
		m, err := d.next(ctx, sub)
		if err != nil {
			return fmt.Errorf("%d of %d messages arrived: %w", len(seen), chatterMessages, err)
		}
		n := m.Info.Sequence
		if m.Info.PublisherGID != talker || seen[n] {
			continue // somebody else's, or one that the mail system has doubled
		}
		if string(m.Body) != chatterText(n) {
			return fmt.Errorf("message %d arrived as %q", n, m.Body)
		}
		seen[n] = true
		took := m.Info.ReceivedTime.Sub(m.Info.SourceTime)
		d.topic.addReceived(took)
		d.event("listener", "receives  %2d   %-44s %10s", n, m.Body, milliseconds(took))
	}
	return nil
}

func (d *demo) next(ctx context.Context, sub *pubsub.Subscription) (*transport.Message, error) {
	ctx, cancel := d.step(ctx)
	defer cancel()
	return sub.Next(ctx)
}
