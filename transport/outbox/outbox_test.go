package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

var errDown = errors.New("connection refused")

func TestSendsWhatItAccepts(t *testing.T) {
	h := newHop(nil)
	o := open(t, h, outbox.Options{})
	p := newPublisher()
	var want []string
	for _, m := range p.several("m", 200) {
		want = append(want, string(m.Body))
		send(t, o, m)
	}
	if got := bodies(h.await(t, 200)); !slices.Equal(got, want) {
		t.Errorf("sent %v", got)
	}
	closeBox(t, o)
	if s := o.Stats(); s.Waiting != 0 || s.Bytes != 0 || s.Accepted != 200 || s.Sent != 200 || !s.Oldest.IsZero() {
		t.Errorf("stats: %+v", s)
	}
	if h.closed != 1 {
		t.Errorf("the carrier was closed %d times", h.closed)
	}
}

// What could not be sent is sent by the next one to open the file, in order and unchanged.
func TestSendsWhatIsLeft(t *testing.T) {
	file := newFile(t)
	down := newHop(func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) })
	o := open(t, down, outbox.Options{File: file})
	p := newPublisher()
	msgs := p.several("m", 100)
	msgs[3].Header.Add("A", "b")
	msgs[3].To = []string{"x@example.org"}
	send(t, o, msgs...)
	closeBox(t, o)
	if s := o.Stats(); s.Waiting != 100 || s.Sent != 0 {
		t.Fatalf("stats: %+v", s)
	}

	up := newHop(nil)
	o = open(t, up, outbox.Options{File: file})
	got := up.await(t, 100)
	for i, m := range got {
		if m.ID != msgs[i].ID || string(m.Body) != string(msgs[i].Body) || !m.Info.SourceTime.Equal(msgs[i].Info.SourceTime) {
			t.Fatalf("message %d came as %+v, want %+v", i, m, msgs[i])
		}
	}
	if got[3].Header.Get("A") != "b" || got[3].To[0] != "x@example.org" {
		t.Errorf("got %+v", got[3])
	}
	closeBox(t, o)

	third := newHop(nil)
	o = open(t, third, outbox.Options{File: file})
	closeBox(t, o)
	if len(third.taken) > 0 {
		t.Errorf("%d were sent again", len(third.taken))
	}
}

