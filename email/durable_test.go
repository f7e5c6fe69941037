package email_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

var durableOnT = transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}

// received collects deliveries.
type received chan transport.Delivery

func receive(t testing.TB, c *email.Carrier, in transport.Interest) (got received, stop func()) {
	t.Helper()
	got = make(received, 1<<16)
	stop, err := c.Receive(in, func(d transport.Delivery) { got <- d })
	if err != nil {
		t.Fatal(err)
	}
	return got, stop
}

// next waits for a delivery.
func (r received) next(t testing.TB) transport.Delivery {
	t.Helper()
	select {
	case d := <-r:
		return d
	case <-time.After(timeout):
		t.Fatal("no delivery")
		return transport.Delivery{}
	}
}

func closeCarrier(t testing.TB, c *email.Carrier) {
	t.Helper()
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func ack(t testing.TB, d transport.Delivery) {
	t.Helper()
	if err := d.Ack(); err != nil {
		t.Errorf("ack message %d: %v", d.Message.Info.Sequence, err)
	}
}

// childConfig is the environment variable that makes the test binary a subscriber, to be killed.
const childConfig = "POSTBUS_TEST_DURABLE_CHILD"

// TestDurableChild is the process that TestDurableKilled kills. It tells what it handles.
func TestDurableChild(t *testing.T) {
	text, ok := os.LookupEnv(childConfig)
	if !ok {
		t.Skip("this is a part of TestDurableKilled")
	}
	var c email.Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1) // nobody is there any more to kill it
	}()
	got, _ := receive(t, open(t, c), durableOnT)
	for d := range got { // until it is killed
		fmt.Printf("got %d\n", d.Message.Info.Sequence)
		if err := d.Ack(); err != nil {
			fmt.Println("error", err)
		}
		fmt.Printf("acked %d\n", d.Message.Info.Sequence)
	}
}

// TestDurableKilled kills a subscriber at random moments. What it has acknowledged it never gets
// again, everything else it does, in order.
func TestDurableKilled(t *testing.T) { testDurableKilled(t, (*bench).send, 1) }

// TestDurableKilledInBatches: of a mail of several messages only those come again that have not been
// acknowledged.
func TestDurableKilledInBatches(t *testing.T) {
	testDurableKilled(t, func(b *bench) { b.deliver(25) }, 25)
}

// testDurableKilled has so many messages put into the inbox at a time.
func testDurableKilled(t *testing.T, put func(*bench), each int) {
	b := newBench(t, mailserver.Config{}, quiet)
	config := b.config()
	config.State = filepath.Join(t.TempDir(), "state")
	first := open(t, config)
	receive(t, first, durableOnT)
	closeCarrier(t, first)
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	const total, kills = 300, 8
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for range total / each {
			put(b)
		}
	})
	k := killed{acked: make(map[uint64]bool)}
	for n := 0; n < kills; n++ {
		k.run(t, string(text), 1+rand.IntN(total/kills))
	}
	// The rest is received here, and a message behind all others.
	publishing.Wait()
	b.send()
	again := open(t, config)
	defer closeCarrier(t, again)
	got, _ := receive(t, again, durableOnT)
	for {
		d := got.next(t)
		ack(t, d)
		n := d.Message.Info.Sequence
		k.got(t, n)
		if k.acked[n] = true; n == total+1 {
			break
		}
	}
	// Of one that was got and has not come again nobody knows that Ack had returned.
	if missing := total + 1 - len(k.acked); missing > kills {
		t.Errorf("%d messages have got lost", missing-kills)
	}
}

// killed is what has been seen of a subscriber that was killed again and again.
type killed struct {
	acked map[uint64]bool
	last  uint64 // that it got
}

// got checks that a message may come: not one that was acknowledged, nor one before that.
func (k *killed) got(t *testing.T, n uint64) {
	t.Helper()
	if k.acked[n] || n != k.last && n != k.last+1 {
		t.Errorf("message %d came after %d, acknowledged before: %v", n, k.last, k.acked[n])
	}
	k.last = n
}

// run runs the subscriber until it has acknowledged so many messages, and kills it.
func (k *killed) run(t *testing.T, config string, count int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestDurableChild$")
	child.Env = append(os.Environ(), childConfig+"="+config)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		_, err = child.StdinPipe()
	}
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var n uint64
		switch text := lines.Text(); {
		case strings.HasPrefix(text, "error"):
			t.Error(text)
		case scan(text, "got %d", &n):
			k.got(t, n)
		case scan(text, "acked %d", &n):
			k.acked[n] = true
			count--
		}
		if count == 0 { // what it has written after that counts, too
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait() // it was killed
}

func scan(text, format string, into ...any) bool {
	n, err := fmt.Sscanf(text, format, into...)
	return err == nil && n == len(into)
}

