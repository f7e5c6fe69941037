package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMaxBody is the largest body that a node sends unless it is told otherwise.
// Base64 makes it about 22 MiB on the wire.
const DefaultMaxBody = 16 << 20

// Options are the options of a node. The zero value is useful.
type Options struct {
	// Logger hears what happens in the background. Nil means slog.Default().
	Logger *slog.Logger
	// Routes give messages their recipients by name; messages that none matches go
	// to the carrier's default recipients.
	Routes Routes
	// MaxBody is the largest body to send, in bytes; zero means DefaultMaxBody. A
	// carrier can have a lower limit.
	MaxBody int
}

// Node is one participant: it owns a carrier, and gives the entities of packages
// pubsub and service what they need of it. All methods may be called concurrently.
type Node struct {
	carrier Carrier
	routes  Routes
	maxBody int
	logger  *slog.Logger
	failing atomic.Bool // a message could not be sent, and none has been since
	host    string      // right side of the IDs of this node's messages
	// over is closed, and replaced, when an outage ends.
	over atomic.Pointer[chan struct{}]

	// sends is how many calls of Send are under way, plus noMore when no other may begin.
	sends atomic.Int64
	idle  chan struct{} // gets an element when sends falls to noMore

	mu       sync.Mutex
	draining bool // Close has begun: no new interests, handlers work off what has arrived
	attached map[*attachment]struct{}
	hurry    chan struct{} // closed when Close waits no longer for messages to be sent
	closed   chan struct{} // closed when Close has done its work
	closeErr error         // result of the Close that did the work; read after closed
}

// noMore is more than there can be calls of Send.
const noMore = 1 << 62

// attachment is one interest of an entity.
type attachment struct {
	kind     Kind
	detached atomic.Bool
	ended    sync.Once
	sink     Sink
	stop     func() // of the carrier
}

// end ends the interest. When it returns, that has been done.
func (a *attachment) end() { a.ended.Do(a.stop) }

// Sink is the upper end of an interest: the queue of an entity.
type Sink interface {
	// Deliver takes a delivery. It does not block.
	Deliver(Delivery)
	// Drain is called when nothing is delivered any more: by Node.Close, and when the
	// interest is stopped, then possibly by both. It makes waiting readers return
	// and waits, until ctx ends, for handlers to work off what has been delivered;
	// they may still send.
	Drain(ctx context.Context) error
}

// NewNode returns a node that owns the carrier from now on. It fails, and closes the
// carrier, when the options are invalid. A nil options means the zero Options.
func NewNode(carrier Carrier, options *Options) (*Node, error) {
	var o Options
	if options != nil {
		o = *options
	}
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	err := o.Routes.Validate()
	if o.MaxBody < 0 {
		err = errors.Join(err, fmt.Errorf("MaxBody is %d, it can't be negative", o.MaxBody))
	}
	if err != nil {
		// Nothing has been sent or received yet: there is nothing to wait for.
		return nil, errors.Join(fmt.Errorf("node options: %w", err), carrier.Close(context.Background()))
	}
	address := carrier.Address()
	n := &Node{
		carrier:  carrier,
		routes:   o.Routes,
		maxBody:  o.MaxBody,
		logger:   o.Logger,
		host:     address[strings.LastIndexByte(address, '@')+1:],
		attached: make(map[*attachment]struct{}),
		idle:     make(chan struct{}, 1),
		hurry:    make(chan struct{}),
		closed:   make(chan struct{}),
	}
	over := make(chan struct{})
	n.over.Store(&over)
	return n, nil
}

// Address returns the address of the node's carrier, in the carrier's own terms: where
// answers to its messages go.
func (n *Node) Address() string { return n.carrier.Address() }

// Carrier returns the carrier of the node, for what only some carriers can do or tell. The
// node goes on to own it.
func (n *Node) Carrier() Carrier { return n.carrier }

// Logger returns the logger of the node, never nil.
func (n *Node) Logger() *slog.Logger { return n.logger }

// Send checks a message, completes it and hands it to the carrier. It fills in a
// zero ID from PublisherGID (if it is zero, from a random one) and Sequence, a zero
// SourceTime with the current time, and empty recipients from the routes; ReceivedTime is that time in any
// case. m belongs to the carrier from then on; m.Body is borrowed until Send returns.
//
// It returns nil when the next hop has durably taken the message. While that can't be
// done now (a [*SendError] whose Outcome is Temporary or Unknown), Send tries again with the
// same ID, after 0.1 s, 0.2 s and so on up to 30 s, less up to a half at random, until ctx ends: so a ctx without
// end may mean to wait for as long as an outage lasts. When another message of the node goes out, those that had
// found nobody to take them are tried at once, or a second after they last were. The error then wraps that of ctx
// and that of the last attempt; its Outcome is Unknown if any attempt may have got the message through.
//
// Other errors, at once: those of ValidateName, ValidateFilename and Header.Validate, ErrInvalidKind, ErrTooLarge,
// ErrClosed, ErrFull, and the carrier's [*SendError] with the outcome Permanent.
func (n *Node) Send(ctx context.Context, m *Message) error {
	now := time.Now()
	if err := n.complete(m, now); err != nil {
		return err
	}
	if err := n.begin(); err != nil {
		return fmt.Errorf("send %s: %w", m.Name, err)
	}
	defer n.end()
	return n.sendUntilTaken(ctx, m, now)
}

