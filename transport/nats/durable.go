package nats

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
)

// openStreams gets the streams and the bucket of the configuration ready. While there is no connection that waits until they are
// needed.
func (c *Carrier) openStreams(ctx context.Context) error {
	c.background, c.stop = context.WithCancel(context.Background())
	c.settling, c.giveUp = context.WithCancel(context.Background())
	c.confirmations.carrier = c
	js, err := jetstream.New(c.conn, jetstream.WithPublishAsyncTimeout(apiTimeout), jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return err
	}
	c.js = js
	for _, s := range c.config.Streams {
		c.streams = append(c.streams, newStream(c, s))
	}
	if c.config.Objects.Bucket != "" {
		c.bucket = &bucket{Objects: c.config.Objects, carrier: c, reading: make(chan struct{}, objectsAtOnce)}
		c.bucket.warn(c.streams)
	}
	if c.config.Cache.Bucket != "" {
		c.cache = &cache{Cache: c.config.Cache, carrier: c, js: js}
	}
	if !c.conn.IsConnected() {
		return nil
	}
	for _, s := range c.streams {
		if err := s.ensure(ctx); err != nil {
			return err
		}
	}
	if c.bucket != nil {
		if _, err = c.bucket.open(ctx); err != nil {
			return err
		}
	}
	if c.cache != nil {
		_, err = c.cache.open(ctx)
	}
	return err
}

// completeStreams returns the configuration with the defaults of its streams and bucket.
func (c Config) completeStreams() (Config, error) {
	var err error
	if c.Streams, err = checkStreams(c.Streams); err != nil {
		return c, err
	}
	if c.Objects, err = c.Objects.complete(); err != nil {
		return c, err
	}
	c.Cache, err = c.Cache.complete()
	return c, err
}

// work does something in the background, unless Close has begun. Close waits for it; its context ends when Close begins.
func (c *Carrier) work(f func(context.Context)) (begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	c.working.Go(func() { f(c.background) })
	return true
}

// kept reports whether an interest is one that needs a stream. A group does not: without one it shares, and nothing is
// delivered again.
func (c *Carrier) kept(in transport.Interest) (s *stream, ok bool) {
	s = c.streamOf(Subject(in.Name))
	return s, in.Durable != "" || in.Last > 0 || in.Group != "" && s != nil
}

// receiveKept states an interest that needs a stream.
func (c *Carrier) receiveKept(s *stream, in transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	if s == nil {
		return nil, fmt.Errorf("nats: %s: Durable and Last need a stream that keeps all messages of the name, and the configuration has none (streams): %w", in.Name, transport.ErrNotSupported)
	}
	ctx, cancel := context.WithTimeout(c.background, apiTimeout)
	defer cancel()
	var p *puller
	leave := func() {}
	if in.Tracked() {
		var m *member
		if m, err = s.join(ctx, in, deliver); err == nil {
			p, leave = m.puller, m.leave
		}
	} else {
		p, err = c.receiveLast(ctx, s, in, deliver)
	}
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	pulling, end := context.WithCancel(c.background)
	if !c.work(func(context.Context) { p.run(pulling) }) {
		end()
		leave()
		return nil, c.closedError()
	}
	if in.Group != "" { // from now on it shares in what comes
		select {
		case <-p.begun:
		case <-ctx.Done():
		}
	}
	return func() {
		end()
		leave()
	}, nil
}

// closeStreams ends the interests that need a stream, and gives back what is not settled. Nothing is begun any more.
func (c *Carrier) closeStreams(ctx context.Context) {
	defer context.AfterFunc(ctx, c.giveUp)()
	c.stop()
	idle := make(chan struct{})
	go func() {
		c.working.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	var consumers sync.WaitGroup
	for _, s := range c.streams {
		s.mu.Lock()
		for _, known := range s.consumers {
			consumers.Go(known.close)
		}
		s.mu.Unlock()
	}
	consumers.Wait()
	c.giveUp()
}

// stored returns a message that comes from a stream, or nil if it is not of the kind that the interest is in.
func (c *Carrier) stored(msg *nats.Msg, in transport.Interest) (*transport.Message, error) {
	name, ok := Name(msg.Subject)
	if !ok || !transport.MatchName(in.Name, name) {
		return nil, nil
	}
	return c.storedFields(c.background, msg.Header, msg.Data, in, name)
}

// forStreams are header fields that only streams read, or how those begin.
var forStreams = [...]string{
	jetstream.MsgIDHeader, "Nats-Expected-", jetstream.MsgTTLHeader, jetstream.MsgRollup, "Nats-Batch-", "Nats-Schedule", "Nats-Incr",
}

// isForStream reports whether a header has a field that only streams read.
func isForStream(header nats.Header) bool {
	for field := range header {
		for _, beginning := range forStreams {
			if strings.HasPrefix(field, beginning) {
				return true
			}
		}
	}
	return false
}

// replySubject returns where the answer to a request that comes without a stream is wanted. Of a request that is sent to a stream
// its field says so: the reply subject is for the stream's confirmation, and nobody else answers there. That it is may also be told by
// fields for streams alone, when the configuration has none. The field of another program is not ours.
func (c *Carrier) replySubject(msg *nats.Msg, ours bool) string {
	if to := msg.Header[headerReplyTo]; ours && len(to) > 0 {
		return to[0]
	}
	if c.streamOf(msg.Subject) != nil || !ours && isForStream(msg.Header) {
		return ""
	}
	return msg.Reply
}

// storedFields is stored for what the message has. One of another program is a topic message, or a request if its field says
// where an answer would reach its sender.
func (c *Carrier) storedFields(ctx context.Context, header nats.Header, body []byte, in transport.Interest, name string) (*transport.Message, error) {
	m, ours := read(header, body)
	reply := first(header, headerReplyTo)
	if !ours {
		m.Kind, m.InReplyTo, m.Error = transport.TopicMessage, transport.ID{}, nil
		if in.Kind == transport.Request && canAnswer(reply) {
			m.Kind = transport.Request
		}
	}
	if m.Kind != in.Kind {
		return nil, nil
	}
	if m.Kind == transport.Request && canAnswer(reply) {
		m.ReplyTo = replyAddress{subject: reply, plain: !ours}.String()
		if m.From == "" {
			m.From = reply
		}
	}
	m.Name = name
	m.Info.ReceivedTime = time.Now()
	if m.Info.SourceTime.IsZero() {
		m.Info.SourceTime = m.Info.ReceivedTime
	}
	if !ours {
		return m, nil
	}
	return m, c.bodyOf(ctx, header, m)
}
