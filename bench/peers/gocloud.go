package main

import (
	"bytes"
	"context"
	"errors"
	"time"

	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/mempubsub"

	"github.com/postbus/postbus/internal/bench"
)

// gocloud is gocloud.dev's pubsub in memory.
func gocloud(context.Context) (bench.Ground, error) {
	return bench.Ground{Ours: gocloudSystem{}, OpenCaller: gocloudCall, Close: func(context.Context) error { return nil }}, nil
}

type gocloudSystem struct{}

// gocloudTopic is a topic with its subscriptions.
type gocloudTopic struct {
	topic *pubsub.Topic
	subs  []*pubsub.Subscription
}

func newGocloudTopic(subscribers int) *gocloudTopic {
	t := &gocloudTopic{topic: mempubsub.NewTopic()}
	for range subscribers {
		t.subs = append(t.subs, mempubsub.NewSubscription(t.topic, time.Minute))
	}
	return t
}

// Open implements bench.System.
func (gocloudSystem) Open(_ context.Context, load bench.Load) (bench.Session, error) {
	return newGocloudTopic(load.Subscribers), nil
}

// Publish implements bench.Session.
func (t *gocloudTopic) Publish(ctx context.Context, publisher int, number uint64, body []byte) error {
	return t.topic.Send(ctx, &pubsub.Message{Body: marked(publisher, number, body)})
}

// Next implements bench.Session.
func (t *gocloudTopic) Next(ctx context.Context, subscriber int) (bench.Arrival, error) {
	m, err := t.receive(ctx, subscriber)
	if err != nil {
		return bench.Arrival{}, err
	}
	return arrival(m.Body)
}

func (t *gocloudTopic) receive(ctx context.Context, subscriber int) (*pubsub.Message, error) {
	m, err := t.subs[subscriber].Receive(ctx)
	if err != nil {
		return nil, err
	}
	m.Ack()
	return m, nil
}

// Close implements bench.Session.
func (t *gocloudTopic) Close(ctx context.Context) error {
	err := t.topic.Shutdown(ctx)
	for _, s := range t.subs {
		err = errors.Join(err, s.Shutdown(ctx))
	}
	return err
}

// gocloudCaller is a round trip over two topics.
type gocloudCaller struct {
	requests, answers *gocloudTopic
	stop              context.CancelFunc
	served            chan struct{}
}

func gocloudCall(context.Context, bench.Load) (bench.Caller, error) {
	ctx, stop := context.WithCancel(context.Background())
	c := &gocloudCaller{newGocloudTopic(1), newGocloudTopic(1), stop, make(chan struct{})}
	go func() {
		defer close(c.served)
		for {
			m, err := c.requests.receive(ctx, 0)
			if err != nil {
				return
			}
			// It only fails when all is closed.
			_ = c.answers.topic.Send(ctx, &pubsub.Message{Body: bytes.Clone(m.Body)})
		}
	}()
	return c, nil
}

// Call implements bench.Caller.
func (c *gocloudCaller) Call(ctx context.Context, _ int, body []byte) ([]byte, error) {
	if err := c.requests.topic.Send(ctx, &pubsub.Message{Body: bytes.Clone(body)}); err != nil {
		return nil, err
	}
	m, err := c.answers.receive(ctx, 0)
	if err != nil {
		return nil, err
	}
	return m.Body, nil
}

// Close implements bench.Caller.
func (c *gocloudCaller) Close(ctx context.Context) error {
	c.stop()
	<-c.served
	return errors.Join(c.requests.Close(ctx), c.answers.Close(ctx))
}
