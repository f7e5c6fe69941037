package nats

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// DeadLetter is a message of a durable interest or group that could not be handled. It is a message in the stream NAME_DEAD, as it
// was, with fields that begin with "Nats-Dead-".
type DeadLetter struct {
	// Stream is the stream that the message was in, and Number identifies the letter among its dead letters.
	Stream string
	Number uint64
	// For says which durable name or group it was for: durable name "x", or group "y".
	For string
	// Message is the message, or nil if it is not in the stream any more, or its body not in the bucket.
	Message *transport.Message
	// Time is when it was given up, and Reason that of the last Nack, or of the Term. Attempts is how often it
	// was delivered.
	Time     time.Time
	Reason   string
	Attempts int
}

// The fields of a dead letter.
const (
	headerDeadFor      = "Nats-Dead-For"
	headerDeadReason   = "Nats-Dead-Reason"
	headerDeadAttempts = "Nats-Dead-Attempts"
	headerDeadSubject  = "Nats-Dead-Subject"
	// headerDeadKind is the kind of the message, and absent if there is none.
	headerDeadKind = "Nats-Dead-Kind"
)

// bury makes a dead letter of a message, however long that takes. Until it is one it is renewed, as what is being handled.
func (c *consumer) bury(t *ticket, reason string) {
	c.stream.carrier.work(func(ctx context.Context) { // once Close has begun it is left to the next who gets the message
		defer t.end()
		if !c.keepLetter(ctx, t, reason) {
			return // it comes again when its lease has ended, and becomes one then
		}
		c.mu.Lock()
		mine := c.open[t.seq] == t && !t.isLost()
		if mine {
			c.done(t)
		}
		c.mu.Unlock()
		if mine {
			_ = t.tell(wordTerm) // else it comes again and becomes the same letter
		}
	})
}

// keepLetter makes the dead letter, unless the message becomes somebody else's, or ctx ends.
func (c *consumer) keepLetter(ctx context.Context, t *ticket, reason string) (kept bool) {
	carrier := c.stream.carrier
	for failures := 0; ; {
		c.mu.Lock()
		passedOn := c.open[t.seq] != t
		c.mu.Unlock()
		if passedOn || t.isLost() {
			return false
		}
		err := c.writeLetter(carrier.settling, t, reason)
		switch {
		case err == nil:
			return true
		case errors.Is(err, errTaken):
			return false
		case errors.Is(err, errVanished):
			carrier.logger.Error("nats: "+err.Error(), "for", c.label, "stream", c.stream.Name, "number", t.seq, "reason", oneLine(errorText(reason)))
			return false
		case failures == 0:
			carrier.logger.Warn("nats: a dead letter can't be kept yet; trying again", "for", c.label, "stream", c.stream.Name, "number", t.seq, "error", err)
		}
		failures++
		if !t.member.puller.pause(ctx, backoff.Delay(failures)) {
			return false
		}
	}
}

// writeLetter puts a dead letter into the stream for them.
func (c *consumer) writeLetter(ctx context.Context, t *ticket, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := c.stream.ensure(ctx); err != nil {
		return err
	}
	if c.claim != nil { // for certain: the stream for letters takes them from everybody
		c.claim.doubt()
		if err := c.claim.verify(ctx); err != nil {
			return err
		}
	}
	letter, err := c.letterOf(ctx, t, reason)
	if err != nil {
		return err
	}
	js := c.stream.carrier.js
	if err = c.stream.carrier.fits(letter); err == nil {
		_, err = js.PublishMsg(ctx, letter, jetstream.WithRetryAttempts(0))
	}
	if errors.Is(err, nats.ErrMaxPayload) { // with the fields that it has now
		letter.Data = nil
		delete(letter.Header, headerDeadKind)
		_, err = js.PublishMsg(ctx, letter, jetstream.WithRetryAttempts(0))
	}
	if err != nil {
		return c.stream.failure(err)
	}
	return nil
}

