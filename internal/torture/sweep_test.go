package torture_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// lane is a server with one publisher and one subscription, of which one is behind a
// proxy.
type lane struct {
	testing.TB
	topic   string
	proxy   *proxy.Proxy
	open    func() (*transport.Node, error) // of the subscription
	options []pubsub.SubscriptionOption
	pub     *pubsub.Publisher
	others  []*pubsub.Publisher // that publish at the same time, if messages travel together
	node    *transport.Node     // of the subscription
	sub     *pubsub.Subscription
	anew    bool // each session has a new subscription
	// closeFirst has the node of the last one closed before its connection is cut: what is in a buffer when it is may be lost, and that is an
	// error of the Close.
	closeFirst bool
	n          uint64

	mu      sync.Mutex
	checker *history.Checker
}

// newLane makes a lane whose proxy is in front of a protocol. The subscription is durable if it is behind
// the proxy.
func newLane(t testing.TB, protocol mailserver.Service) *lane { return newLaneOf(t, protocol, 1) }

// newLaneOf makes one with so many publishers. If it is not one, what they publish at the same time travels
// together.
func newLaneOf(t testing.TB, protocol mailserver.Service, publishers int) *lane {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	target := server.SMTPAddr()
	if protocol == mailserver.IMAP {
		target = server.IMAPAddr()
	}
	l := &lane{TB: t, topic: "/t", anew: protocol == mailserver.IMAP, checker: history.NewChecker()}
	if l.proxy, err = proxy.Listen(target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.proxy.Close() })
	robot, peer := server.Accounts()[0], server.Accounts()[1]
	from := email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: robot.Address, Password: robot.Password, To: []string{peer.Address}}
	to := email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: peer.Address, Password: peer.Password}
	if protocol == mailserver.SMTP {
		from.SMTP = strings.Replace(from.SMTP, target, l.proxy.Addr(), 1)
	} else {
		to.IMAP = strings.Replace(to.IMAP, target, l.proxy.Addr(), 1)
	}
	from.Batch.On = publishers > 1
	l.options = []pubsub.SubscriptionOption{pubsub.KeepAll()}
	if protocol == mailserver.IMAP {
		to.State = filepath.Join(t.TempDir(), "state")
		l.options = append(l.options, pubsub.Durable("s"))
	}
	l.open = func() (*transport.Node, error) { return l.connect(to) }
	node, err := l.connect(from)
	l.begin(node, err, publishers)
	return l
}

// begin makes the publishers on a node, and the subscription.
func (l *lane) begin(node *transport.Node, err error, publishers int) {
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { l.close(node) })
	for range publishers {
		pub, err := pubsub.NewPublisher(node, l.topic)
		if err != nil {
			l.Fatal(err)
		}
		l.others = append(l.others, pub)
	}
	l.pub, l.others = l.others[0], l.others[1:]
	l.subscribe()
	l.Cleanup(func() { l.close(l.node) })
	l.add(history.Event{Kind: history.Open, Receiver: "s", Topic: l.topic, Mode: history.Durable})
}

func (l *lane) connect(config email.Config) (*transport.Node, error) {
	return postbus.OpenConfig(l.Context(), config, &transport.Options{Logger: slog.New(slog.DiscardHandler)})
}

func (l *lane) close(node *transport.Node) {
	if err := node.Close(context.Background()); err != nil {
		l.Error(err)
	}
}

// subscribe makes the subscription, anew if there is one.
func (l *lane) subscribe() {
	if l.node != nil {
		l.close(l.node)
	}
	var err error
	if l.node, err = l.open(); err != nil { // cut
		if l.node, err = l.open(); err != nil {
			l.Fatal(err)
		}
	}
	if l.sub, err = pubsub.NewSubscription(l.node, l.topic, l.options...); err != nil {
		l.Fatal(err)
	}
}

func (l *lane) add(e history.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Time = time.Now().UnixNano()
	l.checker.Add(e, history.Position{})
}

// send publishes a message by each publisher, and waits until they have been handled.
func (l *lane) send() {
	ctx, cancel := context.WithTimeout(l.Context(), 20*time.Second)
	defer cancel()
	errs := make(chan error, len(l.others))
	n := l.n + 1
	for _, pub := range l.others {
		go func() { errs <- l.publishBy(ctx, pub, n) }()
	}
	err := l.publish(ctx)
	for range l.others {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		l.Fatalf("message %d: %v", l.n, err)
	}
	for l.pending() {
		l.take(ctx)
	}
}

// publish publishes a message.
func (l *lane) publish(ctx context.Context) error {
	l.n++
	return l.publishBy(ctx, l.pub, l.n)
}

