//go:build unix

package outbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// childEnv makes the test binary a process that publishes, or another one.
const childEnv = "POSTBUS_TEST_OUTBOX_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		if err := runChild(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// child is the test binary as a process that the parent kills.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

// startChild starts the test binary in a role, with settings in its environment.
func startChild(t *testing.T, role string, settings ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(append(os.Environ(), childEnv+"="+role), settings...)
	c.cmd.Stderr = os.Stderr
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.stdin, c.lines = stdin, bufio.NewScanner(stdout)
	return c
}

// A process with an outbox is killed at random moments. Everything that it was told is
// accepted arrives, in the order of each publisher; what arrives twice has the same ID.
func TestKill(t *testing.T) {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	account := server.Accounts()[0]
	config := email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password, To: []string{account.Address}}
	carrier, err := email.Open(t.Context(), config, email.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer carrier.Close(context.Background())
	r := &received{ids: make(map[transport.ID]int), changed: make(chan struct{}, 1)}
	stop, err := carrier.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/kill", GapWait: -1}, r.deliver)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	settings := []string{"BOX=" + newFile(t), "SMTP=" + config.SMTP, "IMAP=" + config.IMAP, "USER_NAME=" + config.Username, "PASSWORD=" + config.Password}
	acknowledged := make(map[string]bool)
	for range 8 {
		c := startChild(t, "publish", settings...)
		killer := time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() })
		for c.lines.Scan() {
			if c.lines.Text() == "ready" {
				killer.Reset(time.Duration(rand.IntN(200)) * time.Millisecond)
			} else {
				acknowledged[c.lines.Text()] = true
			}
		}
		killer.Stop()
		_ = c.cmd.Wait() // it was killed
	}
	c := startChild(t, "drain", settings...)
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("the last process: %v", err)
	}
	r.await(t, acknowledged)
}

// received notes what arrives.
type received struct {
	mu      sync.Mutex
	ids     map[transport.ID]int
	order   []*transport.Message
	changed chan struct{}
}

func (r *received) deliver(d transport.Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[d.Message.ID]++
	r.order = append(r.order, d.Message)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// await waits until everything that was acknowledged has come, and looks at the rest.
func (r *received) await(t *testing.T, acknowledged map[string]bool) {
	timeout := time.After(2 * time.Minute)
	for missing := 1; missing > 0; {
		missing = len(acknowledged)
		r.mu.Lock()
		for id := range r.ids {
			if acknowledged[id.String()] {
				missing--
			}
		}
		r.mu.Unlock()
		if missing == 0 {
			break
		}
		select {
		case <-r.changed:
		case <-timeout:
			t.Fatalf("%d of %d acknowledged messages have not come", missing, len(acknowledged))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := make(map[transport.GID]uint64)
	seen := make(map[transport.ID]bool)
	for _, m := range r.order {
		gid, sequence, _ := m.ID.Origin()
		if gid != m.Info.PublisherGID || sequence != m.Info.Sequence {
			t.Errorf("a message has the ID %v and the number %d of %v", m.ID, m.Info.Sequence, m.Info.PublisherGID)
		}
		if !seen[m.ID] && sequence <= last[gid] {
			t.Errorf("number %d of a publisher came after %d", sequence, last[gid])
		}
		seen[m.ID] = true
		last[gid] = max(last[gid], sequence)
	}
	t.Logf("%d acknowledged, %d arrived, %d of them again", len(acknowledged), len(r.ids), len(r.order)-len(r.ids))
}

// runChild is the main function of the child process.
func runChild(role string) error {
	if role == "full" {
		return runFull()
	}
	ctx := context.Background()
	user := os.Getenv("USER_NAME")
	config := email.Config{SMTP: os.Getenv("SMTP"), IMAP: os.Getenv("IMAP"), Username: user, Password: os.Getenv("PASSWORD"), To: []string{user}}
	carrier, err := email.Open(ctx, config, email.Options{Logger: quiet})
	if err != nil {
		return err
	}
	box, err := outbox.Open(carrier, outbox.Options{File: os.Getenv("BOX"), Logger: quiet})
	if err != nil {
		return err
	}
	if role == "drain" {
		return box.Close(ctx)
	}
	fmt.Println("ready")
	var mu sync.Mutex
	for range 4 {
		go func() {
			p := newPublisher()
			for {
				m := p.message(strings.Repeat("x", rand.IntN(2000)))
				m.Name = "/kill"
				id := m.ID.String()
				if err := box.Send(ctx, m); err != nil {
					fmt.Fprintln(os.Stderr, err)
					continue
				}
				mu.Lock()
				fmt.Println(id)
				mu.Unlock()
			}
		}()
	}
	select {} // until it is killed
}