// complete validates m and fills in what is the node's to say.
func (n *Node) complete(m *Message, now time.Time) error {
	if err := m.validate(n.maxBody); err != nil {
		return err
	}
	m.Info.ReceivedTime = now
	if m.Info.SourceTime.IsZero() {
		m.Info.SourceTime = now
	}
	if m.ID.IsZero() {
		gid := m.Info.PublisherGID
		if gid.IsZero() {
			gid = NewGID() // so that it is not taken for a repetition of another
		}
		m.ID = NewID(gid, m.Info.Sequence, n.host)
	}
	if len(m.To) == 0 {
		m.To = n.routes.Recipients(m.Name)
	}
	return nil
}

// begin notes that a Send or Receive begins, unless the node is closed.
func (n *Node) begin() error {
	if n.sends.Add(1) > noMore {
		n.end()
		return fmt.Errorf("node is %w", ErrClosed)
	}
	return nil
}

func (n *Node) end() {
	if n.sends.Add(-1) == noMore {
		select {
		case n.idle <- struct{}{}:
		default:
		}
	}
}

// Receive states an interest on behalf of an entity: sink gets what matches it until
// stop is called or the node is closed. When stop returns the interest has ended; the
// node goes on to drain the sink, and its Close waits for that too. Receive takes as long as the carrier's does, which may ask
// a server. Errors: those of Interest.Validate, ErrClosed, and the carrier's.
func (n *Node) Receive(interest Interest, sink Sink) (stop func(), err error) {
	if err := interest.Validate(); err != nil {
		return nil, err
	}
	if err := n.begin(); err != nil {
		return nil, fmt.Errorf("receive %s: %w", interest.Name, err)
	}
	defer n.end()
	if n.isDraining() {
		return nil, fmt.Errorf("receive %s: node is %w", interest.Name, ErrClosed)
	}
	// A carrier may have to ask its server, which holds up nothing else of the node.
	end, err := n.carrier.Receive(interest, sink.Deliver)
	if err != nil {
		return nil, fmt.Errorf("receive %s: %w", interest.Name, err)
	}
	a := &attachment{kind: interest.Kind, sink: sink, stop: end}
	if !n.attach(a) { // Close has begun meanwhile, and waits
		a.end()
		_ = sink.Drain(over) // nobody works off what has come
		return nil, fmt.Errorf("receive %s: node is %w", interest.Name, ErrClosed)
	}
	return func() { n.detach(a) }, nil
}

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (n *Node) isDraining() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.draining
}

// attach notes an interest, unless Close has begun.
func (n *Node) attach(a *attachment) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.draining {
		n.attached[a] = struct{}{}
	}
	return !n.draining
}

// detach ends an interest and has its sink drained, unless that has been done.
func (n *Node) detach(a *attachment) {
	a.end()
	if a.detached.Swap(true) {
		return
	}
	go func() {
		// A drain without a limit ends when the handlers do, and Close sees
		// to that.
		_ = a.sink.Drain(context.Background())
		n.mu.Lock()
		delete(n.attached, a)
		n.mu.Unlock()
	}()
}

// Close drains the node and closes its carrier: it ends all interests, lets handlers
// work off what has arrived and send their answers, waits for the messages being
// sent, and releases everything. Entities of the node then return ErrClosed. From the
// start of Close the node receives nothing new but answers to its calls; in particular
// its own servers do not get what its handlers still call.
//
// When ctx ends first, or has ended already, Close gives up what is left, releases
// everything all the same and returns an error that wraps ctx.Err(). So give it a context
// of its own, not the one whose end made the program stop. A handler must not wait for
// the Close of its own node, which waits for the handler. A second Close waits for the
// first and returns its result.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	if n.draining {
		n.mu.Unlock()
		select {
		case <-n.closed:
			return n.closeErr
		default:
		}
		select {
		case <-n.closed:
			return n.closeErr
		case <-ctx.Done():
			return fmt.Errorf("close node: %w", ctx.Err())
		}
	}
	n.draining = true
	var receivers, callers []*attachment
	for a := range n.attached {
		if a.kind == Response {
			callers = append(callers, a)
		} else {
			receivers = append(receivers, a)
		}
	}
	clear(n.attached)
	n.mu.Unlock()

	// Handlers that are working off what has arrived may still call services of
	// other nodes, so the clients are drained after them.
	err := errors.Join(drain(ctx, receivers), drain(ctx, callers))

	if n.sends.Add(noMore) > noMore {
		select {
		case <-n.idle:
		case <-ctx.Done():
			err = errors.Join(err, fmt.Errorf("messages are still being sent, or interests stated: %w", ctx.Err()))
		}
	}
	close(n.hurry)
	if err = errors.Join(err, n.carrier.Close(ctx)); err != nil {
		n.closeErr = fmt.Errorf("close node: %w", err)
	}
	close(n.closed)
	return n.closeErr
}

// drain ends the interests and waits for their sinks.
func drain(ctx context.Context, attached []*attachment) error {
	for _, a := range attached {
		a.end()
	}
	errs := make(chan error, len(attached))
	for _, a := range attached {
		go func() { errs <- a.sink.Drain(ctx) }()
	}
	var err error
	for range attached {
		err = errors.Join(err, <-errs)
	}
	return err
}
