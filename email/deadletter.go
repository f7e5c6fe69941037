package email

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/internal/record"
	"github.com/postbus/postbus/transport"
)

// DeadLetter is a message that a durable interest could not handle.
type DeadLetter struct {
	// Durable is the durable name, and Number identifies the letter among those of the name.
	Durable string
	Number  uint64
	// Message is the message, or nil if what is in the file is damaged.
	Message *transport.Message
	// Time is when it was given up, and Reason what was said then.
	Time   time.Time
	Reason string
	// Attempts is how often it was delivered.
	Attempts int
}

// Durable is what a state file knows of a durable name.
type Durable struct {
	// Name is the durable name; Kind and Pattern are those of the interest that it is for.
	Name    string
	Kind    transport.Kind
	Pattern string
	// Since is when it was first used, and Current when it last had read all that there was. It is written down
	// every few seconds while something arrives.
	Since, Current time.Time
	// Open is how many messages had been read then, and not settled.
	Open int
	// Dead is how many dead letters there are, and Again how many of them wait to be
	// delivered once more.
	Dead, Again int
}

// State is a state file: what durable interests remember. All methods may be called
// concurrently.
type State struct {
	journal  *journal.Journal
	durables *durables // nil if no carrier has the file
}

// OpenState opens a state file that no carrier has open, and that exists, to look at it and change it. The error wraps
// transport.ErrInUse when a carrier has it open, and fs.ErrNotExist when it is not there.
func OpenState(path string) (*State, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("email: state file: %w", err)
	}
	j, err := openState(path)
	if err != nil {
		return nil, err
	}
	return &State{journal: j}, nil
}

// State returns the state file of the carrier, or nil if it has none. It need not be closed.
func (c *Carrier) State() *State {
	if c.durables.journal == nil {
		return nil
	}
	return &State{c.durables.journal, &c.durables}
}

// Close releases the file, unless it is a carrier's. A second Close does nothing.
func (s *State) Close() error {
	if s.durables != nil {
		return nil
	}
	return s.journal.Close()
}

// Durables returns the durable names in the file, in the order of their names.
func (s *State) Durables() ([]Durable, error) {
	var list []Durable
	err := s.journal.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(durablesBucket).ForEachBucket(func(name []byte) error {
			b := tx.Bucket(durablesBucket).Bucket(name)
			p, err := decodePlace(b.Get(placeKey))
			if err != nil {
				return fmt.Errorf("durable name %q: %w", name, err)
			}
			list = append(list, Durable{Name: string(name), Kind: p.kind, Pattern: p.name, Since: p.from, Current: p.current, Open: len(p.open),
				Dead: b.Bucket(deadBucket).Stats().KeyN, Again: b.Bucket(againBucket).Stats().KeyN})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("email: state file: %w", err)
	}
	return list, nil
}

// pageLetters is how many dead letters are read in one transaction.
const pageLetters = 64

// DeadLetters returns the dead letters, by durable name and in the order in which they were given up. A
// damaged one has no message.
func (s *State) DeadLetters() iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		names, err := s.Durables()
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		for _, name := range names {
			for next := uint64(0); ; {
				page, err := s.page(name.Name, next)
				if err != nil {
					yield(DeadLetter{}, err)
					return
				}
				for _, letter := range page {
					if !yield(letter, nil) {
						return
					}
					next = letter.Number + 1
				}
				if len(page) < pageLetters {
					break
				}
			}
		}
	}
}

// page returns some dead letters of a name, from a number on.
func (s *State) page(name string, from uint64) (page []DeadLetter, err error) {
	err = s.journal.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(durablesBucket).Bucket([]byte(name))
		if b == nil {
			return nil
		}
		c := b.Bucket(deadBucket).Cursor()
		for key, value := c.Seek(letterKey(from)); key != nil && len(page) < pageLetters; key, value = c.Next() {
			letter, err := decodeDeadLetter(value)
			if err != nil {
				letter = DeadLetter{Reason: err.Error()}
			}
			letter.Durable, letter.Number = name, numberOf(key)
			page = append(page, letter)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("email: state file: %w", err)
	}
	return page, nil
}

