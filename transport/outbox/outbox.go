package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/transport"
)

// Policy says what becomes of a new message when the outbox is full.
type Policy uint8

const (
	// Refuse: Send fails with transport.ErrFull. What has been accepted is kept.
	Refuse Policy = iota
	// DropOldest: the messages that have waited longest are dropped, and counted.
	DropOldest
)

// The defaults of Options.
const (
	DefaultMaxEntries = 100_000
	DefaultMaxBytes   = 1 << 30
	DefaultMaxAge     = 5 * 24 * time.Hour // as mail servers try (RFC 5321 section 4.5.4.1)
	DefaultMaxDead    = 10_000
	DefaultBatch      = 16
)

// Options are the options of an outbox. All but File may be zero.
type Options struct {
	// File is the path of the file in which messages are kept. It is created if it does not
	// exist; its folder must. One outbox at a time can have it.
	File string
	// MaxEntries and MaxBytes limit what waits: the messages, and the bytes that they take in the file.
	// Zero means DefaultMaxEntries and DefaultMaxBytes.
	MaxEntries int
	MaxBytes   int64
	// WhenFull says what happens when a further message would be too much.
	WhenFull Policy
	// MaxAge is how long a message is tried; one that has waited longer becomes a dead letter. Zero
	// means DefaultMaxAge.
	MaxAge time.Duration
	// MaxDead limits the dead letters, whose bytes are limited by MaxBytes, too: beyond that the oldest are
	// deleted, and counted. Zero means DefaultMaxDead.
	MaxDead int
	// Batch is how many messages are given to the carrier in one call: more for one that sends several as one.
	// So many may be sent again after a crash. Zero means DefaultBatch.
	Batch int
	// Logger hears what happens in the background. Nil means slog.Default().
	Logger *slog.Logger
}

func (o *Options) complete() error {
	switch {
	case o.File == "":
		return errors.New("outbox: options: the name of the file is missing")
	case o.MaxEntries < 0 || o.MaxBytes < 0 || o.MaxAge < 0 || o.MaxDead < 0 || o.Batch < 0:
		return errors.New("outbox: options: a limit is negative")
	case o.WhenFull > DropOldest:
		return fmt.Errorf("outbox: options: WhenFull is %d", o.WhenFull)
	}
	orDefault(&o.MaxEntries, DefaultMaxEntries)
	orDefault(&o.MaxBytes, DefaultMaxBytes)
	orDefault(&o.MaxAge, DefaultMaxAge)
	orDefault(&o.MaxDead, DefaultMaxDead)
	orDefault(&o.Batch, DefaultBatch)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

func orDefault[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}

// Outbox is a carrier that keeps what it is to send in a file until another carrier has
// sent it. It implements [transport.Carrier].
type Outbox struct {
	carrier transport.Carrier
	store   *store
	options Options
	log     *slog.Logger

	// life ends when Close has run out of time: then what is being sent ends, too.
	life context.Context
	end  context.CancelFunc

	senders transport.Dispatcher // who is told of dead letters

	wake    chan struct{} // has an element when there is something for the sender to see
	removal chan struct{} // has an element when there is something for the remover to see
	sender  chan struct{} // closed when the sender has ended
	remover chan struct{} // closed when the remover has ended

	mu      sync.Mutex
	closed  bool // nothing more is accepted
	index   *index
	next    uint64   // number of the next entry
	gone    []uint64 // what is still in the file but not to be sent any more
	graves  []uint64 // dead letters that are still in the file but to be deleted
	dead    []item   // by number
	buried  int64    // bytes of the dead letters
	full    bool     // the last message did not fit
	stats   Stats    // the counters in it
	pace    pace
	refused bool // the last message that came to an end was refused for good
}

var _ transport.Carrier = (*Outbox)(nil)

// Open returns an outbox in front of a carrier, which belongs to it from now on, and begins
// to send what an earlier one has left in the file. When it fails it closes the carrier. The
// error wraps transport.ErrInUse when another process has the file open.
func Open(carrier transport.Carrier, options Options) (*Outbox, error) {
	o, err := open(carrier, options)
	if err != nil {
		// Nothing has been sent or received yet: there is nothing to wait for.
		return nil, errors.Join(err, carrier.Close(context.Background()))
	}
	go o.send()
	go o.remove()
	return o, nil
}

func open(carrier transport.Carrier, options Options) (*Outbox, error) {
	if err := options.complete(); err != nil {
		return nil, err
	}
	store, err := openStore(options.File)
	if err != nil {
		return nil, err
	}
	o := &Outbox{
		carrier: carrier, store: store, options: options, log: options.Logger,
		wake: make(chan struct{}, 1), removal: make(chan struct{}, 1),
		sender: make(chan struct{}), remover: make(chan struct{}),
		index: newIndex(),
		next:  1,
	}
	o.life, o.end = context.WithCancel(context.Background())
	if err := o.load(); err != nil {
		o.end()
		return nil, errors.Join(err, store.close())
	}
	if n := o.index.count; n > 0 {
		o.log.Info("messages are waiting in the outbox", "count", n, "file", options.File)
	}
	return o, nil
}

// load makes the index of what is in the file.
func (o *Outbox) load() error {
	now := time.Now().UnixNano()
	err := o.store.scan(waitingBucket, func(number uint64, value []byte) {
		h := decodeHead(value)
		if h.accepted == 0 {
			h.accepted = now // it is damaged, and found to be so when it is to be sent
		}
		o.index.reserve(len(value))
		o.index.add(h.lane, item{number, h.accepted, h.deadline, len(value)})
		o.next = max(o.next, number+1)
	})
	if err != nil {
		return err
	}
	return o.store.scan(deadBucket, func(number uint64, value []byte) {
		o.dead = append(o.dead, item{number: number, size: len(value)})
		o.buried += int64(len(value))
		o.next = max(o.next, number+1)
	})
}

// Address returns the address of the carrier.
func (o *Outbox) Address() string { return o.carrier.Address() }

// Unwrap returns the carrier, for what only some carriers can do or tell. The outbox goes
// on to own it.
func (o *Outbox) Unwrap() transport.Carrier { return o.carrier }

// Send returns nil when the messages are on disk: then they will be sent, whatever happens to
// the process, and what the next hop thinks of them is not known yet. It wraps
// transport.ErrFull when the outbox or the disk is full; the messages up to SendError.Taken are accepted then.
func (o *Outbox) Send(ctx context.Context, msgs ...*transport.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return &transport.SendError{Name: msgs[0].Name, Outcome: transport.Temporary, Err: transport.ContextError(ctx)}
	}
	now := time.Now()
	values, heads := make([]stored, len(msgs)), make([]head, len(msgs))
	for i, m := range msgs {
		m.Info.ReceivedTime = time.Time{} // it will be received when it has left
		values[i].value, heads[i] = encode(m, now)
	}
	n, dropped, refusal := o.reserve(values)
	if n > 0 {
		err := o.store.add(values[:n], dropped)
		o.accepted(values[:n], heads, dropped, err)
		if err != nil {
			return storeError(msgs[0].Name, err)
		}
	}
	if refusal != nil {
		refusal.Name, refusal.Taken = msgs[n].Name, n
		return refusal
	}
	return nil
}

