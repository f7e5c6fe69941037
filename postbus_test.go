package postbus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config returns a configuration file for the first account of a mail server.
func config(server *mailserver.Server, more string) string {
	account := server.Accounts()[0]
	return fmt.Sprintf(`email:
  user:
    url-smtp: %s
    url-imap: %s
    username: %s
    password: %s
  recipients:
    to: %[3]s
%[5]s`, server.SMTPURL(), server.IMAPURL(), account.Address, account.Password, more)
}

func startServer(t testing.TB) *mailserver.Server {
	t.Helper()
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "email.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// echo publishes a message and waits for it.
func echo(t *testing.T, publisher, subscriber *transport.Node, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub, err := pubsub.NewSubscription(subscriber, name)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	pub, err := pubsub.NewPublisher(publisher, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(ctx, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.Next(ctx); err != nil || string(m.Body) != "hello" {
		t.Fatalf("received %v, %v", m, err)
	}
}

func TestOpen(t *testing.T) {
	server := startServer(t)
	path := write(t, config(server, "routes:\n  - pattern: /nowhere\n    to: nobody@localhost.test\nlimits:\n  max-body: 1000\n"))
	for _, environment := range []bool{false, true} {
		argument := path
		if environment {
			t.Setenv(email.ConfigEnv, path)
			argument = ""
		}
		node, err := postbus.Open(t.Context(), argument)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, node, node, "/chatter")
		for name, want := range map[string]error{"/nowhere": transport.ErrUndeliverable, "/large": transport.ErrTooLarge} {
			pub, err := pubsub.NewPublisher(node, name)
			if err != nil {
				t.Fatal(err)
			}
			body := make([]byte, 1000)
			if name == "/large" {
				body = make([]byte, 1001)
			}
			if err := pub.Publish(t.Context(), body); !errors.Is(err, want) {
				t.Errorf("publish on %s: %v, want %v", name, err, want)
			}
		}
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	server := startServer(t)
	good := config(server, "")
	for _, c := range []struct{ name, config, want string }{
		{"unknown key", good + "colour: red\n", "email.yml:9: colour"},
		{"wrong password", strings.Replace(good, "password: robot", "password: wrong", 1), "535"},
		{"no server", strings.Replace(good, server.SMTPAddr(), "127.0.0.1:1", 1), "127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := postbus.Open(t.Context(), write(t, c.config))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
	t.Chdir(t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv(email.ConfigEnv, "")
	if _, err := postbus.Open(t.Context(), ""); !errors.Is(err, email.ErrNoConfig) {
		t.Errorf("without a file: %v", err)
	}
}

// Nodes whose configuration says intraprocess see each other, and need no server.
func TestOpenIntraprocess(t *testing.T) {
	server := startServer(t)
	text := strings.Replace(config(server, ""), "email:\n", "email:\n  intraprocess: true\n", 1)
	server.Close()
	var nodes [2]*transport.Node
	for i := range nodes {
		node, err := postbus.Open(t.Context(), write(t, text))
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close(context.Background())
		nodes[i] = node
	}
	echo(t, nodes[0], nodes[1], "/chatter")
}

func ExampleNew() {
	ctx := context.Background()
	bus := intraprocess.NewBus()
	robot, err := postbus.New(bus.Attach(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer robot.Close(ctx)
	desk, err := postbus.New(bus.Attach(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer desk.Close(ctx)

	sub, _ := pubsub.NewSubscription(desk, "/chatter")
	pub, _ := pubsub.NewPublisher(robot, "/chatter")
	pub.Publish(ctx, []byte("hello"))
	msg, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(msg.Body))
	// Output: hello
}

// A test of a program that uses mail needs no account: the server is part of the test.
func ExampleOpenConfig() {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	account := server.Accounts()[0]

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	node, err := postbus.OpenConfig(ctx, email.Config{
		SMTP:     server.SMTPURL(),
		IMAP:     server.IMAPURL(),
		Username: account.Address,
		Password: account.Password,
		To:       []string{account.Address},
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	sub, _ := pubsub.NewSubscription(node, "/chatter")
	pub, _ := pubsub.NewPublisher(node, "/chatter")
	if err := pub.Publish(ctx, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	msg, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(msg.Body), "from", msg.From)
	// Output: hello from robot@localhost.test
}

// A program that outlives outages can also be started in one.
func TestOpenDuringAnOutage(t *testing.T) {
	server := startServer(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "email.yml")
	text := config(server, "outbox: {file: outbox.db}\nstate: state.db\n")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func() *transport.Node {
		t.Helper()
		node, err := postbus.Open(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { node.Close(context.Background()) })
		return node
	}
	subscribe := func(node *transport.Node, option pubsub.SubscriptionOption) *pubsub.Subscription {
		t.Helper()
		sub, err := pubsub.NewSubscription(node, "/t", option)
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	expect := func(sub *pubsub.Subscription, want string) {
		t.Helper()
		if m, err := sub.Next(ctx); err != nil || string(m.Body) != want {
			t.Fatalf("received %v, %v, want %s", m, err, want)
		}
	}
	publish := func(node *transport.Node, body string) {
		t.Helper()
		pub, err := pubsub.NewPublisher(node, "/t")
		if err == nil {
			err = pub.Publish(ctx, []byte(body))
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	node := open()
	subscribe(node, pubsub.Durable("old"))
	if err := node.Close(ctx); err != nil {
		t.Fatal(err)
	}
	node = open()
	publish(node, "before the outage")
	if err := node.Close(ctx); err != nil { // which drains the outbox
		t.Fatal(err)
	}

	server.Stop(mailserver.SMTP)
	server.Stop(mailserver.IMAP)
	if _, err := postbus.Open(ctx, write(t, config(server, ""))); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without an outbox: %v", err)
	}
	node = open()
	old, plain, durable, group := subscribe(node, pubsub.Durable("old")), subscribe(node, pubsub.KeepLast(9)), subscribe(node, pubsub.Durable("new")), subscribe(node, pubsub.Group("g"))
	publish(node, "during the outage")
	for _, protocol := range []mailserver.Service{mailserver.IMAP, mailserver.SMTP} {
		if err := server.Resume(protocol); err != nil {
			t.Fatal(err)
		}
	}
	expect(old, "before the outage")
	expect(old, "during the outage")
	// until takes messages that may come before the one that must.
	until := func(sub *pubsub.Subscription, want string, before ...string) {
		t.Helper()
		for {
			m, err := sub.Next(ctx)
			switch {
			case err != nil || string(m.Body) != want && !slices.Contains(before, string(m.Body)):
				t.Fatalf("received %v, %v, want %s", m, err, want)
			case string(m.Body) == want:
				return
			}
		}
	}
	// By the server's clock the new name may have been there before the first message.
	until(durable, "during the outage", "before the outage")
	// The others begin when the inbox has been reached, which may be after that has arrived.
	publish(node, "after the outage")
	expect(durable, "after the outage")
	until(plain, "after the outage", "during the outage")
	until(group, "after the outage", "during the outage")

	wrong := strings.Replace(text, "password: ", "password: not-", 1)
	wrong = strings.NewReplacer("outbox.db", "other-outbox.db", "state.db", "other-state.db").Replace(wrong)
	if _, err := postbus.Open(ctx, write(t, wrong)); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a wrong password: %v", err)
	}
}
