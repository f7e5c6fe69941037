package nats

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/transport"
)

// page is what a carrier writes into the book about a consumer: which messages it has settled lately, and in a group which it has
// open. A server writes down what it has delivered, and what of it was settled, only some time after it has confirmed that: killed
// meanwhile it has forgotten, and delivers again, to whomever. What it has confirmed to have put into a stream is on disk.
type page struct {
	consumer *consumer
	subject  string

	mu              sync.Mutex
	created         int64          // when JetStream's consumer was: what an earlier one of the name had means nothing to it
	connection      uint64         // the number of that at which it was found
	open            map[uint64]int // the attempts, as the server counts
	settled         []settled      // the oldest first
	changed, stored uint64         // how often the page has been changed, and until which change it is in the stream
	writing         chan struct{}
	failed          bool // to be written, the last time
}

// settled is a message that was settled; the server has confirmed that at a time, if it is not zero.
type settled struct {
	seq uint64
	at  time.Time
}

const (
	// forgetful is how long the server may take to write down what it has confirmed about a consumer. It
	// tries to do so within 100 ms.
	forgetful = 2 * time.Second
	// maxSettled bounds what is on a page: as much as is settled in such a while, unless it is very much.
	maxSettled = 1 << 13
	// pageAge is how long a page is kept that nobody writes any more: as long as a server may be away.
	pageAge = 24 * time.Hour
)

func newPage(c *consumer) *page {
	return &page{consumer: c, subject: c.book.page(transport.NewGID().String()), open: make(map[uint64]int)}
}

// begin has the page be about the consumer that was created at a time, when it is found at a connection, at first and after each trouble. It
// reports whether it was about an earlier one.
func (p *page) begin(created time.Time, lease time.Duration, connection uint64) (anew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connection = connection
	if at := created.UnixNano(); at != p.created {
		anew = p.created != 0
		p.created, p.settled = at, nil
		clear(p.open)
	}
	// There may be a server that has forgotten, and members who read the page only when they have found it.
	now := time.Now()
	keep := now.Add(backoff.Longest + 2*lease)
	for i := range p.settled {
		if s := &p.settled[i]; !s.at.IsZero() && s.at.Before(now) {
			s.at = keep
		}
	}
	return anew
}

// hold puts messages on the page that are about to be delivered, each with its attempt.
func (p *page) hold(ctx context.Context, attempts map[uint64]int) error {
	return p.write(ctx, func() { maps.Copy(p.open, attempts) })
}

// settle puts a message on the page that is settled.
func (p *page) settle(ctx context.Context, seq uint64) error {
	return p.write(ctx, func() {
		delete(p.open, seq)
		if p.find(seq) == nil {
			p.settled = append(p.settled, settled{seq: seq})
		}
	})
}

// mend writes the page if that has failed the last time.
func (p *page) mend(ctx context.Context) error {
	p.mu.Lock()
	failed := p.failed
	p.mu.Unlock()
	if !failed {
		return nil
	}
	return p.write(ctx, func() {})
}

// confirmed notes that the server has confirmed what has become of a message.
func (p *page) confirmed(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.find(seq); s != nil {
		s.at = time.Now()
	}
}

// find returns what the page says of a message that is settled, or nil. p.mu is held.
func (p *page) find(seq uint64) *settled {
	for i := range slices.Backward(p.settled) { // it is one of the last
		if p.settled[i].seq == seq {
			return &p.settled[i]
		}
	}
	return nil
}

// drop takes a message from the page, when it is next written: somebody else may have it.
func (p *page) drop(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, seq)
}

// release takes messages from the page that are about to be given back to the server. When that can't be written, who gets them leaves them
// here for a lease at most.
func (p *page) release(ctx context.Context, tickets []*ticket) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_ = p.write(ctx, func() {
		for _, t := range tickets {
			delete(p.open, t.seq)
		}
	})
}

// write changes the page, and returns when it is in the stream. Changes that are made at the same time are written together.
func (p *page) write(ctx context.Context, change func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.changed++
	for mine := p.changed; p.stored < mine; {
		if busy := p.writing; busy != nil {
			p.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
			}
			p.mu.Lock()
			if ctx.Err() != nil && p.stored < mine {
				return ctx.Err()
			}
			continue
		}
		p.writing = make(chan struct{})
		until, text := p.changed, p.text(time.Now())
		p.mu.Unlock()
		err := p.put(ctx, text)
		p.mu.Lock()
		close(p.writing)
		p.writing = nil
		if p.failed = err != nil; p.failed {
			return err
		}
		p.stored = max(p.stored, until)
	}
	return nil
}

