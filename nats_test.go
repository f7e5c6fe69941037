package postbus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
	"github.com/postbus/postbus/transport/outbox"
)

// startNATS starts a NATS server that wants a password.
func startNATS(t testing.TB) *server.Server {
	t.Helper()
	return startNATSWith(t, &server.Options{Username: "robot", Password: "secret"})
}

// startNATSWith starts a NATS server with these options, and those that a test needs.
func startNATSWith(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoLog, o.NoSigs = "127.0.0.1", server.RANDOM_PORT, true, t.TempDir(), true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	return s
}

// openOnNATS opens a node with a configuration file that has more keys in its section nats.
func openOnNATS(t *testing.T, s *server.Server, more string) (*transport.Node, error) {
	t.Helper()
	t.Setenv("POSTBUS_TEST_SECRET", "secret")
	return postbus.Open(t.Context(), write(t, fmt.Sprintf("nats:\n  servers: %s\n  user: robot\n  password-env: POSTBUS_TEST_SECRET\n%s", s.ClientURL(), more)))
}

func TestOpenOnNATS(t *testing.T) {
	s := startNATS(t)
	node, err := openOnNATS(t, s, `  name: robot
  version: 1.2.3
  description: Drives about
  streams:
    - {name: KEPT, names: [/kept/>, 'kept.>'], max-messages: 100}
  objects: {bucket: bodies, max-bytes: 100000000}
  cache: {bucket: results}
`)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	echo(t, node, node, "/chatter")
	sub, err := pubsub.NewSubscription(node, "/kept/a", pubsub.Durable("audit"))
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if _, err := service.NewServer(node, "upper", service.Cache(time.Minute)); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := natsgo.Connect(s.ClientURL(), natsgo.UserInfo("robot", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"KEPT", "OBJ_bodies", "KV_results"} {
		if _, err := js.Stream(ctx, name); err != nil {
			t.Errorf("stream %s: %v", name, err)
		}
	}
	about, err := conn.RequestWithContext(ctx, "$SRV.INFO.robot", nil)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(about.Data, &info); err != nil || info.Version != "1.2.3" || info.Description != "Drives about" || len(info.Endpoints) != 1 || info.Endpoints[0].Subject != "upper" {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestOpenOnNATSErrors(t *testing.T) {
	s := startNATS(t)
	if _, err := postbus.Open(t.Context(), write(t, "nats: "+s.ClientURL()+"\n")); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("without a password: %v", err)
	}
	gone := startNATS(t)
	gone.Shutdown()
	if node, err := openOnNATS(t, gone, ""); err == nil || !strings.Contains(err.Error(), gone.ClientURL()) {
		t.Errorf("without a server: %v, %v", node, err)
	}
}

// TestRights gives a node no more rights than docs/nats.md says it needs.
func TestRights(t *testing.T) {
	s := startNATSWith(t, &server.Options{Users: []*server.User{{Username: "robot", Password: "secret", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"orders.>", "_INBOX.>", "$JS.API.>", "$JS.ACK.>", "$POSTBUS.>", "$O.bodies.>", "$JS.FC.OBJ_bodies.>", "$KV.results.>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{"orders.>", "_INBOX.robot.>", "$SRV.>"}},
	}}}})
	var log lockedBuffer
	t.Setenv("POSTBUS_TEST_SECRET", "secret")
	config, err := email.ParseConfig([]byte(fmt.Sprintf(`nats:
  servers: %s
  user: robot
  password-env: POSTBUS_TEST_SECRET
  inbox-prefix: _INBOX.robot
  streams: [{name: ORDERS, names: orders.kept.>}]
  objects: {bucket: bodies}
  cache: {bucket: results}
`, s.ClientURL())), "email.yml")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	node, err := postbus.OpenConfig(ctx, config, &transport.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	sub, err := pubsub.NewSubscription(node, "orders.kept.a", pubsub.Durable("audit"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pubsub.NewPublisher(node, "orders.kept.a")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{3, 2 << 20} {
		if err := pub.Publish(ctx, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		m, err := sub.Next(ctx)
		if err != nil || len(m.Body) != size {
			t.Fatalf("%v, %v", m, err)
		}
	}
	server, err := service.NewServer(node, "orders.total", service.Group("all"), service.Cache(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	err = server.Handle(func(context.Context, *transport.Message) ([]byte, error) { return []byte("7"), nil })
	if err != nil {
		t.Fatal(err)
	}
	client, err := service.NewClient(node, "orders.total")
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Call(ctx, nil); err != nil || string(answer.Body) != "7" {
		t.Errorf("%v, %v", answer, err)
	}
	if err := node.Close(ctx); err != nil {
		t.Error(err)
	}
	if text := log.String(); text != "" {
		t.Errorf("the log:\n%s", text)
	}
}

// lockedBuffer is a log that a test can read.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// With an outbox a node opens, and takes messages, while there is no server.
func TestOpenOnNATSWithOutbox(t *testing.T) {
	s := startNATS(t)
	s.Shutdown()
	s.WaitForShutdown()
	node, err := openOnNATS(t, s, "outbox: {file: outbox.db}\n")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(t.Context(), []byte("hello")); err != nil {
		t.Error(err)
	}
	box, ok := node.Carrier().(*outbox.Outbox)
	if !ok {
		t.Fatalf("the carrier is %T", node.Carrier())
	}
	if _, ok := box.Unwrap().(*nats.Carrier); !ok || box.Stats().Waiting != 1 {
		t.Errorf("stats %+v, carrier %T", box.Stats(), box.Unwrap())
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who needs no NATS does not link it.
func TestPackagesThatLinkNoNATS(t *testing.T) {
	list, err := exec.Command("go", "list", "-deps", "./email/...", "./intraprocess", "./pubsub", "./service", "./waitset", "./transport", "./transport/outbox", "./transport/codec/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(list), "github.com/emersion/go-imap/v2") {
		t.Errorf("the list is not what it should be:\n%s", list)
	}
	for line := range strings.Lines(string(list)) {
		if strings.Contains(line, "nats-io") || strings.Contains(line, "transport/nats") {
			t.Errorf("%s is linked", strings.TrimSpace(line))
		}
	}
}
