package journal_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/transport"
)

func TestUpdateIsThereLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	if err := j.Update(put("a", "1")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, j); got["a"] != "1" {
		t.Errorf("the journal has %v", got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, open(t, path)); got["a"] != "1" {
		t.Errorf("the journal has %v when it is opened again", got)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("the folder has %v, %v; want the journal alone", names, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}
}

// Those who call at once share a transaction.
func TestUpdatesShareTransactions(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	const n = 64
	ids := make([]int, n)
	// The first one holds up the committer until all others wait.
	first, waiting := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		if err := j.Update(func(*bbolt.Tx) error { close(first); <-waiting; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-first
	for i := range n {
		all.Go(func() {
			err := j.Update(func(tx *bbolt.Tx) error {
				ids[i] = tx.ID()
				return put(fmt.Sprint(i), "x")(tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	for journal.Waiting(j) < n {
		runtime.Gosched()
	}
	close(waiting)
	all.Wait()
	for i := range ids {
		if ids[i] != ids[0] {
			t.Errorf("the transactions are %v, want one", ids)
			break
		}
	}
	if got := content(t, j); len(got) != n {
		t.Errorf("%d keys are there, want %d", len(got), n)
	}
}

var errOwn = errors.New("own")

// A change that fails or panics leaves nothing behind, and does not spoil the others.
func TestFailuresSpoilNothing(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	const n = 60
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			key := fmt.Sprint(i)
			err := j.Update(func(tx *bbolt.Tx) error {
				if err := put(key, "x")(tx); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return errOwn
				case 2:
					panic("own panic")
				}
				return nil
			})
			switch i % 3 {
			case 0:
				if err != nil {
					t.Errorf("a good change: %v", err)
				}
			case 1:
				if !errors.Is(err, errOwn) {
					t.Errorf("a change that fails: %v", err)
				}
			case 2:
				if err == nil || !strings.Contains(err.Error(), "own panic") {
					t.Errorf("a change that panics: %v", err)
				}
			}
		})
	}
	all.Wait()
	if got := content(t, j); len(got) != n/3 {
		t.Errorf("%d keys are there, want %d", len(got), n/3)
	}
}

func TestClose(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	for range 2 {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := j.Update(put("a", "1")); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Update: %v", err)
	}
	if err := j.View(func(*bbolt.Tx) error { return nil }); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("View: %v", err)
	}
}

// Close carries out what has been handed over before.
func TestCloseWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	var all sync.WaitGroup
	results := make([]error, 100)
	for i := range results {
		all.Go(func() { results[i] = j.Update(put(fmt.Sprint(i), "x")) })
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	got := content(t, open(t, path))
	for i, err := range results {
		if _, there := got[fmt.Sprint(i)]; there != (err == nil) || err != nil && !errors.Is(err, transport.ErrClosed) {
			t.Errorf("change %d ended with %v; it is there: %v", i, err, there)
		}
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	inUse(t, path)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+path)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	inUse(t, path)
	_ = stdin.Close()
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
	open(t, path)
}

func inUse(t *testing.T, path string) {
	t.Helper()
	_, err := journal.Open(path)
	if !errors.Is(err, transport.ErrInUse) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("Open of a file in use: %v", err)
	}
}

// Of many who open a file at once one gets it, also when it does not exist yet.
func TestOpenAtOnce(t *testing.T) {
	for _, existing := range []bool{false, true} {
		t.Run(fmt.Sprintf("existing=%v", existing), func(t *testing.T) {
			t.Parallel() // the others wait for a while
			path := filepath.Join(t.TempDir(), "journal")
			if existing {
				if err := open(t, path).Close(); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			var mu sync.Mutex
			var got []*journal.Journal
			for range 8 {
				all.Go(func() {
					j, err := journal.Open(path)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						got = append(got, j)
					} else if !errors.Is(err, transport.ErrInUse) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if len(got) != 1 {
				t.Errorf("%d of 8 got the file", len(got))
			}
			for _, j := range got {
				_ = j.Close()
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, updaters := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("updaters=%d", updaters), func(b *testing.B) {
			j := open(b, filepath.Join(b.TempDir(), "journal"))
			work := make(chan int)
			var all sync.WaitGroup
			for range updaters {
				all.Go(func() {
					for i := range work {
						if err := j.Update(put(fmt.Sprint(i), strings.Repeat("x", 500))); err != nil {
							b.Error(err)
						}
					}
				})
			}
			n := 0
			for b.Loop() {
				work <- n
				n++
			}
			close(work)
			all.Wait()
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}

// BenchmarkRaw is the same without a group commit, for comparison.
func BenchmarkRaw(b *testing.B) {
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "raw"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	n := 0
	for b.Loop() {
		if err := db.Update(put(fmt.Sprint(n), strings.Repeat("x", 500))); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "updates/s")
}
