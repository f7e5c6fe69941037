package journal

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/transport"
)

// commitAll carries out changes, all that are waiting at once, until the journal is closed.
func (j *Journal) commitAll() {
	defer close(j.ended)
	for {
		runtime.Gosched() // those who have just got their answer may come with the next change
		j.mu.Lock()
		waiting, closed := j.queue, j.closed
		j.queue = nil
		j.mu.Unlock()
		if len(waiting) > 0 {
			j.commit(waiting)
		} else if closed {
			return
		} else {
			<-j.wake
		}
	}
}

// commit carries out the changes in one transaction. Those that fail are tried once more, each on
// its own: what they failed at may be what another one did that is not there then.
func (j *Journal) commit(changes []*change) {
	var failed []*change
	for len(changes) > 0 {
		i, err := j.try(changes)
		if i < 0 {
			answer(changes, err)
			break
		}
		if len(changes) == 1 && len(failed) == 0 {
			answer(changes, err)
			return
		}
		failed = append(failed, changes[i])
		changes = slices.Delete(changes, i, i+1)
	}
	for _, c := range failed {
		_, err := j.try([]*change{c})
		answer([]*change{c}, err)
	}
}

func answer(changes []*change, err error) {
	for _, c := range changes {
		c.err = err
		close(c.done)
	}
}

// try carries out the changes in one transaction. If the function of one fails it returns
// which, and no change is made; -1 with an error says that the transaction has failed.
func (j *Journal) try(changes []*change) (failed int, err error) {
	if j.broken != nil {
		return -1, j.broken // only this goroutine sets it
	}
	failed = -1
	id := 0
	r := catch(func() {
		err = j.db.Update(func(tx *bbolt.Tx) error {
			id = tx.ID()
			for i, c := range changes {
				if err := call(c.f, tx); err != nil {
					failed = i
					return err
				}
			}
			return nil
		})
	})
	switch {
	case r != nil:
		return -1, j.breakDown(true, fmt.Errorf("%w, %w: %v", ErrUncertain, ErrDamaged, r))
	case failed >= 0 || err == nil:
		return failed, err
	case !j.unchanged(id):
		return -1, j.breakDown(false, fmt.Errorf("%w: %w", ErrUncertain, err))
	case noRoom(err):
		return -1, fmt.Errorf("%s: the disk is %w: %w", j.path, transport.ErrFull, err)
	}
	return -1, fmt.Errorf("%s: %w", j.path, err)
}

func call(f func(*bbolt.Tx) error, tx *bbolt.Tx) (err error) {
	if r := catch(func() { err = f(tx) }); r != nil {
		return fmt.Errorf("panic in a change of %s: %v", tx.DB().Path(), r)
	}
	return err
}

// unchanged reports whether the transaction with this number, which has failed, has left the file
// as it was. If it has, the file is as good as before. Otherwise the last write, that
// of the page which makes a transaction valid, has gone to the operating system, which could not bring it to the
// disk: nobody knows what is there, and the next transaction may overwrite what it refers to.
func (j *Journal) unchanged(id int) bool {
	last := 0
	err := j.db.View(func(tx *bbolt.Tx) error { last = tx.ID(); return nil })
	return err == nil && last == id-1
}

// breakDown says that nothing can be changed any more, and returns what the change that
// was the cause is told.
func (j *Journal) breakDown(jammed bool, err error) error {
	err = fmt.Errorf("%s: %w", j.path, err)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.jammed = jammed
	j.broken = fmt.Errorf("%s %w, since an earlier change failed: %v", j.path, ErrBroken, err)
	return err
}

// noRoom reports whether the operating system has no room for more: on the disk, in
// the user's share of it, or in a file.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) ||
		strings.HasPrefix(err.Error(), "file resize error") // wraps nothing
}
