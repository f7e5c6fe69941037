package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// publish publishes Count messages, and stays until ctx ends: what it has left to be sent
// in the background still is.
func (w *worker) publish(ctx context.Context) error {
	parallel := max(w.Parallel, 1)
	ended := make(chan error, parallel)
	for i := range parallel {
		count := w.Count / uint64(parallel)
		if uint64(i) < w.Count%uint64(parallel) {
			count++
		}
		go func() { ended <- w.publishSome(ctx, newRandom(w.Seed, fmt.Sprint(w.Process, ".", i)), count) }()
	}
	var errs error
	for range parallel {
		errs = errors.Join(errs, <-ended)
	}
	if errs == nil {
		<-ctx.Done()
	}
	return errs
}

// publishSome is one of the publishers.
func (w *worker) publishSome(ctx context.Context, random *random, count uint64) error {
	pub, err := pubsub.NewPublisher(w.node, w.Topic)
	if err != nil {
		return err
	}
	gid := pub.GID().String()
	for n := uint64(1); n <= count; n++ {
		body := random.body(gid, n, w.MaxBody)
		if err := w.publishOne(ctx, pub, n, body); err != nil {
			return err
		}
		if !backoff.Sleep(ctx, w.Every) {
			return nil
		}
	}
	return nil
}

// publishOne publishes a message. Its errors are those of the history only.
func (w *worker) publishOne(ctx context.Context, pub *pubsub.Publisher, n uint64, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	event := history.Event{Kind: history.Publish, Publisher: pub.GID().String(), Number: n, Hash: history.Hash(body), Topic: w.Topic}
	var logged error
	failed := pub.Publish(ctx, body, func(m *transport.Message) {
		event.Sequence = m.Info.Sequence
		logged = w.log.Add(event)
	})
	outcome := history.Event{Kind: history.Acked, Publisher: event.Publisher, Number: n}
	if failed != nil {
		outcome.Kind, outcome.Text = history.Failed, failed.Error()
		if e, ok := errors.AsType[*transport.SendError](failed); ok && e.Outcome == transport.Unknown {
			outcome.Kind = history.Unknown
		}
	}
	return errors.Join(logged, w.log.Add(outcome))
}

// subscribe handles what comes until ctx ends.
func (w *worker) subscribe(ctx context.Context) error {
	sub, err := pubsub.NewSubscription(w.node, w.Topic, w.subscriptionOptions()...)
	if err != nil {
		return err
	}
	defer sub.Close()
	open := history.Event{Kind: history.Open, Receiver: w.Receiver, Topic: w.Topic, Mode: w.Mode, Lease: int64(w.Lease)}
	if err := w.log.Add(open); err != nil {
		return err
	}
	for {
		d, err := sub.Take(ctx)
		if err != nil {
			if n := sub.Dropped(); n > 0 {
				return w.log.Add(history.Event{Kind: history.Dropped, Receiver: w.Receiver, Number: n})
			}
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := w.handle(ctx, d); err != nil {
			return err
		}
	}
}

func (w *worker) subscriptionOptions() []pubsub.SubscriptionOption {
	options := []pubsub.SubscriptionOption{pubsub.OnGap(w.gap)}
	switch w.Mode {
	case history.Durable:
		options = append(options, pubsub.Durable(w.Receiver))
	case history.Group:
		options = []pubsub.SubscriptionOption{pubsub.Group(w.Receiver), pubsub.Lease(w.Lease)}
	default:
		options = append(options, pubsub.KeepAll())
	}
	if w.GapWait != 0 {
		options = append(options, pubsub.GapWait(w.GapWait))
	}
	if w.Keep > 0 && (w.Mode == history.Durable || w.Mode == history.Group) {
		options = append(options, pubsub.KeepLast(w.Keep))
	}
	return options
}

func (w *worker) gap(g transport.Gap) {
	err := w.log.Add(history.Event{Kind: history.Gap, Receiver: w.Receiver, Publisher: g.Publisher.String(), Number: g.First, Last: g.Last})
	if err != nil {
		w.node.Logger().Error("a gap is not in the history", "error", err)
	}
}

// handle handles a message, and says so before and after each step.
func (w *worker) handle(ctx context.Context, d transport.Delivery) error {
	m := d.Message
	gid, n, ok := Parse(m.Body)
	if !ok {
		gid, n = m.Info.PublisherGID.String(), m.Info.Sequence // it is no body of ours, and will be found out
	}
	event := history.Event{Receiver: w.Receiver, Publisher: gid, Number: n}
	taken := event
	taken.Kind, taken.Hash, taken.Attempt, taken.Sequence = history.Take, history.Hash(m.Body), d.Attempt, m.Info.Sequence
	if err := w.log.Add(taken); err != nil {
		return err
	}
	if !backoff.Sleep(ctx, w.random.upTo(w.Work)) {
		return nil // given back when the subscription is closed
	}
	if w.NackEvery > 0 && d.Attempt == 1 && w.random.IntN(w.NackEvery) == 0 {
		event.Kind = history.Nack
		if err := w.log.Add(event); err != nil {
			return err
		}
		d.Nack(w.random.upTo(500*time.Millisecond), "given back for a test")
		return nil
	}
	return w.settle(event, history.Ack, history.Done, history.Unacked, d.Ack)
}

// settle puts on record that a message is done with, and then that this is so.
func (w *worker) settle(event history.Event, before, done, failed history.Kind, ack func() error) error {
	event.Kind = before
	if err := w.log.Add(event); err != nil {
		return err
	}
	event.Kind = done
	if err := ack(); err != nil {
		event.Kind, event.Text = failed, err.Error()
	}
	return w.log.Add(event)
}
