package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/transport"
)

// The buckets of an outbox file. Keys are numbers of entries, most significant byte first.
var (
	waitingBucket = []byte("outbox-waiting")
	deadBucket    = []byte("outbox-dead")
)

// pageEntries and pageBytes are how much is read in one transaction when all is to be read.
const (
	pageEntries = 128
	pageBytes   = 1 << 20
)

// store is an open outbox file.
type store struct{ journal *journal.Journal }

// openStore opens the file, and creates it if it does not exist.
func openStore(path string) (*store, error) {
	j, err := journal.Open(path)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	missing := false
	foreign := false
	err = j.View(func(tx *bbolt.Tx) error {
		missing = tx.Bucket(waitingBucket) == nil || tx.Bucket(deadBucket) == nil
		name, _ := tx.Cursor().First()
		foreign = missing && name != nil
		return nil
	})
	if err == nil && foreign {
		err = fmt.Errorf("%s is a file of postbus, but no outbox", path)
	} else if err == nil && missing {
		err = j.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(waitingBucket)
			_, err2 := tx.CreateBucketIfNotExists(deadBucket)
			return errors.Join(err, err2)
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("outbox: %w", err), j.Close())
	}
	return &store{j}, nil
}

func key(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func numberOf(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// stored is an entry as it is in the file.
type stored struct {
	number uint64
	value  []byte
}

// add adds entries that wait, and removes those dropped for them, all or none.
func (s *store) add(entries []stored, dropped []picked) error {
	return wrap(s.journal.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(waitingBucket)
		// As entries go in at one end and out at the other, full pages are best.
		b.FillPercent = 0.95
		for _, e := range entries {
			if err := b.Put(key(e.number), e.value); err != nil {
				return err
			}
		}
		for _, p := range dropped {
			if err := b.Delete(key(p.item.number)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// remove deletes entries that wait, and dead letters. Those that are not there do no harm.
func (s *store) remove(waiting, dead []uint64) error {
	return wrap(s.journal.Update(func(tx *bbolt.Tx) error {
		return errors.Join(deleteAll(tx.Bucket(waitingBucket), waiting), deleteAll(tx.Bucket(deadBucket), dead))
	}))
}

func deleteAll(b *bbolt.Bucket, numbers []uint64) error {
	for _, number := range numbers {
		if err := b.Delete(key(number)); err != nil {
			return err
		}
	}
	return nil
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// bury makes dead letters of entries that wait, and returns them with their sizes, and their messages, or nil for what
// can't be read. What is not there any more is left out.
func (s *store) bury(batch []picked, d Death) (dead []item, msgs []*transport.Message, err error) {
	err = s.journal.Update(func(tx *bbolt.Tx) error {
		dead, msgs = nil, nil // it may be the second run
		from, to := tx.Bucket(waitingBucket), tx.Bucket(deadBucket)
		for _, p := range batch {
			k := key(p.item.number)
			value := from.Get(k)
			if value == nil {
				continue
			}
			m, _ := decodeMessage(value)
			value = encodeDeath(d, value)
			if err := errors.Join(to.Put(k, value), from.Delete(k)); err != nil {
				return err
			}
			dead, msgs = append(dead, item{number: p.item.number, size: len(value)}), append(msgs, m)
		}
		return nil
	})
	if err != nil {
		return nil, nil, wrap(err)
	}
	return dead, msgs, nil
}

// read returns the messages of a batch. One that can't be read is nil.
func (s *store) read(batch []picked) ([]*transport.Message, error) {
	msgs := make([]*transport.Message, len(batch))
	err := s.journal.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(waitingBucket)
		for i, p := range batch {
			msgs[i], _ = decodeMessage(b.Get(key(p.item.number)))
		}
		return nil
	})
	return msgs, wrap(err)
}

// scan calls f with every entry of a bucket; value is valid during the call only.
func (s *store) scan(bucket []byte, f func(number uint64, value []byte)) error {
	return wrap(s.journal.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			f(numberOf(k), v)
			return nil
		})
	}))
}

// entries returns all entries that wait, or that are dead, in order. They are read in portions,
// so that who uses them may take time.
func (s *store) entries(dead bool) iter.Seq2[Entry, error] {
	bucket := waitingBucket
	if dead {
		bucket = deadBucket
	}
	return func(yield func(Entry, error) bool) {
		for next, more := uint64(0), true; more; {
			var portion []Entry
			err := s.journal.View(func(tx *bbolt.Tx) error {
				c := tx.Bucket(bucket).Cursor()
				k, v := c.Seek(key(next))
				for bytes := 0; k != nil && len(portion) < pageEntries && bytes < pageBytes; k, v = c.Next() {
					portion = append(portion, decodeEntry(numberOf(k), v, dead))
					bytes += len(v)
				}
				more = k != nil
				return nil
			})
			if err != nil {
				yield(Entry{}, wrap(err))
				return
			}
			for _, e := range portion {
				if !yield(e, nil) {
					return
				}
				next = e.Number + 1
			}
		}
	}
}

func decodeEntry(number uint64, value []byte, dead bool) Entry {
	e := Entry{Number: number, Size: len(value), lane: decodeHead(value).lane}
	if dead {
		death, waiting, err := decodeDeath(value)
		if err != nil {
			e.Dead = &Death{Reason: err.Error()}
			return e
		}
		e.Dead, value = &death, waiting
	}
	if accepted := decodeHead(value).accepted; accepted != 0 {
		e.Accepted = time.Unix(0, accepted)
	}
	e.Message, _ = decodeMessage(value)
	return e
}

// revive makes dead letters wait again, with numbers from next on and an age that begins anew, and returns them as they are
// then. What has gone or is damaged is left out.
func (s *store) revive(dead []uint64, next uint64, now time.Time) (revived []stored, err error) {
	err = s.journal.Update(func(tx *bbolt.Tx) error {
		revived = nil // it may be the second run
		from, to := tx.Bucket(deadBucket), tx.Bucket(waitingBucket)
		for i, number := range dead {
			_, value, err := decodeDeath(from.Get(key(number)))
			if err != nil {
				continue
			}
			m, err := decodeMessage(value)
			if err != nil {
				continue
			}
			value, _ = encode(m, now)
			again := next + uint64(i)
			if err := errors.Join(to.Put(key(again), value), from.Delete(key(number))); err != nil {
				return err
			}
			revived = append(revived, stored{again, value})
		}
		return nil
	})
	return revived, wrap(err)
}

func (s *store) close() error { return wrap(s.journal.Close()) }
