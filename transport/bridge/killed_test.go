package bridge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
	"github.com/postbus/postbus/transport/nats"
)

// childSides is the environment variable that makes the test binary a bridge, to be killed.
const childSides = "POSTBUS_TEST_BRIDGE_CHILD"

// sides are the configurations of a bridge in a process of its own, and its rules.
type sides struct {
	From, To sideConfig
	Rules    []string
}

// sideConfig is one on mail or, if that has servers, on NATS.
type sideConfig struct {
	Mail email.Config
	NATS nats.Config
}

func (c sideConfig) open(t testing.TB) *transport.Node {
	t.Helper()
	if len(c.NATS.Servers) > 0 {
		return openNATS(t, c.NATS)
	}
	return openMail(t, c.Mail)
}

// TestBridgeChild is the process that tests kill.
func TestBridgeChild(t *testing.T) {
	text, ok := os.LookupEnv(childSides)
	if !ok {
		t.Skip("this is a part of other tests")
	}
	var s sides
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	var nodes []*transport.Node
	for _, config := range []sideConfig{s.From, s.To} {
		nodes = append(nodes, config.open(t))
	}
	openBridge(t, bridge.Side{Name: "from", Node: nodes[0]}, bridge.Side{Name: "to", Node: nodes[1]}, s.Rules...)
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(1) // nobody is there any more to kill it
}

// startChild starts a bridge in a process of its own, and returns when it forwards. kill kills it.
func startChild(t testing.TB, s sides) (kill func()) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestBridgeChild$", "-test.v")
	cmd.Env = append(os.Environ(), childSides+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as killed
		in.Close()
	})
	t.Cleanup(kill)
	var all []string
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatalf("the bridge does not start: %q", all)
		}
		if all = append(all, lines.Text()); lines.Text() == "ready" {
			return kill
		}
	}
}

// witness writes a history of what programs on both sides see.
type witness struct {
	testing.TB
	log *history.Log
}

// program is a node of a program, which can be durable there.
type program struct {
	*transport.Node
	durable bool
}

func (w *witness) add(e history.Event) {
	if err := w.log.Add(e); err != nil {
		w.Error(err)
	}
}

// rounds says when to begin with another part of what is to be sent.
type rounds chan struct{}

// publish publishes n messages in each round.
func (w *witness) publish(node *transport.Node, topic string, n int, rounds rounds) {
	pub := publisher(w, node, topic)
	for i := 0; ; i++ {
		if i%n == 0 {
			if _, more := <-rounds; !more {
				return
			}
		}
		body := fmt.Appendf(nil, "message %d on %s", i+1, topic)
		e := history.Event{Kind: history.Publish, Publisher: pub.GID().String(), Number: uint64(i + 1), Hash: history.Hash(body), Topic: topic}
		w.add(e)
		if err := pub.Publish(context.Background(), body); err != nil {
			w.Errorf("publish: %v", err)
			return
		}
		e.Kind = history.Acked
		w.add(e)
	}
}

