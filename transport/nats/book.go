package nats

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// book is what is written down about a consumer, for whoever uses it next: in the stream beside its stream that
// keeps the last word of each subject.
type book struct {
	stream *stream
	name   string // of the consumer
}

// givenAge is how long it is remembered that deliveries of a message did not count.
const givenAge = 7 * 24 * time.Hour

func (b book) claim() string { return bookSubject + b.stream.Name + ".claim." + b.name }

func (b book) given(seq uint64) string {
	return bookSubject + b.stream.Name + ".given." + b.name + "." + strconv.FormatUint(seq, 10)
}

// last returns the last word of a subject, and its number, or 0 if there is none.
func (b book) last(ctx context.Context, subject string) (word []byte, number uint64, err error) {
	if err := b.stream.ensure(ctx); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s, err := b.stream.carrier.js.Stream(ctx, b.stream.Name+bookSuffix)
	if err != nil {
		return nil, 0, b.stream.failure(err)
	}
	m, err := s.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, b.stream.failure(err)
	}
	return m.Data, m.Sequence, nil
}

// writeUncounted puts on record how many deliveries of messages do not count. When that fails only this process knows.
func (b book) writeUncounted(ctx context.Context, counts map[uint64]int) {
	var acks []jetstream.PubAckFuture
	for seq, n := range counts {
		ack, err := b.stream.carrier.js.PublishAsync(b.given(seq), strconv.AppendInt(nil, int64(n), 10), jetstream.WithMsgTTL(givenAge), jetstream.WithRetryAttempts(0))
		if err != nil {
			break
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case <-ack.Err():
		case <-ctx.Done():
			return
		}
	}
}
