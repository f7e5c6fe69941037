//go:build unix

package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// When the disk is full messages are refused with an error that says so, and what was accepted
// is kept. When there is room again everything goes on.
func TestDiskFull(t *testing.T) {
	c := startChild(t, "full", "BOX="+newFile(t))
	for c.lines.Scan() {
		t.Log(c.lines.Text())
	}
	if err := c.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A file that is damaged while it is open fails what is sent, and at once: to try again would be in
// vain for as long as the process lives.
func TestFileBreaks(t *testing.T) {
	file := newFile(t)
	node, err := transport.NewNode(open(t, newHop(nil), outbox.Options{File: file}), nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 8192)); err != nil { // what says where everything is
		t.Fatal(err)
	}
	for _, want := range []transport.Outcome{transport.Unknown, transport.Permanent} {
		err := node.Send(context.Background(), newPublisher().message("x"))
		failure, ok := errors.AsType[*transport.SendError](err)
		if !ok || failure.Outcome != want || !strings.Contains(err.Error(), file+" can't be written to any more") {
			t.Errorf("send: %v, want the outcome %v", err, want)
		}
	}
	if err := node.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// runFull is the child process of TestDiskFull: a limit for the size of files is a disk that is
// full for it alone.
func runFull() error {
	signal.Ignore(syscall.SIGXFSZ)
	limit := func(size uint64) error {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			return err
		}
		l.Cur = size
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
	}
	down := newHop(func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) })
	file := os.Getenv("BOX")
	box, err := outbox.Open(down, outbox.Options{File: file, Logger: quiet})
	if err != nil {
		return err
	}
	ctx := context.Background()
	p := newPublisher()
	var accepted []string
	for _, size := range []uint64{300_000, 1_000_000, 1 << 40} {
		if err := limit(size); err != nil {
			return err
		}
		full := false
		for range 100 {
			m := p.message(fmt.Sprint(p.sequence, strings.Repeat("x", 10_000)))
			err := box.Send(ctx, m)
			if err == nil {
				accepted = append(accepted, m.ID.String())
				continue
			}
			failure, ok := errors.AsType[*transport.SendError](err)
			if !ok || !errors.Is(err, transport.ErrFull) || failure.Outcome != transport.Temporary || !strings.Contains(err.Error(), file) {
				return fmt.Errorf("with a file of at most %d bytes: %w", size, err)
			}
			if !full {
				fmt.Println(err)
			}
			full = true
		}
		if full != (size < 1<<40) {
			return fmt.Errorf("with a file of at most %d bytes after %d messages: was it full? %v", size, len(accepted), full)
		}
		fmt.Printf("%d messages are accepted with %d bytes at most\n", len(accepted), size)
	}
	if err := box.Close(ctx); err != nil {
		return err
	}
	up := newHop(nil)
	if box, err = outbox.Open(up, outbox.Options{File: file, Logger: quiet}); err != nil {
		return err
	}
	if err := box.Close(ctx); err != nil {
		return err
	}
	var sent []string
	for _, m := range up.taken {
		sent = append(sent, m.ID.String())
	}
	if strings.Join(sent, " ") != strings.Join(accepted, " ") {
		return fmt.Errorf("accepted %d messages, sent %d", len(accepted), len(sent))
	}
	return nil
}