// subscribe handles the messages of a topic, and returns a channel that is closed when there were so many.
func (w *witness) subscribe(p program, topic string, n int) <-chan struct{} {
	name := "subscription of " + topic
	options := []pubsub.SubscriptionOption{pubsub.KeepAll(), pubsub.OnGap(func(g transport.Gap) {
		w.add(history.Event{Kind: history.Gap, Receiver: name, Publisher: g.Publisher.String(), Number: g.First, Last: g.Last})
	})}
	if p.durable {
		options = append(options, pubsub.Durable("program"))
	}
	sub := subscribe(w, p.Node, topic, options...)
	w.add(history.Event{Kind: history.Open, Receiver: name, Topic: topic, Mode: history.Durable})
	done, count := make(chan struct{}), 0
	err := sub.Handle(func(_ context.Context, m *transport.Message) error {
		e := history.Event{Receiver: name, Publisher: m.Info.PublisherGID.String(), Number: m.Info.Sequence, Sequence: m.Info.Sequence, Hash: history.Hash(m.Body)}
		for _, e.Kind = range []history.Kind{history.Take, history.Ack, history.Done} {
			w.add(e)
		}
		if count++; count == n {
			close(done)
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return done
}

// serve answers the requests of a service.
func (w *witness) serve(p program, name string) {
	server := "server of " + name
	w.add(history.Event{Kind: history.Open, Receiver: server, Topic: name, Mode: history.Plain})
	var options []service.ServerOption
	if p.durable {
		options = append(options, service.Durable("server"))
	}
	serve(w, p.Node, name, func(_ context.Context, m *transport.Message) ([]byte, error) {
		e := history.Event{Receiver: server, Publisher: m.Info.ClientGID.String(), Number: m.Info.RequestSequence, Hash: history.Hash(m.Body)}
		for _, e.Kind = range []history.Kind{history.Run, history.Answer, history.Ran} {
			w.add(e)
		}
		return append([]byte("answer to "), m.Body...), nil
	}, options...)
}

// patience is how long programs wait for the last message. On a busy machine the bridge may have much to do after its last start.
const patience = 3 * time.Minute

// callTimeout is how long a caller waits: all outages together are shorter.
const callTimeout = 2 * time.Minute

// call calls a service n times in each round, and waits for the outcomes in the end.
func (w *witness) call(node *transport.Node, name string, n int, rounds rounds) {
	client := newClient(w, node, name)
	var outcomes sync.WaitGroup
	defer outcomes.Wait()
	for i := 0; ; i++ {
		if i%n == 0 {
			if _, more := <-rounds; !more {
				return
			}
		}
		body := fmt.Appendf(nil, "call %d of %s", i+1, name)
		e := history.Event{Kind: history.Call, Publisher: client.GID().String(), Number: uint64(i + 1), Hash: history.Hash(body), Topic: name}
		w.add(e)
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		sequence, err := client.Send(ctx, body)
		cancel()
		if err != nil || sequence != e.Number {
			w.Errorf("call %d: %v", sequence, err)
			return
		}
		outcomes.Go(func() {
			answer, err := client.Response(context.Background(), sequence)
			e.Kind, e.Text = history.Outcome, history.Answered
			switch {
			case errors.Is(err, transport.ErrTimeout):
				e.Text = history.Timeout
			case err != nil:
				e.Text = history.Refused
			case string(answer.Body) != "answer to "+string(body):
				e.Text = history.Wrong
			}
			w.add(e)
		})
	}
}

// TestKilled kills a bridge between two mail servers again and again, and takes the servers away, while messages and calls
// cross both ways. Nothing is lost, and nothing is handled twice or out of order.
func TestKilled(t *testing.T) {
	a, b := startMail(t), startMail(t)
	dir := t.TempDir()
	s := sides{From: sideConfig{Mail: onMail(a, bridgeAddress, programAddress)}, To: sideConfig{Mail: onMail(b, bridgeAddress, programAddress)}, Rules: killedRules}
	s.From.Mail.State, s.To.Mail.State = filepath.Join(dir, "from.db"), filepath.Join(dir, "to.db")
	first, second := mailNode(t, onMail(a, programAddress, bridgeAddress)), mailNode(t, onMail(b, programAddress, bridgeAddress))
	testKilled(t, s, program{first, false}, program{second, false}, func(i int) func() {
		return mailOutage(t, []*mailserver.Server{a, b}[i%2], i/2)
	})
}

var killedRules = []string{"topics -> /forth durable=forth", "topics <- /back durable=back", "services -> /serve durable=serve"}

// mailOutage takes away a half of a mail server.
func mailOutage(t testing.TB, server *mailserver.Server, i int) (end func()) {
	fault := []mailserver.Service{mailserver.SMTP, mailserver.IMAP}[i%2]
	server.Stop(fault)
	return func() {
		if err := server.Resume(fault); err != nil {
			t.Error(err)
		}
	}
}

// testKilled has programs on both sides talk, while the bridge is killed and started again, with outages that begin and end
// in between.
func testKilled(t *testing.T, s sides, first, second program, outage func(int) (end func())) {
	kill := startChild(t, s)
	path := filepath.Join(t.TempDir(), "history")
	log, err := history.OpenLog(path, "programs")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w := &witness{t, log}
	w.add(history.Event{Kind: history.Start})
	const messages, calls, kills = 100, 20, 6
	forth, back := w.subscribe(second, "/forth", kills*messages), w.subscribe(first, "/back", kills*messages)
	w.serve(second, "/serve")
	var talking sync.WaitGroup
	all := []rounds{make(rounds, kills), make(rounds, kills), make(rounds, kills)}
	talking.Go(func() { w.publish(first.Node, "/forth", messages, all[0]) })
	talking.Go(func() { w.publish(second.Node, "/back", messages, all[1]) })
	talking.Go(func() { w.call(first.Node, "/serve", calls, all[2]) })
	for i := range kills {
		for _, rounds := range all {
			rounds <- struct{}{}
		}
		// The moment is what the test is about.
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		end := outage(i)
		kill()
		end()
		kill = startChild(t, s)
	}
	for _, rounds := range all {
		close(rounds)
	}
	talking.Wait()
	for _, done := range []<-chan struct{}{forth, back} {
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("not all has come")
		}
	}
	w.add(history.Event{Kind: history.Quiet})
	report, err := history.CheckFiles(path)
	if err != nil {
		t.Fatal(err)
	}
	ended := report.Answered + report.Timeouts + report.FailedCalls
	if !report.OK() || report.Acked != 2*kills*messages || ended != kills*calls || report.Answered != ended {
		t.Errorf("%+v", report)
	}
	t.Logf("%d published, %d of %d calls answered, in %v", report.Published, report.Answered, ended, report.Duration)
}