// put writes the text of the page into the stream. The server refuses it if a durable name is not the carrier's any more, whatever that
// believes.
func (p *page) put(ctx context.Context, text []byte) error {
	c := p.consumer
	if err := c.stream.ensure(ctx); err != nil {
		return c.stream.failure(err)
	}
	options := []jetstream.PublishOpt{jetstream.WithMsgTTL(pageAge), jetstream.WithRetryAttempts(0)}
	if c.claim != nil {
		number := c.claim.number.Load()
		if number == 0 {
			return errTaken
		}
		options = append(options, jetstream.WithExpectLastSequenceForSubject(number, c.book.claim()))
	}
	_, err := c.stream.carrier.js.Publish(ctx, p.subject, text, options...)
	if outdated(err) {
		c.claim.doubt()
	}
	if err != nil {
		return c.stream.failure(err)
	}
	return nil
}

// text returns the page as it is written: which consumer it is about, how many messages are settled, these, and those that are
// open, each with its attempt. While the server may be another than that which has confirmed what was settled, nothing of that goes. p.mu is
// held.
func (p *page) text(now time.Time) []byte {
	if p.connection == p.consumer.stream.carrier.connection() {
		p.settled = slices.DeleteFunc(p.settled, func(s settled) bool { return !s.at.IsZero() && now.Sub(s.at) > forgetful })
	}
	if more := len(p.settled) - maxSettled; more > 0 {
		p.settled = slices.Delete(p.settled, 0, more)
	}
	text := binary.AppendUvarint(nil, uint64(p.created))
	text = binary.AppendUvarint(text, uint64(len(p.settled)))
	last := uint64(0)
	put := func(seq uint64) {
		text = binary.AppendVarint(text, int64(seq-last))
		last = seq
	}
	for _, s := range p.settled {
		put(s.seq)
	}
	for seq, attempt := range p.open {
		put(seq)
		text = binary.AppendUvarint(text, uint64(attempt))
	}
	return text
}

var (
	errPage  = errors.New("a page of the book can't be read")
	errPages = errors.New("the server does not give the pages of the book that it has counted")
)

// pagesAtOnce is how many pages are asked for at a time.
const pagesAtOnce = 256

// readPage adds to two maps what text has written, if it is about the consumer that was created at a time.
func readPage(text []byte, created int64, done map[uint64]struct{}, open map[uint64]int) error {
	fail := false
	number := func() uint64 {
		n, size := binary.Uvarint(text)
		if size <= 0 {
			fail = true
			return 0
		}
		text = text[size:]
		return n
	}
	if number() != uint64(created) && !fail {
		return nil
	}
	last := uint64(0)
	seq := func() uint64 {
		n := number()
		last += n>>1 ^ -(n & 1) // as binary.Varint
		return last
	}
	for n := number(); n > 0 && !fail; n-- {
		if s := seq(); !fail {
			done[s] = struct{}{}
		}
	}
	for len(text) > 0 && !fail {
		s, attempt := seq(), number()
		if !fail {
			open[s] = max(open[s], int(min(attempt, 1<<30)))
		}
	}
	if fail {
		return errPage
	}
	return nil
}

func (b book) page(writer string) string {
	return bookSubject + b.stream.Name + ".page." + b.name + "." + writer
}

// others returns what the pages of all other carriers say: which messages are settled, and which are not.
func (p *page) others(ctx context.Context) (done map[uint64]struct{}, open map[uint64]int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*apiTimeout)
	defer cancel()
	p.mu.Lock()
	created := p.created
	p.mu.Unlock()
	b := p.consumer.book
	js, stream := b.stream.carrier.js, b.stream.Name+bookSuffix
	found, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Description:   "pages about a consumer, for a node of postbus",
		FilterSubject: b.page("*"), DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: lookAge,
	})
	if err != nil {
		return nil, nil, b.stream.failure(err)
	}
	defer func() {
		_ = js.DeleteConsumer(ctx, stream, found.CachedInfo().Name) // else it is forgotten by itself
	}()
	done, open = make(map[uint64]struct{}), make(map[uint64]int)
	for left := found.CachedInfo().NumPending; left > 0; {
		batch, err := found.FetchNoWait(pagesAtOnce)
		if err != nil {
			return nil, nil, b.stream.failure(err)
		}
		got := false
		for m := range batch.Messages() {
			got = true
			at, _ := placeOf(m.Reply())
			left = at.pending
			if m.Subject() == p.subject {
				continue
			}
			if err := readPage(m.Data(), created, done, open); err != nil {
				b.stream.carrier.logger.Warn("nats: "+err.Error(), "subject", m.Subject())
			}
		}
		if err := batch.Error(); err != nil || !got {
			return nil, nil, b.stream.failure(cmp.Or(err, errPages))
		}
	}
	return done, open, nil
}

// readPages reads what others have written.
func (c *consumer) readPages(ctx context.Context) error {
	done, open, err := c.page.others(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doneElsewhere = done
	maps.DeleteFunc(c.uncounted, func(seq uint64, _ int) bool { // somebody else has got those of earlier times
		_, left := c.left[seq]
		return c.claim == nil && !left
	})
	clear(c.left)
	if c.claim == nil { // what the last reader of a durable name had open is the next one's
		c.openElsewhere = open
	}
	return nil
}
