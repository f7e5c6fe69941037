package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// claim is the right of a carrier to a durable name. It is on record with a subject at which the carrier says that
// it is there: if nobody says so the name is free, whatever the record. Servers that are parted may let two carriers have a name, so
// the record decides: the book takes a page only from who has written the last one.
type claim struct {
	consumer *consumer

	// sure is the number of the connection at which the carrier is known to have the name: while that lasts, and the server answers, nobody
	// else takes it.
	sure atomic.Uint64
	// number is that of the record, or 0 if the carrier does not have the name. It is written with mu held.
	number atomic.Uint64

	mu  sync.Mutex
	sub *nats.Subscription
}

// connection returns the number of the connection to the server, above 0, or 0 if there is none.
func (c *Carrier) connection() uint64 {
	if !c.conn.IsConnected() {
		return 0
	}
	return c.conn.Stats().Reconnects + 1
}

// isSure reports whether the carrier is known to have the name.
func (l *claim) isSure() bool {
	now := l.consumer.stream.carrier.connection()
	return now != 0 && now == l.sure.Load()
}

// doubt has the carrier not be sure any more, when the server has been out of reach.
func (l *claim) doubt() { l.sure.Store(0) }

// verify asks the server whether the carrier still has the name, unless it is sure. If it does not, what is open is lost.
func (l *claim) verify(ctx context.Context) error {
	if l.isSure() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isSure() { // meanwhile
		return nil
	}
	return l.check(ctx)
}

// check is verify with mu held, for certain. A record that is not there is written again: somebody has deleted the book.
func (l *claim) check(ctx context.Context) error {
	c := l.consumer
	at := c.stream.carrier.connection()
	_, number, err := l.read(ctx)
	if err != nil {
		return err
	}
	had := l.number.Load()
	if number != 0 && number == had {
		l.sure.Store(at)
		return nil
	}
	if number == 0 && had != 0 {
		number, err = l.write(ctx, claimed{Holder: l.sub.Subject}, 0)
		if err == nil {
			l.number.Store(number)
			l.sure.Store(at)
		}
		if !errors.Is(err, transport.ErrInUse) {
			return err
		}
	}
	l.number.Store(0)
	c.mu.Lock()
	for _, t := range c.open {
		t.lost.Store(true)
	}
	c.mu.Unlock()
	return errTaken
}

var errTaken = errors.New("somebody else has taken the durable name")

// claimed is the record of a claim.
type claimed struct {
	// Holder is where the carrier that has the name says that it is there; empty if nobody has it.
	Holder string `json:"holder"`
	// Left is how many messages the last one has left unsettled.
	Left int `json:"left,omitempty"`
}

const (
	// presenceTimeout bounds the wait for the word of a holder, and presencePause is between two questions when nobody is
	// there: in a cluster the word that somebody is takes a moment.
	presenceTimeout = 2 * time.Second
	presencePause   = 100 * time.Millisecond
)

// take takes the name, if the carrier does not have it. It fails with transport.ErrInUse if somebody else has it. mu is held.
func (l *claim) take(ctx context.Context) error {
	if l.number.Load() != 0 {
		return nil
	}
	at := l.consumer.stream.carrier.connection()
	record, number, err := l.read(ctx)
	if err != nil {
		return err
	}
	if l.number.Load() != 0 {
		l.sure.Store(at)
		return nil
	}
	if record.Holder != "" {
		if err := l.ask(ctx, record.Holder); err != nil {
			return err
		}
	}
	c := l.consumer
	if l.sub == nil {
		subject := c.stream.carrier.conn.NewInbox()
		if l.sub, err = c.stream.carrier.listen(subject, "", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
			return err
		}
	}
	if number, err = l.write(ctx, claimed{Holder: l.sub.Subject}, number); err != nil {
		return err
	}
	l.number.Store(number)
	l.sure.Store(at)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = record.Left
	for seq, d := range c.delayed { // which are among those, or somebody else has had them
		c.forget(seq, d.key)
	}
	return nil
}

// read reads the record. If it says that the carrier has the name, so it is, though it may not have been heard that
// it was written.
func (l *claim) read(ctx context.Context) (record claimed, number uint64, err error) {
	c := l.consumer
	word, number, err := c.book.last(ctx, c.book.claim())
	if err != nil {
		return record, 0, err
	}
	if number > 0 && json.Unmarshal(word, &record) != nil {
		record = claimed{} // not of our making
	}
	if !canAnswer(record.Holder) { // who wrote that must not have the server do something in this carrier's name
		record.Holder = ""
	}
	record.Left = max(record.Left, 0)
	if l.sub != nil && record.Holder == l.sub.Subject {
		l.number.Store(number)
	}
	return record, number, nil
}

// ask asks a holder of the name whether it is there.
func (l *claim) ask(ctx context.Context, holder string) error {
	conn := l.consumer.stream.carrier.conn
	for range 2 {
		limited, cancel := context.WithTimeout(ctx, presenceTimeout)
		_, err := conn.RequestWithContext(limited, holder, nil)
		cancel()
		switch {
		case err == nil:
			return l.consumer.inUse()
		case !errors.Is(err, nats.ErrNoResponders):
			return fmt.Errorf("%s: its last user is not gone, and does not answer: %w", l.consumer.label, jetStreamError(err))
		}
		if !backoff.Sleep(ctx, presencePause) {
			return transport.ContextError(ctx)
		}
	}
	return nil
}

func (c *consumer) inUse() error {
	return fmt.Errorf("%s of stream %s: %w", c.label, c.stream.Name, transport.ErrInUse)
}

// write puts a record in the place of one with a number, or of none.
func (l *claim) write(ctx context.Context, record claimed, over uint64) (number uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	word, err := json.Marshal(record)
	if err != nil {
		return 0, err
	}
	c := l.consumer
	ack, err := c.stream.carrier.js.Publish(ctx, c.book.claim(), word, jetstream.WithExpectLastSequencePerSubject(over), jetstream.WithRetryAttempts(0))
	switch {
	case outdated(err):
		return 0, c.inUse() // somebody else was faster
	case err != nil:
		return 0, c.stream.failure(err)
	}
	return ack.Sequence, nil
}

// outdated reports whether something was not written because the record is not the expected one, or is just being replaced.
func outdated(err error) bool {
	failed, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (failed.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || failed.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// confirm makes certain that the carrier has the name, or takes it if it can.
func (l *claim) confirm(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.number.Load() == 0 {
		return l.take(ctx)
	}
	if err := l.check(ctx); !errors.Is(err, errTaken) {
		return err
	}
	return l.take(ctx)
}

// release lets others have the name.
func (l *claim) release(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseLocked(ctx)
}

// releaseIfIdle is release, unless the name is in use again.
func (l *claim) releaseIfIdle(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.consumer
	c.mu.Lock()
	idle := len(c.members) == 0 && len(c.open) == 0
	c.mu.Unlock()
	if idle {
		l.releaseLocked(ctx)
	}
}

func (l *claim) releaseLocked(ctx context.Context) {
	if number := l.number.Load(); number != 0 {
		l.consumer.mu.Lock()
		left := l.consumer.atServer()
		l.consumer.mu.Unlock()
		_, _ = l.write(ctx, claimed{Left: left}, number) // else they find that nobody is there
		l.number.Store(0)
		l.doubt()
	}
	if l.sub != nil {
		_ = l.sub.Unsubscribe() // it fails when there is nothing left to end
		l.sub = nil
	}
}
