package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

const (
	diskPage   = 4096
	diskSector = 512
)

// state is what is in a file: values by bucket and number.
type state map[string]string

func readState(s *store) (state, error) {
	all := make(state)
	for name, bucket := range map[string][]byte{"waiting": waitingBucket, "dead": deadBucket} {
		err := s.scan(bucket, func(number uint64, value []byte) { all[fmt.Sprint(name, number)] = string(value) })
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Whatever part of a transaction has reached the disk when the power fails, the file is as
// it was before it or after it: data pages come first, in any order as far as the disk is concerned, and the
// page that makes them count comes last. A page may be half written.
func TestEveryPrefixOfTheWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	s, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	snapshot := func() ([]byte, state) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := readState(s)
		if err != nil {
			t.Fatal(err)
		}
		return data, content
	}
	before, old := snapshot()
	files := 0
	for i, step := range crashSteps() {
		if err := step(s); err != nil {
			t.Fatal(err)
		}
		after, now := snapshot()
		if maps.Equal(old, now) {
			t.Fatalf("step %d changes nothing", i)
		}
		for name, torn := range prefixes(t, before, after) {
			files++
			got, err := openTorn(t, torn, files%10 == 0)
			if err != nil {
				t.Fatalf("step %d, %s: %v", i, name, err)
			}
			if !maps.Equal(got, old) && !maps.Equal(got, now) {
				t.Fatalf("step %d, %s: the file is neither as before nor as after", i, name)
			}
		}
		before, old = after, now
	}
	t.Logf("%d files, all whole", files)
}

// crashSteps are transactions of all kinds, of few pages and of many.
func crashSteps() []func(*store) error {
	message := func(size int) []byte {
		value, _ := encode(&transport.Message{Name: "/t", Body: bytes.Repeat([]byte("x"), size)}, time.Now())
		return value
	}
	add := func(first uint64, sizes ...int) func(*store) error {
		return func(s *store) error {
			var entries []stored
			for i, size := range sizes {
				entries = append(entries, stored{first + uint64(i), message(size)})
			}
			return s.add(entries, nil)
		}
	}
	bury := func(number uint64) func(*store) error {
		return func(s *store) error {
			_, _, err := s.bury([]picked{{item: item{number: number}}}, Death{Time: time.Now(), Reason: "refused"})
			return err
		}
	}
	return []func(*store) error{
		add(1, 10), add(2, 500, 500, 500), add(5, 3000), add(6, 20000),
		bury(3),
		func(s *store) error { return s.remove([]uint64{1, 2}, nil) },
		add(7, 100, 6000, 100), bury(6),
		func(s *store) error { _, err := s.revive([]uint64{3}, 20, time.Now()); return err },
		func(s *store) error {
			return s.add([]stored{{21, message(700)}}, []picked{{item: item{number: 4}}, {item: item{number: 5}}})
		},
		func(s *store) error { return s.remove([]uint64{7, 8, 9, 20, 21}, []uint64{6}) },
		add(30, 1, 2, 3),
	}
}

// prefixes yields what the disk may hold between two states of a file.
func prefixes(t *testing.T, before, after []byte) func(func(string, []byte) bool) {
	var changed []int // data pages, in the order in which they are written
	meta := -1
	old := append(bytes.Clone(before), make([]byte, len(after)-len(before))...) // the file grows first
	for page := range len(after) / diskPage {
		at := page * diskPage
		switch {
		case bytes.Equal(old[at:at+diskPage], after[at:at+diskPage]):
		case page > 1:
			changed = append(changed, page)
		case meta >= 0:
			t.Fatal("a transaction has changed both pages that make it count")
		default:
			meta = page
		}
	}
	return func(yield func(string, []byte) bool) {
		if !yield("the file not grown", bytes.Clone(before)) {
			return
		}
		torn := bytes.Clone(old)
		put := func(page, from, to int) { copy(torn[page*diskPage+from:page*diskPage+to], after[page*diskPage+from:]) }
		for i, page := range changed {
			for end := diskSector; end <= diskPage; end += diskSector {
				put(page, 0, end)
				if !yield(fmt.Sprintf("data page %d of %d to byte %d", i+1, len(changed), end), bytes.Clone(torn)) {
					return
				}
			}
			// This one alone, as a disk may do that sorts its writes.
			alone := bytes.Clone(old)
			copy(alone[page*diskPage:(page+1)*diskPage], after[page*diskPage:])
			if !yield(fmt.Sprintf("data page %d of %d alone", i+1, len(changed)), alone) {
				return
			}
		}
		for end := 1; end <= diskPage; end++ {
			put(meta, end-1, end)
			if end < 100 && end%3 == 0 || end%diskSector == 0 {
				if !yield(fmt.Sprintf("the last page to byte %d", end), bytes.Clone(torn)) {
					return
				}
			}
		}
	}
}

// openTorn opens a file as a process does after a crash, and returns what was in it. It may
// also write to it.
func openTorn(t *testing.T, data []byte, write bool) (content state, err error) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	s, err := openStore(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if content, err = readState(s); err != nil || !write {
		return content, err
	}
	value, _ := encode(&transport.Message{Name: "/after"}, time.Now())
	if err := s.add([]stored{{99, value}}, nil); err != nil {
		return nil, err
	}
	return content, nil
}