// TestDeadLetters: what is given up can be listed, delivered once more and deleted, with or
// without a program that runs.
func TestDeadLetters(t *testing.T) {
	b := newBench(t, mailserver.Config{}, quiet)
	config := b.config()
	config.State = filepath.Join(t.TempDir(), "state")
	c := open(t, config)
	in := durableOnT
	in.MaxDeliver = 2
	got, stop := receive(t, c, in)
	b.send()
	b.send()
	got.next(t).Term("no")
	got.next(t).Nack(0, "not yet")
	got.next(t).Nack(0, "not at all")

	state := c.State()
	list := letters(t, state, 2)
	if l := list[0]; l.Durable != "d" || l.Reason != "no" || l.Attempts != 1 || l.Message.Info.Sequence != 1 || time.Since(l.Time) > time.Minute {
		t.Errorf("the first dead letter is %+v", l)
	}
	if l := list[1]; l.Reason != "not at all" || l.Attempts != 2 || l.Message.Info.Sequence != 2 {
		t.Errorf("the second dead letter is %+v", l)
	}
	wantCount(t, 1)(state.Retry(func(l email.DeadLetter) bool { return l.Number == list[0].Number }))
	d := got.next(t)
	if d.Message.Info.Sequence != 1 || d.Attempt != 1 {
		t.Errorf("message %d came once more, in attempt %d", d.Message.Info.Sequence, d.Attempt)
	}
	d.Term("still not")
	letters(t, state, 2)
	if _, err := email.OpenState(config.State); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("the file was opened twice: %v", err)
	}
	if err := state.Forget("d"); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("a name in use was forgotten: %v", err)
	}
	stop()
	closeCarrier(t, c)

	file, err := email.OpenState(config.State)
	if err != nil {
		t.Fatal(err)
	}
	wantCount(t, 1)(file.Retry(func(l email.DeadLetter) bool { return l.Reason == "still not" }))
	names, err := file.Durables()
	if err != nil || len(names) != 1 || names[0].Name != "d" || names[0].Pattern != "/t" || names[0].Dead != 1 || names[0].Again != 1 || names[0].Open != 0 {
		t.Errorf("the file has %+v, %v", names, err)
	}
	wantCount(t, 1)(file.Purge(nil))
	letters(t, file, 0)
	if err := errors.Join(file.Close(), file.Close()); err != nil {
		t.Error(err)
	}

	c = open(t, config)
	got, _ = receive(t, c, in)
	d = got.next(t)
	if d.Message.Info.Sequence != 1 {
		t.Errorf("message %d came when the program was started again", d.Message.Info.Sequence)
	}
	ack(t, d)
	closeCarrier(t, c)
	if file, err = email.OpenState(config.State); err != nil {
		t.Fatal(err)
	}
	if names, err := file.Durables(); err != nil || names[0].Again != 0 {
		t.Errorf("the file has %+v, %v", names, err)
	}
	if err := errors.Join(file.Forget("d"), file.Close()); err != nil {
		t.Error(err)
	}
	if _, err := email.OpenState(config.State + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// letters waits until there are so many dead letters.
func letters(t *testing.T, s *email.State, want int) []email.DeadLetter {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		var list []email.DeadLetter
		for l, err := range s.DeadLetters() {
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, l)
		}
		if len(list) == want {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d dead letters, want %d", len(list), want)
		}
	}
}

func wantCount(t *testing.T, want int) func(int, error) {
	return func(n int, err error) {
		t.Helper()
		if n != want || err != nil {
			t.Errorf("%d letters, %v, want %d", n, err, want)
		}
	}
}

func TestDurableRefused(t *testing.T) {
	b := newBench(t, mailserver.Config{}, quiet)
	if _, err := b.carrier.Receive(durableOnT, func(transport.Delivery) {}); !errors.Is(err, transport.ErrNotSupported) || !strings.Contains(err.Error(), "state") {
		t.Errorf("without a state file: %v", err)
	}
	config := b.config()
	config.State = filepath.Join(t.TempDir(), "state")
	c := open(t, config)
	defer closeCarrier(t, c)
	_, stop := receive(t, c, durableOnT)
	stop()
	for _, change := range []func(*transport.Interest){
		func(in *transport.Interest) { in.Name = "/other" },
		func(in *transport.Interest) { in.Kind = transport.Request },
	} {
		in := durableOnT
		change(&in)
		if _, err := c.Receive(in, func(transport.Delivery) {}); !errors.Is(err, transport.ErrInUse) || !strings.Contains(err.Error(), "topic messages named /t") {
			t.Errorf("the name for something else: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if _, err := email.Open(ctx, config, email.Options{Logger: quiet}); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("the state file for a second carrier: %v", err)
	}
	config.State = filepath.Join(config.State, "none")
	if _, err := email.Open(ctx, config, email.Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), config.State) {
		t.Errorf("a state file in no folder: %v", err)
	}
}
