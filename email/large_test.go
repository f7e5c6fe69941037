package email_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// TestBodyLimits: large bodies pass up to the receiver's limit; larger ones are skipped.
func TestBodyLimits(t *testing.T) {
	t.Parallel()
	var log safeBuffer
	b := newBench(t, mailserver.Config{MaxMessageBytes: 3 << 20}, slog.New(slog.NewTextHandler(&log, nil)))
	config := b.config()
	config.MaxBody = 200_000
	limited, err := email.Open(t.Context(), config, email.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer limited.Close(context.Background())
	got := make(chan int, 10)
	if _, err := limited.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(d transport.Delivery) { got <- len(d.Message.Body) }); err != nil {
		t.Fatal(err)
	}
	sizes := []int{1, 60_000, 70_000, 200_000, 1_000_000, 2}
	for _, size := range sizes {
		if err := b.carrier.Send(t.Context(), b.message(strings.Repeat("\x00\r\n", size)[:size])); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range sizes {
		select {
		case m := <-b.got:
			if len(m.Body) != size {
				t.Errorf("a body of %d bytes, want %d", len(m.Body), size)
			}
		case <-time.After(timeout):
			t.Fatal("a message did not come")
		}
		if size <= 200_000 {
			select {
			case n := <-got:
				if n != size {
					t.Errorf("the limited node got a body of %d bytes, want %d", n, size)
				}
			case <-time.After(timeout):
				t.Fatal("a message did not come to the limited node")
			}
		}
	}
	if !strings.Contains(log.String(), "raise limits.max-body") {
		t.Errorf("the log does not say what to do:\n%s", log.String())
	}
	err = b.carrier.Send(t.Context(), b.message(strings.Repeat("x", 3<<20)))
	if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Permanent || !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}

// TestLargeBody: a body of 20 MB comes back byte for byte.
func TestLargeBody(t *testing.T) {
	size := 20_000_000
	if raced {
		size /= 10
	}
	b := newBench(t, mailserver.Config{}, quiet)
	config := b.config()
	config.MaxBody = 32 << 20
	large, err := email.Open(t.Context(), config, email.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close(context.Background())
	got := make(chan []byte, 1)
	if _, err := large.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(d transport.Delivery) { got <- d.Message.Body }); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(body)
	if err := b.carrier.Send(t.Context(), b.message(string(body))); err != nil {
		t.Fatal(err)
	}
	select {
	case back := <-got:
		if !bytes.Equal(back, body) {
			t.Errorf("%d bytes came, which are not those sent", len(back))
		}
	case <-time.After(timeout):
		t.Error("the message did not come")
	}
}
