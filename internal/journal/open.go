package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postbus/postbus/transport"
)

const (
	// atOnce is the time to wait for the lock of a file: not at all.
	atOnce = time.Nanosecond
	// afterCheck is the time to wait for it when another process seems to be opening the
	// same file: it lets go of it soon, or has it then.
	afterCheck = 2 * time.Second
)

// open returns the database in the file path, and its file.
func open(path string) (*os.File, *bbolt.DB, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(path)
	} else if err == nil && info.Size() > 0 {
		err = check(path)
	}
	if err == nil {
		// Also when it was there: who created it may have died before it did this.
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return nil, nil, err
	}
	return openDB(path, &bbolt.Options{Timeout: afterCheck})
}

// openDB is bbolt.Open with errors for those who know files rather than bbolt, and the
// options that all have in common.
func openDB(path string, o *bbolt.Options) (file *os.File, db *bbolt.DB, err error) {
	// Which pages are free is found out when the file is opened; to write it down with each
	// transaction is slow after many have become free.
	o.NoFreelistSync = true
	o.FreelistType = bbolt.FreelistMapType
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}
	if r := catch(func() { db, err = bbolt.Open(path, 0o600, o) }); r != nil {
		_ = file.Close() // with the lock
		return nil, nil, fmt.Errorf("%s: %w: %v", path, ErrDamaged, r)
	}
	var pathError *fs.PathError
	switch {
	case err == nil:
		return file, db, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, nil, fmt.Errorf("%s is %w: another process has it open", path, transport.ErrInUse)
	case errors.As(err, &pathError):
		return nil, nil, err // names the file
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, nil, fmt.Errorf("%s: %w, or another program's: %w", path, ErrDamaged, err)
	}
	return nil, nil, fmt.Errorf("%s: %w", path, err)
}

// create makes an empty database under another name and gives it its own when it is whole on the
// disk, so that a crash can't leave half of one.
func create(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	_, db, err := openDB(f.Name(), &bbolt.Options{Timeout: atOnce})
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	// Unlike a renamed file, a link never replaces what another process has just created.
	err = os.Link(f.Name(), path)
	if _, exists := os.Stat(path); err != nil && exists != nil {
		err = os.Rename(f.Name(), path) // there are file systems without links
	} else if exists == nil {
		err = nil
	}
	return err
}

// check reads the whole structure of the database in the file path. bbolt takes for granted
// that it is sound, and ends the process when it finds otherwise; the file of a process that
// was killed is sound, one that was cut short or overwritten is not.
func check(path string) error {
	_, db, err := openDB(path, &bbolt.Options{Timeout: atOnce, ReadOnly: true})
	if err != nil {
		return err
	}
	var found error
	r := catch(func() {
		found = db.View(func(tx *bbolt.Tx) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if info.Size() < tx.Size() {
				return fmt.Errorf("%w: it has %d bytes of %d", ErrDamaged, info.Size(), tx.Size())
			}
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return walk(b) })
		})
	})
	err = db.Close()
	switch {
	case r != nil:
		return fmt.Errorf("%s: %w: %v", path, ErrDamaged, r)
	case found != nil:
		return fmt.Errorf("%s: %w", path, found)
	}
	return err
}

// walk reads all keys of a bucket and of those in it.
func walk(b *bbolt.Bucket) error {
	var last []byte
	return b.ForEach(func(k, v []byte) error {
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("%w: its keys are out of order", ErrDamaged)
		}
		last = k
		if v != nil {
			return nil
		}
		return walk(b.Bucket(k))
	})
}

// syncFolder brings the names in a folder to the disk.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil // which does it by itself, and can't be told to
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	err = folder.Sync()
	return errors.Join(err, folder.Close())
}
