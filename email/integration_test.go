//go:build integration

package email_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/transporttest"
)

// variable returns what scripts/mailserver.sh env says.
func variable(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: start a server with scripts/mailserver.sh", name)
	}
	return value
}

// real returns the configurations of the two accounts on the real server. Each sends to
// both.
func real(t testing.TB) (robot, peer email.Config) {
	t.Helper()
	ca, err := os.ReadFile(variable(t, "POSTBUS_TEST_CA"))
	if err != nil {
		t.Fatal(err)
	}
	robot = email.Config{SMTP: variable(t, "POSTBUS_TEST_SMTP"), IMAP: variable(t, "POSTBUS_TEST_IMAP"), CA: ca,
		Username: variable(t, "POSTBUS_TEST_USER"), Password: variable(t, "POSTBUS_TEST_PASSWORD")}
	peer = robot
	peer.Username, peer.Password = variable(t, "POSTBUS_TEST_PEER"), variable(t, "POSTBUS_TEST_PEER_PASSWORD")
	robot.To = []string{robot.Username, peer.Username}
	peer.To = robot.To
	return robot, peer
}

func TestRealConformance(t *testing.T) {
	robot, peer := real(t)
	starttls := peer
	starttls.SMTP, starttls.IMAP = variable(t, "POSTBUS_TEST_SUBMISSION"), variable(t, "POSTBUS_TEST_IMAP_STARTTLS")
	shared := robot
	shared.To = []string{robot.Username}
	socket, tcp := robot, peer
	socket.SMTP, tcp.SMTP = variable(t, "POSTBUS_TEST_LMTP"), variable(t, "POSTBUS_TEST_LMTP_TCP")
	for name, configs := range map[string][]email.Config{
		"two mailboxes":  {robot, starttls, peer},
		"shared mailbox": {shared, shared, shared},
		"LMTP":           {socket, tcp, socket},
	} {
		t.Run(name, func(t *testing.T) {
			var worlds sync.Map // of *world by testing.TB
			transporttest.Run(t, transporttest.Harness{Open: func(t testing.TB) transport.Carrier {
				w, _ := worlds.LoadOrStore(t, new(world))
				n := w.(*world).opened.Add(1)
				return worldly{open(t, configs[n-1]), w.(*world)}
			}})
		})
	}
}

// world is what the participants of one test have sent. The server's queue may hold
// mail of an earlier test back until the next has begun, which is none of its business.
type world struct {
	opened atomic.Int32
	sent   sync.Map // set of transport.ID
}

// worldly is a carrier that only sees what is of its world.
type worldly struct {
	transport.Carrier
	world *world
}

func (w worldly) Send(ctx context.Context, msgs ...*transport.Message) error {
	for _, m := range msgs {
		w.world.sent.Store(m.ID, true)
	}
	return w.Carrier.Send(ctx, msgs...)
}

func (w worldly) Receive(interest transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	if interest.Group != "" || interest.Last > 0 {
		// They reach beyond the world: their own tests have mailboxes, or names, of their own.
		return nil, transport.ErrNotSupported
	}
	return w.Carrier.Receive(interest, func(d transport.Delivery) {
		if _, ok := w.world.sent.Load(d.Message.ID); ok {
			deliver(d)
		}
	})
}

// selfNode is a realNode that sends to itself.
func selfNode(t testing.TB) *bench {
	t.Helper()
	config, _ := real(t)
	config.To = []string{config.Username}
	return realNode(t, config)
}

