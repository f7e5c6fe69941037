package outbox

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"time"
)

// File is the file of an outbox that no process has open, for looking at it and changing
// it. All methods may be called concurrently.
type File struct{ store *store }

// OpenFile opens the file of an outbox, which must exist. The error wraps transport.ErrInUse when
// a process has it open, and fs.ErrNotExist when it is not there.
func OpenFile(path string) (*File, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	s, err := openStore(path)
	if err != nil {
		return nil, err
	}
	return &File{s}, nil
}

// Waiting returns the messages that wait, in the order in which they were accepted.
func (f *File) Waiting() iter.Seq2[Entry, error] { return f.store.entries(false) }

// Dead returns the dead letters, in the order in which they were accepted.
func (f *File) Dead() iter.Seq2[Entry, error] { return f.store.entries(true) }

// Retry makes the dead letters that selected says, or all if it is nil, wait once more, behind
// all others: they are sent when the outbox is opened. It returns how many there were.
func (f *File) Retry(selected func(Entry) bool) (int, error) {
	_, dead, err := choose(f.store, selected, false)
	if err != nil || len(dead) == 0 {
		return 0, err
	}
	next := uint64(1)
	note := func(number uint64, _ []byte) { next = max(next, number+1) }
	if err := errors.Join(f.store.scan(waitingBucket, note), f.store.scan(deadBucket, note)); err != nil {
		return 0, err
	}
	revived, err := f.store.revive(numbers(dead), next, time.Now())
	return len(revived), err
}

// Purge deletes the messages that wait and the dead letters that selected says, or all if it is
// nil. It returns how many there were.
func (f *File) Purge(selected func(Entry) bool) (int, error) {
	waiting, dead, err := choose(f.store, selected, true)
	if err != nil || len(waiting)+len(dead) == 0 {
		return 0, err
	}
	if err := f.store.remove(numbers(waiting), numbers(dead)); err != nil {
		return 0, err
	}
	return len(waiting) + len(dead), nil
}

// Close releases the file. A second Close does nothing and returns nil.
func (f *File) Close() error { return f.store.close() }