var errVanished = errors.New("the message has vanished before it became a dead letter: its number is another's now")

// letterOf makes the dead letter of what the stream has. It fails with errVanished if that is another message, because the stream has been
// created anew.
func (c *consumer) letterOf(ctx context.Context, t *ticket, reason string) (*nats.Msg, error) {
	number, stored := strconv.FormatUint(t.seq, 10), strconv.FormatInt(t.stored.UnixNano(), 10)
	letter := &nats.Msg{Subject: deadSubject + c.stream.Name + "." + c.name + "." + number, Header: nats.Header{
		headerDeadFor:      {c.label},
		headerDeadReason:   {oneLine(errorText(reason))},
		headerDeadAttempts: {strconv.Itoa(t.attempt)},
		headerDedup:        {"dead." + c.name + "." + number + "." + stored},
	}}
	stream, err := c.stream.carrier.js.Stream(ctx, c.stream.Name)
	if err != nil {
		return nil, c.stream.failure(err)
	}
	raw, err := stream.GetMsg(ctx, t.seq)
	switch {
	case err == nil && !raw.Time.Equal(t.stored):
		return nil, errVanished
	case err == nil:
		letter.Data = raw.Data
		letter.Header[headerDeadSubject] = []string{raw.Subject}
		letter.Header[headerDeadKind] = []string{t.message.Kind.String()}
		for field, values := range raw.Header {
			if !strings.HasPrefix(field, "Nats-") {
				letter.Header[field] = values
			}
		}
		if id := raw.Header[headerDedup]; len(id) > 0 && len(raw.Header[headerID]) == 0 {
			letter.Header[headerID] = id
		}
	case !errors.Is(err, jetstream.ErrMsgNotFound): // else the stream's limits have removed it
		return nil, c.stream.failure(err)
	}
	return letter, nil
}

// lettersAtOnce is how many dead letters are asked for at a time: none is larger than the server takes.
const lettersAtOnce = 16

// DeadLetters returns the dead letters of all streams of the configuration, whoever has made them, by stream and the oldest
// first. It yields an error, and nothing after it, when they can't be read. A body in the bucket is read when its letter's turn comes.
func (c *Carrier) DeadLetters(ctx context.Context) iter.Seq2[DeadLetter, error] {
	return c.deadLetters(ctx, false)
}

// deadLetters is DeadLetters, or without their messages.
func (c *Carrier) deadLetters(ctx context.Context, bare bool) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for _, s := range c.streams {
			look := &letterLook{stream: s, bare: bare, next: 1}
			more, err := look.all(ctx, func(letter DeadLetter) bool { return yield(letter, nil) })
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("nats: dead letters of stream %s: %w", s.Name, s.failure(err)))
			}
			if !more || err != nil {
				return
			}
		}
	}
}

// letterLook goes through the dead letters of a stream that there are when it begins.
type letterLook struct {
	stream *stream
	bare   bool // without their messages
	found  jetstream.Consumer
	begun  bool
	next   uint64 // the number of the next letter, or below it
	left   uint64 // how many there are
}

// all yields the letters. It returns false when yield has.
func (l *letterLook) all(ctx context.Context, yield func(DeadLetter) bool) (more bool, err error) {
	defer l.end()
	for first := true; first || l.left > 0; first = false {
		msgs, err := l.some(ctx)
		if err != nil {
			return false, err
		}
		if len(msgs) == 0 {
			break // somebody has deleted the rest
		}
		for i, msg := range msgs {
			msgs[i] = nil
			at, ok := placeOf(msg.Reply())
			if !ok {
				continue
			}
			l.next, l.left = at.stream+1, min(l.left-min(l.left, 1), at.pending)
			if !yield(l.letter(ctx, msg, at)) {
				return false, nil
			}
		}
	}
	return true, nil
}

