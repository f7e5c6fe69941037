// Package journal keeps a program's records in a file, so that what has been acknowledged
// is there after a crash or a loss of power at any moment.
//
// It is a bbolt file with a group commit: all who call [Journal.Update] at the same
// time share one transaction and its fsyncs. One Journal at a time can have the file.
package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postbus/postbus/transport"
)

// ErrDamaged says that a file is no journal, or one that has been damaged by something
// other than a crash: those leave it whole.
var ErrDamaged = errors.New("the file is damaged")

// ErrUncertain says that a change may be on disk or not, and will be found the one way
// or the other when the file is opened again.
var ErrUncertain = errors.New("it is not certain whether the change is on disk")

// ErrBroken says that no change is possible until the file is opened again, since it is not
// certain what became of an earlier one.
var ErrBroken = errors.New("can't be written to any more")

// Journal is an open file. All methods may be called concurrently.
type Journal struct {
	path  string
	file  *os.File // db's own
	db    *bbolt.DB
	wake  chan struct{} // has an element when there is something for the committer to see
	ended chan struct{} // closed when the committer has ended
	close func() error

	mu     sync.Mutex
	queue  []*change // not yet seen by the committer
	closed bool
	broken error // why no change is possible any more
	jammed bool  // db has panicked with its locks held
}

// change is a call of Update.
type change struct {
	f    func(*bbolt.Tx) error
	err  error // result, read after done
	done chan struct{}
}

// Open opens the journal in the file path, which is created if it does not exist; its
// folder must. Errors wrap transport.ErrInUse when another process, or another Journal
// of this one, has the file open, or ErrDamaged, or that of the operating system.
func Open(path string) (*Journal, error) {
	file, db, err := open(path)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		path:  path,
		file:  file,
		db:    db,
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
	}
	j.close = sync.OnceValue(j.shutDown)
	go j.commitAll()
	return j, nil
}

// Path returns the path of the file, as it was given to Open.
func (j *Journal) Path() string { return j.path }

// Update calls f with a transaction and returns nil when what f has done is on disk, for
// good. It shares the transaction with other calls. When f returns an error, nothing of what
// it has done remains and Update returns that error; the others are not affected, so f
// may be called more than once, in another goroutine, and its effects on anything but
// the transaction have to allow for that. A panic of f is an error too.
//
// Other errors: transport.ErrClosed, transport.ErrFull when there is no room on the
// disk, and that of the operating system. The change is not on disk then, unless the error
// wraps ErrUncertain: after such an error all further changes fail with ErrBroken.
func (j *Journal) Update(f func(*bbolt.Tx) error) error {
	c := &change{f: f, done: make(chan struct{})}
	if err := j.submit(c); err != nil {
		return err
	}
	<-c.done
	return c.err
}

func (j *Journal) submit(c *change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return j.closedError()
	}
	j.queue = append(j.queue, c)
	j.poke()
	return nil
}

// poke makes the committer look.
func (j *Journal) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// View calls f with a transaction that only reads, and sees what was on disk when View
// was called. f must not call Update and should not take long: the file can't grow meanwhile.
// The error is that of f, or wraps transport.ErrClosed or ErrDamaged.
func (j *Journal) View(f func(*bbolt.Tx) error) error {
	j.mu.Lock()
	closed, jammed, broken := j.closed, j.jammed, j.broken
	j.mu.Unlock()
	if closed {
		return j.closedError()
	}
	if jammed {
		return broken
	}
	var err error
	if r := catch(func() { err = j.db.View(f) }); r != nil {
		return fmt.Errorf("%s: %w: %v", j.path, ErrDamaged, r)
	}
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return j.closedError()
	}
	return err
}

// Close waits for the changes under way and releases the file. A second Close waits for
// the first and returns its result.
func (j *Journal) Close() error { return j.close() }

func (j *Journal) shutDown() error {
	j.mu.Lock()
	j.closed = true
	j.poke()
	j.mu.Unlock()
	<-j.ended
	if j.jammed {
		// Closing the database would wait for a lock that nobody gives back.
		return j.file.Close()
	}
	return j.db.Close()
}

func (j *Journal) closedError() error {
	return fmt.Errorf("%s is %w", j.path, transport.ErrClosed)
}

// catch calls f and returns the value of its panic, or nil. To read memory that belongs to no part of
// the file is a panic too.
func catch(f func()) (r any) {
	defer func() { r = recover() }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	f()
	return nil
}