// Retry has the dead letters that selected says, or all if it is nil, delivered once more, as if for the
// first time: at once if the durable interest is there, or when it is stated again. It
// returns how many there were. Damaged ones stay.
func (s *State) Retry(selected func(DeadLetter) bool) (int, error) {
	whole := func(letter DeadLetter) bool { return letter.Message != nil && (selected == nil || selected(letter)) }
	return s.move(whole, func(b *bbolt.Bucket, key []byte) error {
		return b.Bucket(againBucket).Put(key, b.Bucket(deadBucket).Get(key))
	}, s.revive)
}

// Purge deletes the dead letters that selected says, or all if it is nil. It returns how many there
// were.
func (s *State) Purge(selected func(DeadLetter) bool) (int, error) {
	return s.move(selected, func(*bbolt.Bucket, []byte) error { return nil }, func(DeadLetter) {})
}

// move takes the letters that are selected out of the dead ones. to is called with each in the same transaction, and done
// when all of it is on record.
func (s *State) move(selected func(DeadLetter) bool, to func(b *bbolt.Bucket, key []byte) error, done func(DeadLetter)) (int, error) {
	var chosen []DeadLetter
	for letter, err := range s.DeadLetters() {
		if err != nil {
			return 0, err
		}
		if selected == nil || selected(letter) {
			if s.durables == nil {
				letter.Message = nil
			}
			chosen = append(chosen, letter)
		}
	}
	var moved []DeadLetter
	err := s.journal.Update(func(tx *bbolt.Tx) error {
		moved = nil
		for _, letter := range chosen {
			b := tx.Bucket(durablesBucket).Bucket([]byte(letter.Durable))
			key := letterKey(letter.Number)
			if b == nil || b.Bucket(deadBucket).Get(key) == nil {
				continue // somebody else was faster
			}
			if err := to(b, key); err != nil {
				return err
			}
			if err := b.Bucket(deadBucket).Delete(key); err != nil {
				return err
			}
			moved = append(moved, letter)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("email: state file: %w", err)
	}
	for _, letter := range moved {
		done(letter)
	}
	return len(moved), nil
}

// revive delivers a dead letter once more, if its durable name has been used since the carrier was opened.
func (s *State) revive(letter DeadLetter) {
	if s.durables == nil {
		return
	}
	s.durables.mu.Lock()
	d := s.durables.names[letter.Durable]
	s.durables.mu.Unlock()
	if d == nil {
		return
	}
	d.mu.Lock()
	d.revive(letter.Number, letter.Message)
	d.mu.Unlock()
	d.pump()
}

// Forget deletes a durable name with all that is remembered of it, dead letters too. The error wraps
// transport.ErrInUse when the name has been used since the carrier was opened.
func (s *State) Forget(name string) error {
	if s.durables != nil {
		s.durables.mu.Lock()
		defer s.durables.mu.Unlock()
		if s.durables.names[name] != nil {
			return fmt.Errorf("email: durable name %q is %w", name, transport.ErrInUse)
		}
	}
	err := s.journal.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(durablesBucket).Bucket([]byte(name)) == nil {
			return errNoDurable
		}
		return tx.Bucket(durablesBucket).DeleteBucket([]byte(name))
	})
	if err != nil {
		return fmt.Errorf("email: durable name %q: %w", name, err)
	}
	return nil
}

var errNoDurable = errors.New("not in the state file")

const (
	deadLetterVersion = 1
	// maxReason is the length of the longest reason that is kept, in bytes.
	maxReason = 4096
)

func encodeDeadLetter(letter DeadLetter) []byte {
	b := []byte{deadLetterVersion}
	b = appendTime(b, letter.Time)
	b = binary.AppendUvarint(b, uint64(letter.Attempts))
	b = appendText(b, letter.Reason[:min(len(letter.Reason), maxReason)])
	return record.Append(b, letter.Message)
}

func decodeDeadLetter(b []byte) (letter DeadLetter, err error) {
	r := fields{rest: b}
	if r.byte() != deadLetterVersion {
		return DeadLetter{}, fmt.Errorf("%w: a dead letter of %d bytes", record.ErrMalformed, len(b))
	}
	letter.Time = r.time()
	letter.Attempts = int(r.number(1<<31 - 1))
	letter.Reason = r.text()
	if r.failed {
		return DeadLetter{}, fmt.Errorf("%w: a dead letter of %d bytes", record.ErrMalformed, len(b))
	}
	letter.Message, err = record.Decode(slices.Clone(r.rest))
	return letter, err
}

func numberOf(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}