func (l *lane) publishBy(ctx context.Context, pub *pubsub.Publisher, n uint64) error {
	body := fmt.Appendf(nil, "%d", n)
	e := history.Event{Kind: history.Publish, Publisher: pub.GID().String(), Number: n, Hash: history.Hash(body), Topic: l.topic}
	err := pub.Publish(ctx, body, func(m *transport.Message) {
		e.Sequence = m.Info.Sequence
		l.add(e)
	})
	e.Kind = history.Acked
	if err != nil {
		e.Kind = history.Failed
		if failed, ok := errors.AsType[*transport.SendError](err); ok && failed.Outcome == transport.Unknown {
			e.Kind = history.Unknown
		}
	}
	l.add(e)
	return err
}

// pending reports whether something is owed.
func (l *lane) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checker.Pending() > 0
}

// take handles a message.
func (l *lane) take(ctx context.Context) {
	d, err := l.sub.Take(ctx)
	if err != nil {
		l.Fatalf("message %d: %v", l.n, err)
	}
	n, err := strconv.ParseUint(string(d.Message.Body), 10, 64)
	if err != nil {
		l.Fatal(err)
	}
	e := history.Event{Receiver: "s", Publisher: d.Message.Info.PublisherGID.String(), Number: n, Sequence: d.Message.Info.Sequence, Hash: history.Hash(d.Message.Body)}
	for _, kind := range []history.Kind{history.Take, history.Ack, history.Done} {
		e.Kind = kind
		if kind == history.Done {
			if err := d.Ack(); err != nil {
				l.Error(err)
			}
		}
		l.add(e)
	}
}

// session has a new connection carry a message, and returns how many bytes that took in a direction. If
// cut is not negative, the connection breaks after so many.
func (l *lane) session(d proxy.Direction, cut int64) int64 {
	l.proxy.Heal()
	if l.closeFirst {
		l.close(l.node)
	}
	l.proxy.Cut()
	before := l.proxy.Passed(d)
	if cut >= 0 {
		l.proxy.CutAfter(d, cut)
	}
	if l.anew {
		l.subscribe()
	}
	l.send()
	return l.proxy.Passed(d) - before
}

// sweep cuts a session after every stride-th byte, in a direction.
func (l *lane) sweep(d proxy.Direction, first, stride, length int64) {
	for at := first; at <= length; at += stride {
		l.session(d, at)
	}
	l.session(d, -1) // whatever comes twice comes before this one
	l.check()
}

// check wants everything to have been handled once.
func (l *lane) check() {
	l.Helper()
	l.add(history.Event{Kind: history.Quiet})
	l.mu.Lock()
	defer l.mu.Unlock()
	if report := l.checker.Report(func(history.Position) string { return "" }); !report.OK() {
		l.Errorf("promises were broken:\n%v", report)
	}
}

// sweep cuts sessions of a protocol in both directions, in so many lanes at once with so many publishers.
func sweep(t *testing.T, protocol mailserver.Service, publishers, lanes int, stride int64) {
	for _, d := range []proxy.Direction{proxy.ToServer, proxy.ToClient} {
		sweepLanes(t, protocol.String(), d, lanes, stride, func(t testing.TB) *lane { return newLaneOf(t, protocol, publishers) })
	}
}

// sweepLanes cuts sessions in a direction, in so many lanes at once.
func sweepLanes(t *testing.T, name string, d proxy.Direction, lanes int, stride int64, newLane func(testing.TB) *lane) {
	measure := newLane(t)
	length := max(measure.session(d, -1), measure.session(d, -1))
	t.Logf("%s, direction %v: a session has %d bytes", name, d, length)
	for i := range lanes {
		t.Run(fmt.Sprintf("%s/%d/%d", name, d, i), func(t *testing.T) {
			t.Parallel()
			newLane(t).sweep(d, int64(i)*stride, int64(lanes)*stride, length)
		})
	}
}

// TestSweepSMTP: the connection of a publisher is cut at any byte, in either direction.
func TestSweepSMTP(t *testing.T) { sweep(t, mailserver.SMTP, 1, 2, 97) }

// TestSweepBatches: the same when messages travel together, and some are in the mail that breaks off.
func TestSweepBatches(t *testing.T) { sweep(t, mailserver.SMTP, 5, 2, 197) }

// TestSweepIMAP: the connection of a subscription is.
func TestSweepIMAP(t *testing.T) { sweep(t, mailserver.IMAP, 1, 2, 97) }

// TestSweepIMAPBatches: the same when it gets mails of several messages.
func TestSweepIMAPBatches(t *testing.T) { sweep(t, mailserver.IMAP, 5, 2, 197) }