// A message that is refused is a dead letter with its reason; the others go out.
func TestDeadLetters(t *testing.T) {
	refuse := true
	h := newHop(func(m *transport.Message) error {
		if refuse && string(m.Body) == "m2" {
			return fail(transport.Permanent, 550, fmt.Errorf("no such user: %w", transport.ErrUndeliverable))
		}
		return nil
	})
	file := newFile(t)
	o := open(t, h, outbox.Options{File: file})
	p := newPublisher()
	send(t, o, p.several("m", 4)...)
	if got := bodies(h.await(t, 3)); !slices.Equal(got, []string{"m1", "m3", "m4"}) {
		t.Errorf("sent %v", got)
	}
	closeBox(t, o)

	refuse = false
	h = newHop(nil)
	o = open(t, h, outbox.Options{File: file})
	dead := entries(t, o.Dead())
	if len(dead) != 1 {
		t.Fatalf("dead letters: %+v", dead)
	}
	d := dead[0]
	if string(d.Message.Body) != "m2" || d.Dead.Code != 550 || d.Dead.Reason != "no such user: undeliverable" || d.Dead.Attempts != 1 ||
		d.Accepted.IsZero() || d.Dead.Time.Before(d.Accepted) {
		t.Errorf("dead letter: %+v, %+v", d, d.Dead)
	}
	if s := o.Stats(); s.Dead != 1 || s.DeadBytes != int64(d.Size) {
		t.Errorf("stats: %+v", s)
	}
	if n, err := o.Retry(func(e outbox.Entry) bool { return e.Number != d.Number }); n != 0 || err != nil {
		t.Errorf("retry of others: %d, %v", n, err)
	}
	if n, err := o.Retry(nil); n != 1 || err != nil {
		t.Errorf("retry: %d, %v", n, err)
	}
	if got := bodies(h.await(t, 1)); !slices.Equal(got, []string{"m2"}) {
		t.Errorf("sent %v", got)
	}
	if s := o.Stats(); s.Dead != 0 || s.DeadBytes != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestPurge(t *testing.T) { synctest.Test(t, testPurge) }

func testPurge(t *testing.T) {
	h := newHop(func(m *transport.Message) error {
		if string(m.Body) == "dead" {
			return fail(transport.Permanent, 554, transport.ErrRefused)
		}
		return fail(transport.Temporary, 450, errors.New("busy"))
	})
	file := newFile(t)
	o := open(t, h, outbox.Options{File: file})
	p := newPublisher()
	send(t, o, p.message("dead"))
	send(t, o, p.several("m", 10)...)
	synctest.Wait() // all is settled
	n, err := o.Purge(func(e outbox.Entry) bool { return e.Dead != nil || string(e.Message.Body) == "m7" })
	if n != 2 || err != nil {
		t.Errorf("purge: %d, %v", n, err)
	}
	if s := o.Stats(); s.Waiting != 9 || s.Dead != 0 {
		t.Errorf("stats: %+v", s)
	}
	closeBox(t, o)

	f, err := outbox.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for _, e := range entries(t, f.Waiting()) {
		got = append(got, string(e.Message.Body))
	}
	if want := []string{"m1", "m2", "m3", "m4", "m5", "m6", "m8", "m9", "m10"}; !slices.Equal(got, want) {
		t.Errorf("waiting: %v", got)
	}
	if n, err := f.Purge(nil); n != 9 || err != nil {
		t.Errorf("purge: %d, %v", n, err)
	}
	if left := entries(t, f.Waiting()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestFull(t *testing.T) {
	down := func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) }
	t.Run("refuse", func(t *testing.T) {
		o := open(t, newHop(down), outbox.Options{MaxEntries: 3})
		p := newPublisher()
		err := o.Send(context.Background(), p.several("m", 5)...)
		failure, ok := errors.AsType[*transport.SendError](err)
		if !ok || !errors.Is(err, transport.ErrFull) || failure.Taken != 3 || failure.Outcome != transport.Temporary {
			t.Errorf("send: %#v", err)
		}
		if s := o.Stats(); s.Waiting != 3 || s.Dropped != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		o := open(t, newHop(down), outbox.Options{MaxBytes: 1000})
		p := newPublisher()
		if err := o.Send(context.Background(), p.message(string(make([]byte, 1000)))); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("send of a message that never fits: %v", err)
		}
		send(t, o, p.message(string(make([]byte, 500))))
		if err := o.Send(context.Background(), p.message(string(make([]byte, 500)))); !errors.Is(err, transport.ErrFull) {
			t.Errorf("send: %v", err)
		}
	})
	t.Run("drop oldest", func(t *testing.T) {
		h := newHop(down)
		file := newFile(t)
		o := open(t, h, outbox.Options{File: file, MaxEntries: 3, WhenFull: outbox.DropOldest})
		p := newPublisher()
		for _, m := range p.several("m", 20) {
			send(t, o, m)
		}
		if s := o.Stats(); s.Waiting != 3 || s.Dropped != 17 {
			t.Errorf("stats: %+v", s)
		}
		closeBox(t, o)
		up := newHop(nil)
		open(t, up, outbox.Options{File: file})
		if got := bodies(up.await(t, 3)); len(got) != 3 || got[2] != "m20" {
			t.Errorf("sent %v", got)
		}
	})
}

// What is being sent can't make room. If the others are not enough either, nothing is dropped.
func TestFullOfWhatIsBeingSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := make(chan struct{})
		h := newHop(func(*transport.Message) error { <-busy; return fail(transport.Temporary, 0, errDown) })
		file := newFile(t)
		o := open(t, h, outbox.Options{File: file, MaxBytes: 2000, WhenFull: outbox.DropOldest})
		p := newPublisher()
		send(t, o, p.message(string(make([]byte, 800))))
		synctest.Wait()
		send(t, o, p.several("m", 3)...)
		if err := o.Send(t.Context(), p.message(string(make([]byte, 1200)))); !errors.Is(err, transport.ErrFull) {
			t.Errorf("send: %v", err)
		}
		if s := o.Stats(); s.Waiting != 4 || s.Dropped != 0 {
			t.Errorf("stats: %+v", s)
		}
		close(busy)
		closeBox(t, o)
		f, err := outbox.OpenFile(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if left := entries(t, f.Waiting()); len(left) != 4 {
			t.Errorf("%d are in the file, want 4", len(left))
		}
	})
}

