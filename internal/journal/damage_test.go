package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
)

// sample returns the bytes of a journal with many pages.
func sample(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample")
	j := open(t, path)
	err := j.Update(func(tx *bbolt.Tx) error {
		for i := range 500 {
			if err := put(fmt.Sprintf("%04d", i), strings.Repeat("x", 200))(tx); err != nil {
				return err
			}
		}
		return put("large", strings.Repeat("y", 20000))(tx)
	})
	if err == nil {
		err = j.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A file that was cut short or overwritten is refused, or read as far as it is whole, and
// never ends the process.
func TestDamage(t *testing.T) {
	whole := sample(t)
	const page = 4096
	try := func(name string, data []byte) error {
		path := filepath.Join(t.TempDir(), "damaged")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(path)
		if err != nil {
			if !errors.Is(err, journal.ErrDamaged) && !strings.Contains(err.Error(), "file size too small") || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
			return err
		}
		_ = j.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucket).ForEach(func(_, v []byte) error { _ = strings.Count(string(v), "x"); return nil })
		})
		_ = j.Update(put("new", "n"))
		if err := j.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return nil
	}
	if err := try("whole", whole); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 100, page, 2*page - 1, 2 * page, 3*page + 1, 20 * page} {
		if try(fmt.Sprintf("cut to %d bytes", size), whole[:size]) == nil {
			t.Errorf("a journal cut to %d bytes was opened", size)
		}
	}
	if try("text", []byte(strings.Repeat("This is no journal. ", 5000))) == nil {
		t.Error("a text was opened")
	}
	for i := range min(len(whole)/page, 48) {
		for name, fill := range map[string]byte{"zeros": 0, "ones": 0xff, "text": 'x'} {
			data := append([]byte(nil), whole...)
			for k := i * page; k < (i+1)*page; k++ {
				data[k] = fill
			}
			_ = try(fmt.Sprintf("page %d is %s", i, name), data)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	folder := t.TempDir()
	for _, path := range []string{folder, filepath.Join(folder, "none", "journal")} {
		if _, err := journal.Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): %v", path, err)
		}
	}
}
