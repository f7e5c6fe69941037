package nats

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// follower is an interest in topic messages that begins with the last ones: it gets all from the stream, old and new, from
// a place on. It implements source.
type follower struct {
	stream   *stream
	interest transport.Interest
	deliver  func(transport.Delivery)
	first    uint64    // the number of the next message to be delivered, or below it; 0 until it is known
	end      uint64    // the number of the last message from before the interest
	created  time.Time // when the stream was, or zero until end is known
	// delivered has our messages that have been: the stream keeps one twice that is sent again after a while.
	delivered order.Memory
}

// followed is how many messages are asked for at once, besides those from before.
const followed = 256

// receiveLast states an interest that begins with the last messages of a stream. What is last is decided before it returns, if
// there is a connection.
func (c *Carrier) receiveLast(ctx context.Context, s *stream, in transport.Interest, deliver func(transport.Delivery)) (*puller, error) {
	f := &follower{stream: s, interest: in, deliver: deliver}
	if err := f.begin(ctx); lasting(err) {
		return nil, err
	} else if err != nil {
		c.logger.Warn("nats: an interest begins later", "name", in.Name, "stream", s.Name, "error", err)
	}
	return &puller{source: f, conn: c.conn, stream: s.Name, size: followed, label: fmt.Sprintf("the last %d messages", in.Last), logger: c.logger, settling: c.settling}, nil
}

// begin finds out where the interest begins, and begins anew with a stream that has been created anew.
func (f *follower) begin(ctx context.Context) error {
	if err := f.stream.ensure(ctx); err != nil {
		return err
	}
	end, created, err := f.stream.lastNumber(ctx)
	switch {
	case err != nil:
		return err
	case f.created.IsZero():
		f.end, f.created = end, created
	case !f.created.Equal(created):
		f.first, f.created = 1, created
	}
	return nil
}

// prepare implements source: its consumer is for one session, and forgotten by the server after it.
func (f *follower) prepare(ctx context.Context) (s supply, err error) {
	if err := f.begin(ctx); err != nil {
		return supply{}, err
	}
	if f.first == 0 {
		if f.first, err = f.stream.firstOf(ctx, f.interest, f.end); err != nil {
			return supply{}, err
		}
	}
	found, err := f.stream.look(ctx, Subject(f.interest.Name), f.first, false)
	if err != nil {
		return supply{}, err
	}
	return supply{consumer: found.CachedInfo().Name, next: 1}, nil
}

// room implements source: deliver takes everything.
func (f *follower) room() int { return followed }

// take implements source.
func (f *follower) take(msg *nats.Msg, p place) {
	f.first = p.stream + 1
	m, err := f.stream.carrier.stored(msg, f.interest)
	switch {
	case err != nil:
		f.stream.carrier.logger.Warn("nats: a message is lost that can't be read", "stream", f.stream.Name, "number", p.stream, "error", err)
	case m != nil && (m.Info.PublisherGID.IsZero() || f.delivered.Add(order.KeyOf(m), order.SourceTime(m))):
		f.deliver(transport.Delivery{Message: m})
	}
}

// flush implements source.
func (f *follower) flush(context.Context) error { return nil }

// refuse implements source.
func (f *follower) refuse([]*nats.Msg, time.Time) {}

// look creates a consumer for a short time that gives all messages of a subject from a number on, or their headers.
func (s *stream) look(ctx context.Context, subject string, from uint64, headers bool) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	found, err := s.carrier.js.CreateConsumer(ctx, s.Name, jetstream.ConsumerConfig{
		Description:   "last messages, for a node of postbus",
		FilterSubject: subject,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: headers,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: lookAge,
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.Name, s.failure(err))
	}
	return found, nil
}

// lookAge is for how long a consumer is kept that nobody pulls from.
const lookAge = 3 * pullHeartbeat