func TestOpenErrors(t *testing.T) {
	file := newFile(t)
	open(t, newHop(nil), outbox.Options{File: file})
	for name, test := range map[string]struct {
		options outbox.Options
		want    error
	}{
		"in use":         {outbox.Options{File: file}, transport.ErrInUse},
		"no file":        {outbox.Options{}, nil},
		"negative limit": {outbox.Options{File: file, MaxBytes: -1}, nil},
		"no such policy": {outbox.Options{File: file, WhenFull: 2}, nil},
	} {
		h := newHop(nil)
		_, err := outbox.Open(h, test.options)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if h.closed != 1 {
			t.Errorf("%s: the carrier was closed %d times", name, h.closed)
		}
	}
	if _, err := outbox.OpenFile(file); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("OpenFile: %v", err)
	}
	if _, err := outbox.OpenFile(newFile(t)); err == nil {
		t.Error("OpenFile has opened a file that does not exist")
	}
}

func TestAfterClose(t *testing.T) {
	o := open(t, newHop(nil), outbox.Options{})
	closeBox(t, o)
	closeBox(t, o)
	if err := o.Send(context.Background(), newPublisher().message("x")); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if _, err := o.Purge(nil); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("purge: %v", err)
	}
}

// An entry that something has overwritten is a dead letter; it holds up nothing.
func TestDamagedEntry(t *testing.T) {
	file := newFile(t)
	o := open(t, newHop(func(*transport.Message) error { return fail(transport.Temporary, 0, errDown) }), outbox.Options{File: file})
	send(t, o, newPublisher().several("m", 4)...)
	closeBox(t, o)
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("outbox-waiting"))
		k, first := b.Cursor().First()
		bad := slices.Clone(first)
		bad[len(bad)-10] ^= 1
		return errors.Join(b.Put(k, bad), b.Put([]byte{0, 0, 0, 0, 0, 0, 0, 3}, []byte("x")))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	h := newHop(nil)
	o = open(t, h, outbox.Options{File: file})
	if got := bodies(h.await(t, 2)); !slices.Equal(got, []string{"m2", "m4"}) {
		t.Errorf("sent %v", got)
	}
	closeBox(t, o)
	f, err := outbox.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range entries(t, f.Dead()) {
		if e.Message != nil || e.Dead.Reason != "what is in the file has been damaged" {
			t.Errorf("dead letter: %+v, %+v", e, e.Dead)
		}
	}
	if n, err := f.Retry(nil); n != 0 || err != nil {
		t.Errorf("retry: %d, %v", n, err)
	}
	if n, err := f.Purge(nil); n != 2 || err != nil {
		t.Errorf("purge: %d, %v", n, err)
	}
}

// TestBatch: the carrier gets as many messages in a call as it is good for, and each is settled by its own
// outcome.
func TestBatch(t *testing.T) {
	for batch, calls := range map[int]int{0: 8, 30: 4, 1000: 2} { // for 100 messages of which the 50th is refused, after one
		synctest.Test(t, func(t *testing.T) {
			begin := make(chan struct{})
			h := newHop(func(m *transport.Message) error {
				switch string(m.Body) {
				case "first":
					<-begin
				case "m50":
					return fail(transport.Permanent, 550, transport.ErrRefused)
				}
				return nil
			})
			o := open(t, h, outbox.Options{Batch: batch})
			send(t, o, newPublisher().message("first"))
			synctest.Wait()
			send(t, o, newPublisher().several("m", 100)...)
			close(begin)
			h.await(t, 100)
			synctest.Wait()
			// The refusal ends a call.
			if h.calls != calls+1 {
				t.Errorf("batches of %d: %d calls, want %d", batch, h.calls, calls+1)
			}
			if s := o.Stats(); s.Sent != 100 || s.Refused != 1 {
				t.Errorf("batches of %d: %+v", batch, s)
			}
		})
	}
}
