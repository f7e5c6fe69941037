package journal_test

import (
	"fmt"
	"os"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/postbus/postbus/internal/journal"
)

// childEnv makes the test binary another process that has the file it names open.
const childEnv = "POSTBUS_TEST_JOURNAL_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// child opens the file, says so, and has it open until its standard input ends.
func child(path string) {
	j, err := journal.Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	_, _ = fmt.Scanln()
	_ = j.Close()
}

func open(t testing.TB, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

var bucket = []byte("test")

// put returns a change that sets a key.
func put(key, value string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	}
}

// content returns what is in the journal.
func content(t testing.TB, j *journal.Journal) map[string]string {
	t.Helper()
	m := make(map[string]string)
	err := j.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { m[string(k)] = string(v); return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