// lastNumber returns the number of the last message in the stream, and when the stream was created.
func (s *stream) lastNumber(ctx context.Context) (last uint64, created time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	found, err := s.carrier.js.Stream(ctx, s.Name)
	if err != nil {
		return 0, created, fmt.Errorf("stream %s: %w", s.Name, s.failure(err))
	}
	info := found.CachedInfo()
	return info.State.LastSeq, info.Created, nil
}

// firstOfLast returns the number in the stream of the first of the last messages that an interest wants.
func (s *stream) firstOfLast(ctx context.Context, in transport.Interest) (uint64, error) {
	end, _, err := s.lastNumber(ctx)
	if err != nil {
		return 0, err
	}
	return s.firstOf(ctx, in, end)
}

// The server can count messages from a number on, and not backwards. enoughFor is how many may be read of the last n to
// find the first one.
func enoughFor(n int) uint64 { return uint64(4*n + 1<<10) }

// firstOf is firstOfLast for the messages up to a number: it looks further and further back until there are enough, and then
// at their headers, for among them may be some of another kind.
func (s *stream) firstOf(ctx context.Context, in transport.Interest, end uint64) (uint64, error) {
	if end == 0 {
		return 1, nil
	}
	subject, want := Subject(in.Name), uint64(in.Last)
	tooLate := end + 1 // from here on there are too few
	for span := want; ; span *= 4 {
		from := uint64(1)
		if span < end {
			from = end + 1 - span
		}
		found, count, err := s.count(ctx, subject, from)
		if err != nil {
			return 0, err
		}
		if count < want && from > 1 {
			tooLate = from
			s.dismiss(found)
			continue
		}
		// There may be far too many.
		for low, high := from, tooLate; count > enoughFor(in.Last) && high-low > 1; {
			middle := low + (high-low)/2
			closer, n, err := s.count(ctx, subject, middle)
			if err != nil {
				return 0, err
			}
			if n < want {
				high = middle
				s.dismiss(closer)
				continue
			}
			s.dismiss(found)
			found, count, low = closer, n, middle
		}
		numbers, err := s.topicNumbers(ctx, found, count, in.Last, end)
		s.dismiss(found)
		switch {
		case err != nil:
			return 0, err
		case len(numbers) >= in.Last:
			return numbers[len(numbers)-in.Last], nil
		case from == 1 && len(numbers) > 0:
			return numbers[0], nil
		case from == 1:
			return end + 1, nil
		}
	}
}

// count counts the messages of a subject from a number on.
func (s *stream) count(ctx context.Context, subject string, from uint64) (jetstream.Consumer, uint64, error) {
	found, err := s.look(ctx, subject, from, true)
	if err != nil {
		return nil, 0, err
	}
	return found, found.CachedInfo().NumPending, nil
}

// dismiss lets the server forget a consumer soon.
func (s *stream) dismiss(found jetstream.Consumer) {
	s.carrier.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_ = s.carrier.js.DeleteConsumer(ctx, s.Name, found.CachedInfo().Name) // else it does so by itself
	})
}

// topicNumbers returns the numbers of the last topic messages of a consumer that has so many messages, up to one number.
func (s *stream) topicNumbers(ctx context.Context, found jetstream.Consumer, count uint64, last int, end uint64) ([]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, objectTimeout)
	defer cancel()
	var numbers []uint64
	for count > 0 {
		batch, err := found.Fetch(int(min(count, followed)), jetstream.FetchContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, s.failure(err))
		}
		got := 0
		for msg := range batch.Messages() {
			got++
			p, ok := placeOf(msg.Reply())
			if !ok || p.stream > end {
				return numbers, nil
			}
			if m, _ := read(msg.Headers(), nil); m.Kind == transport.TopicMessage {
				numbers = append(numbers, p.stream)
				if len(numbers) > 2*last {
					numbers = append(numbers[:0], numbers[last:]...)
				}
			}
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("stream %s: %w", s.Name, s.failure(err))
		}
		if got == 0 {
			return nil, fmt.Errorf("stream %s: the server does not give the messages that it has counted", s.Name)
		}
		count -= min(count, uint64(got))
	}
	return numbers, nil
}
