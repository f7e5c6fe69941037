package main

import (
	"bytes"
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/postbus/postbus/internal/bench"
)

// watermillAsync is Watermill's gochannel as it is by default: a goroutine for each message.
func watermillAsync(context.Context) (bench.Ground, error) {
	return watermillGround(gochannel.Config{OutputChannelBuffer: 1024})
}

// watermillAcked has Publish wait for the Ack of the subscribers, which keeps the order.
func watermillAcked(context.Context) (bench.Ground, error) {
	return watermillGround(gochannel.Config{OutputChannelBuffer: 1024, BlockPublishUntilSubscriberAck: true})
}

func watermillGround(config gochannel.Config) (bench.Ground, error) {
	w := watermillSystem{config}
	return bench.Ground{Ours: w, OpenCaller: w.openCaller, Close: func(context.Context) error { return nil }}, nil
}

type watermillSystem struct{ config gochannel.Config }

type watermillSession struct {
	*gochannel.GoChannel
	subs []<-chan *message.Message
}

// Open implements bench.System.
func (w watermillSystem) Open(_ context.Context, load bench.Load) (bench.Session, error) {
	s := &watermillSession{GoChannel: gochannel.NewGoChannel(w.config, nil)}
	for range load.Subscribers {
		sub, err := s.Subscribe(context.Background(), "bench")
		if err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		s.subs = append(s.subs, sub)
	}
	return s, nil
}

// Publish implements bench.Session.
func (s *watermillSession) Publish(_ context.Context, publisher int, number uint64, body []byte) error {
	return s.GoChannel.Publish("bench", message.NewMessage(watermill.NewUUID(), marked(publisher, number, body)))
}

var errEnded = errors.New("the subscription has ended")

// Next implements bench.Session.
func (s *watermillSession) Next(ctx context.Context, subscriber int) (bench.Arrival, error) {
	m, err := next(ctx, s.subs[subscriber])
	if err != nil {
		return bench.Arrival{}, err
	}
	return arrival(m.Payload)
}

// next takes a message and acknowledges it.
func next(ctx context.Context, from <-chan *message.Message) (*message.Message, error) {
	select {
	case m, ok := <-from:
		if !ok {
			return nil, errEnded
		}
		m.Ack()
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements bench.Session.
func (s *watermillSession) Close(context.Context) error { return s.GoChannel.Close() }

// watermillCaller is a round trip over two topics.
type watermillCaller struct {
	*gochannel.GoChannel
	answers <-chan *message.Message
	served  chan struct{} // closed when the server has ended
}

func (w watermillSystem) openCaller(context.Context, bench.Load) (bench.Caller, error) {
	c := &watermillCaller{GoChannel: gochannel.NewGoChannel(w.config, nil), served: make(chan struct{})}
	requests, err := c.Subscribe(context.Background(), "requests")
	if err == nil {
		c.answers, err = c.Subscribe(context.Background(), "answers")
	}
	if err != nil {
		return nil, errors.Join(err, c.GoChannel.Close())
	}
	go func() {
		defer close(c.served)
		for m := range requests {
			m.Ack()
			// It only fails when all is closed.
			_ = c.Publish("answers", message.NewMessage(watermill.NewUUID(), bytes.Clone(m.Payload)))
		}
	}()
	return c, nil
}

// Call implements bench.Caller.
func (c *watermillCaller) Call(ctx context.Context, _ int, body []byte) ([]byte, error) {
	if err := c.Publish("requests", message.NewMessage(watermill.NewUUID(), bytes.Clone(body))); err != nil {
		return nil, err
	}
	m, err := next(ctx, c.answers)
	if err != nil {
		return nil, err
	}
	return m.Payload, nil
}

// Close implements bench.Caller.
func (c *watermillCaller) Close(context.Context) error {
	err := c.GoChannel.Close()
	<-c.served
	return err
}