// some gets the next letters. If that fails it begins anew: the server forgets a look that rests for long.
func (l *letterLook) some(ctx context.Context) (msgs []jetstream.Msg, err error) {
	if l.found != nil {
		if msgs, err = l.fetch(ctx); err == nil {
			return msgs, nil
		}
		l.end()
	}
	if err = l.begin(ctx); err != nil || l.left == 0 {
		return nil, err
	}
	return l.fetch(ctx)
}

func (l *letterLook) fetch(ctx context.Context) (msgs []jetstream.Msg, err error) {
	ctx, cancel := context.WithTimeout(ctx, objectTimeout)
	defer cancel()
	batch, err := l.found.Fetch(int(min(l.left, lettersAtOnce)), jetstream.FetchContext(ctx))
	if err != nil {
		return nil, err
	}
	for msg := range batch.Messages() {
		msgs = append(msgs, msg)
	}
	return msgs, batch.Error()
}

// begin looks for the letters that have not been yielded.
func (l *letterLook) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s := l.stream
	name, look := s.Name+deadSuffix, jetstream.ConsumerConfig{
		Description:   "dead letters, for a node of postbus",
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: l.next, HeadersOnly: l.bare,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: lookAge,
	}
	found, err := s.carrier.js.CreateConsumer(ctx, name, look)
	if vanished(err) {
		_ = s.failure(err) // it is created anew
		if err = s.ensure(ctx); err == nil {
			found, err = s.carrier.js.CreateConsumer(ctx, name, look)
		}
	}
	if err != nil {
		return err
	}
	l.found = found
	if pending := found.CachedInfo().NumPending; !l.begun || pending < l.left {
		l.begun, l.left = true, pending
	}
	return nil
}

// end has the server forget the look.
func (l *letterLook) end() {
	if l.found == nil {
		return
	}
	s, name := l.stream, l.found.CachedInfo().Name
	l.found = nil
	s.carrier.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_ = s.carrier.js.DeleteConsumer(ctx, s.Name+deadSuffix, name) // else it is forgotten by itself
	})
}

// letter reads a dead letter.
func (l *letterLook) letter(ctx context.Context, msg jetstream.Msg, p place) DeadLetter {
	s, header := l.stream, msg.Headers()
	letter := DeadLetter{Stream: s.Name, Number: p.stream, For: header.Get(headerDeadFor), Time: p.stored, Reason: header.Get(headerDeadReason)}
	letter.Attempts, _ = strconv.Atoi(header.Get(headerDeadAttempts))
	name, ok := Name(header.Get(headerDeadSubject))
	if !ok || header.Get(headerDeadKind) == "" || l.bare {
		return letter
	}
	original := maps.Clone(header)
	maps.DeleteFunc(original, func(field string, _ []string) bool { return strings.HasPrefix(field, "Nats-") })
	interest := transport.Interest{Kind: transport.TopicMessage, Name: name}
	if header.Get(headerDeadKind) == transport.Request.String() {
		interest.Kind = transport.Request
	}
	m, err := s.carrier.storedFields(ctx, original, msg.Data(), interest, name)
	if err != nil {
		letter.Reason += "; " + err.Error()
	}
	letter.Message = m
	return letter
}

// PurgeDeadLetters deletes the dead letters that selected says, or all if it is nil, and returns how many there were.
func (c *Carrier) PurgeDeadLetters(ctx context.Context, selected func(DeadLetter) bool) (int, error) {
	n := 0
	for letter, err := range c.deadLetters(ctx, selected == nil) {
		if err != nil {
			return n, err
		}
		if selected != nil && !selected(letter) {
			continue
		}
		if err := c.deleteLetter(ctx, letter); err != nil {
			return n, fmt.Errorf("nats: dead letter %d of stream %s: %w", letter.Number, letter.Stream, jetStreamError(err))
		}
		n++
	}
	return n, nil
}

func (c *Carrier) deleteLetter(ctx context.Context, letter DeadLetter) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, letter.Stream+deadSuffix)
	if err != nil {
		return err
	}
	err = stream.DeleteMsg(ctx, letter.Number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // somebody else was faster
	}
	return err
}