// reserve numbers as many of the values as there is room for, and says which entries are to be
// dropped to make it, and why it was not more.
func (o *Outbox) reserve(values []stored) (n int, dropped []picked, refusal *transport.SendError) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n = range values {
		size := len(values[n].value)
		switch {
		case o.closed:
			return n, dropped, &transport.SendError{Outcome: transport.Permanent, Err: fmt.Errorf("outbox is %w", transport.ErrClosed)}
		case int64(size) > o.options.MaxBytes:
			return n, dropped, &transport.SendError{Outcome: transport.Permanent,
				Err: fmt.Errorf("outbox: %w: it takes %d bytes of %d", transport.ErrTooLarge, size, o.options.MaxBytes)}
		}
		gone, ok := o.makeRoom(size)
		if !ok {
			return n, dropped, &transport.SendError{Outcome: transport.Temporary,
				Err: fmt.Errorf("outbox is %w: %d messages with %d bytes are waiting", transport.ErrFull, o.index.count, o.index.bytes)}
		}
		dropped = append(dropped, gone...)
		o.index.reserve(size)
		values[n].number = o.next
		o.next++
	}
	return len(values), dropped, nil
}

// makeRoom sees to it that there is room for a message of that size, and returns what has been dropped for
// it. o.mu is held.
func (o *Outbox) makeRoom(size int) (dropped []picked, ok bool) {
	entries, bytes := o.options.MaxEntries-1, o.options.MaxBytes-int64(size)
	if o.index.count <= entries && o.index.bytes <= bytes {
		return nil, true
	}
	o.noteFull(true)
	if o.options.WhenFull == Refuse {
		return nil, false
	}
	dropped, ok = o.index.makeRoom(entries, bytes)
	o.stats.Dropped += uint64(len(dropped))
	return dropped, ok
}

// noteFull logs when messages begin to find no room, and when there is room for many again.
// o.mu is held.
func (o *Outbox) noteFull(full bool) {
	if full == o.full {
		return
	}
	o.full = full
	log := o.log.With("file", o.options.File, "count", o.index.count, "bytes", o.index.bytes, "dropped", o.stats.Dropped)
	switch {
	case !full:
		log.Info("the outbox has room again")
	case o.options.WhenFull == DropOldest:
		log.Warn("the outbox is full; the oldest messages are dropped")
	default:
		log.Warn("the outbox is full; messages are refused")
	}
}

// accepted files what has come into the file, and if it has not, what was dropped for it.
func (o *Outbox) accepted(values []stored, heads []head, dropped []picked, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, v := range values {
		if err != nil {
			o.index.release(len(v.value))
			continue
		}
		h := heads[i]
		o.index.add(h.lane, item{v.number, h.accepted, h.deadline, len(v.value)})
	}
	if err != nil {
		o.index.takeBack(dropped)
		o.stats.Dropped -= uint64(len(dropped))
		return
	}
	o.stats.Accepted += uint64(len(values))
	o.pace.hurry = true
	poke(o.wake)
}

// storeError returns the error of messages that could not be written to the file.
func storeError(name string, err error) error {
	e := &transport.SendError{Name: name, Outcome: transport.Temporary, Err: err}
	switch {
	case errors.Is(err, journal.ErrUncertain):
		e.Outcome = transport.Unknown
	case errors.Is(err, transport.ErrClosed), errors.Is(err, journal.ErrBroken):
		e.Outcome = transport.Permanent
	}
	return e
}

// poke makes who waits for the channel look.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
