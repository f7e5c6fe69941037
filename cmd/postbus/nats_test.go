package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// natsSite starts a server, and returns a configuration file for it.
func natsSite(t *testing.T) (path string) {
	t.Helper()
	a := &app{logger: slog.New(slog.DiscardHandler)}
	s, err := a.startNATS(t.Context(), "127.0.0.1", 0, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	path = filepath.Join(t.TempDir(), natsConfigName)
	if err := os.WriteFile(path, []byte(natsConfigFile(s.ClientURL())), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runs runs the command, which must end with that code, and returns what it has written.
func runs(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errors bytes.Buffer
	if got := run(t.Context(), args, nil, &out, &errors); got != code {
		t.Fatalf("%v: exit code %d, stderr:\n%s", args, got, errors.String())
	}
	return out.String(), errors.String()
}

func TestDemoOverNATS(t *testing.T) {
	out, stderr := runs(t, exitDone, "demo", "--carrier", "nats")
	if stderr != "" {
		t.Errorf("stderr:\n%s", stderr)
	}
	for _, text := range []string{
		"programs that talk to each other over NATS\n",
		"\n5. The messages\n",
		"\n   subject: /.chatter\n", "\n   subject: /.add_two_ints\n   reply: _INBOX.", "\n   {\"sum\":5}\n", "\n   In-Reply-To: 1.",
		"\n   messages on /chatter             14         14        0 ",
		"\n   30 messages in ",
	} {
		if !strings.Contains(out, text) {
			t.Errorf("there is no %q in the output:\n%s", text, out)
		}
	}
}

func TestDeadLettersOfNATS(t *testing.T) {
	path := natsSite(t)
	config, err := email.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	node, err := postbus.OpenConfig(ctx, config, &transport.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	refused := make(chan struct{}, 2)
	stop, err := node.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/kept/a", Durable: "audit"}, sink(func(d transport.Delivery) {
		d.Term("nobody can read this")
		refused <- struct{}{}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	pub, err := pubsub.NewPublisher(node, "/kept/a")
	if err != nil {
		t.Fatal(err)
	}
	die := func(texts ...string) (list string) { // returns when all are on record
		for _, text := range texts {
			if err := pub.Publish(ctx, []byte(text)); err != nil {
				t.Fatal(err)
			}
			<-refused
		}
		for strings.Count(list, "\n") < 1+len(texts) {
			list, _ = runs(t, exitDone, "durable", "list", "--dead", "--config", path)
			if ctx.Err() != nil {
				t.Fatalf("the list:\n%s", list)
			}
		}
		return list
	}
	list := die("one", "two")
	lines := strings.Split(list, "\n")
	if !strings.HasPrefix(lines[0], "LETTER  FOR ") || !strings.HasPrefix(lines[1], `KEPT/1  durable name "audit"  `) || !strings.Contains(lines[1], " 1 ") || !strings.HasSuffix(lines[1], " /kept/a  nobody can read this") {
		t.Errorf("the list:\n%s", list)
	}
	out, _ := runs(t, exitDone, "durable", "list", "--dead", "--json", "--config", path)
	if first, _, _ := strings.Cut(out, "\n"); !strings.HasPrefix(first, `{"letter":"KEPT/1","for":"durable name \"audit\"","name":"/kept/a","kind":"topic message"`) || !strings.Contains(first, `"bytes":3`) {
		t.Errorf("as JSON: %s", out)
	}
	if out, _ := runs(t, exitDone, "durable", "purge", "KEPT/2", "--config", path); out != "1 dead letter deleted\n" {
		t.Errorf("purge said %q", out)
	}
	if _, stderr := runs(t, exitFailed, "durable", "purge", "KEPT/2", "--config", path); !strings.Contains(stderr, "not there") {
		t.Errorf("purge again said %q", stderr)
	}
	if _, stderr := runs(t, exitFailed, "durable", "retry", "KEPT/1", "--config", path); !strings.Contains(stderr, "can't be delivered once more") {
		t.Errorf("retry said %q", stderr)
	}
	for _, name := range []string{"audit", "KEPT"} { // the durable name, and the stream
		if out, _ := runs(t, exitDone, "durable", "purge", "other", "--config", path); out != "0 dead letters deleted\n" {
			t.Errorf("purge of another said %q", out)
		}
		if out, _ := runs(t, exitDone, "durable", "purge", name, "--config", path); out != "1 dead letter deleted\n" {
			t.Errorf("purge of %s said %q", name, out)
		}
		die("three")
	}
}

// sink passes deliveries on.
type sink func(transport.Delivery)

func (s sink) Deliver(d transport.Delivery)  { s(d) }
func (sink) Drain(ctx context.Context) error { return nil }

// A server that is interrupted before it is ready leaves nothing behind.
func TestNATSThatDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	a := &app{logger: slog.New(slog.DiscardHandler)}
	s, err := a.startNATS(t.Context(), "127.0.0.1", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(s.ClientURL(), "nats://"), ":")
	begin := time.Now()
	_, stderr := runs(t, exitFailed, "nats", "--listen", "127.0.0.1:"+port)
	if !strings.Contains(stderr, "address already in use") || time.Since(begin) > natsPatience/2 {
		t.Errorf("after %v: %s", time.Since(begin), stderr)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, _, err := loopback(fmt.Sprintf("127.0.0.1:%d", 1<<16)); err == nil {
		t.Error("a port that is none")
	}
}