// realNode opens a carrier with an interest in the topic /t.
func realNode(t testing.TB, config email.Config) *bench {
	t.Helper()
	b := &bench{TB: t, gid: transport.NewGID(), got: make(chan *transport.Message, 1<<16)}
	b.carrier = open(t, config)
	t.Cleanup(func() {
		if err := b.carrier.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	_, err := b.carrier.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(d transport.Delivery) {
		if d.Message.Info.PublisherGID == b.gid { // not what an earlier test has left in the queue
			b.got <- d.Message
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantAll waits for messages 1 to n in any order, and returns how many came again.
func (b *bench) wantAll(n uint64) (again int) {
	b.Helper()
	seen := make(map[uint64]bool)
	for uint64(len(seen)) < n {
		select {
		case m := <-b.got:
			if seen[m.Info.Sequence] {
				again++
			}
			seen[m.Info.Sequence] = true
		case <-time.After(2 * time.Minute):
			b.Fatalf("only %d of %d messages came", len(seen), n)
		}
	}
	return again
}

func TestRealMany(t *testing.T) {
	b := selfNode(t)
	const n = 1000
	for range n {
		b.send()
	}
	if again := b.wantAll(n); again > 0 {
		t.Errorf("%d messages came twice", again)
	}
}

// TestRealOutages: the servers go away in the middle, one after the other.
func TestRealOutages(t *testing.T) {
	script, folder := variable(t, "POSTBUS_TEST_MAILSERVER"), variable(t, "POSTBUS_TEST_MAILSERVER_DIR")
	run := func(command, server string) {
		t.Helper()
		if out, err := exec.Command("bash", script, command, server, folder).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", command, server, err, out)
		}
	}
	b := selfNode(t)
	// Messages may come twice: Postfix delivers again what Dovecot has stored without
	// having had the time to say so.
	for range 5 {
		b.send()
	}
	t.Cleanup(func() { run("start", "imap"); run("start", "smtp") })

	run("stop", "imap")
	for range 5 {
		b.send() // over the connection that is there
	}
	run("start", "imap")
	b.wantAll(10)

	run("stop", "smtp")
	err := b.carrier.Send(t.Context(), b.message(""))
	if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Temporary {
		t.Errorf("error %v", err)
	}
	b.sent--
	run("start", "smtp")
	b.send()
	for last := uint64(0); last != 11; {
		select {
		case m := <-b.got:
			last = m.Info.Sequence
		case <-time.After(2 * time.Minute):
			t.Fatal("the last message did not come")
		}
	}
}

func TestRealErrors(t *testing.T) {
	good, _ := real(t)
	wrong := good
	wrong.Password = "wrong"
	_, err := email.Open(t.Context(), wrong, email.Options{Logger: quiet})
	if !errors.Is(err, transport.ErrRefused) || strings.Count(err.Error(), "login at") != 2 {
		t.Errorf("wrong password: %v", err)
	}
	distrust := good
	distrust.CA = nil
	_, err = email.Open(t.Context(), distrust, email.Options{Logger: quiet})
	if err == nil || strings.Count(err.Error(), "certificate refused") != 2 {
		t.Errorf("unknown authority: %v", err)
	}
	b := selfNode(t)
	m := b.message("")
	m.To = []string{"nobody@localhost.test"}
	err = b.carrier.Send(t.Context(), m)
	if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Permanent || !errors.Is(err, transport.ErrUndeliverable) {
		t.Errorf("unknown recipient: %v", err)
	}
	m = b.message(string(make([]byte, 40<<20)))
	err = b.carrier.Send(t.Context(), m)
	if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Permanent || !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	b.sent = 0
	b.send()
	b.wantAll(1)
}

// BenchmarkRealLatency is the time from publishing to delivery: back to back, and with
// pauses in which the polling manager becomes slower.
func BenchmarkRealLatency(b *testing.B) {
	for name, pause := range map[string]time.Duration{"pause=0": 0, "pause=100ms": 100 * time.Millisecond, "pause=1s": time.Second} {
		b.Run(name, func(b *testing.B) {
			bench := selfNode(b)
			var times []time.Duration
			for b.Loop() {
				time.Sleep(pause)
				start := time.Now()
				bench.send()
				<-bench.got
				times = append(times, time.Since(start))
			}
			reportPercentiles(b, times)
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)-1].Microseconds()), "max-µs")
		})
	}
}

func BenchmarkRealThroughput(b *testing.B) {
	bench := selfNode(b)
	for b.Loop() {
		bench.send()
	}
	accepted := b.Elapsed()
	bench.wantAll(bench.sent)
	b.ReportMetric(float64(bench.sent)/accepted.Seconds(), "accepted/s")
}
