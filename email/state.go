package email

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"
	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/internal/journal"
	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// A state file is a journal with the bucket durables, and in it one bucket for each durable name:
//
//	place   what the name is for, and how far it has come: see place
//	memory  bucket: the entries of an order.Memory
//	dead    bucket: dead letters, by their number
//	again   bucket: dead letters that are to be delivered once more
//
// Besides, the bucket durables has the name of the folder that the places are in, if it is not the inbox.
var (
	durablesBucket = []byte("durable")
	folderKey      = []byte(".folder") // no durable name begins with a dot
	placeKey       = []byte("place")
	memoryBucket   = []byte("memory")
	deadBucket     = []byte("dead")
	againBucket    = []byte("again")
)

// openState opens a state file, and creates it if it does not exist.
func openState(path string) (*journal.Journal, error) {
	j, err := journal.Open(path)
	if err != nil {
		return nil, fmt.Errorf("email: state file: %w", err)
	}
	var fresh, foreign bool
	err = j.View(func(tx *bbolt.Tx) error {
		fresh = tx.Bucket(durablesBucket) == nil
		name, _ := tx.Cursor().First()
		foreign = fresh && name != nil
		return nil
	})
	switch {
	case err != nil:
	case foreign:
		err = fmt.Errorf("%s is a file of postbus, but no state file", path)
	case fresh:
		err = j.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(durablesBucket)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("email: state file: %w", err), j.Close())
	}
	return j, nil
}

// keepFolder makes sure that the places in a state file are those in the folder that is watched: UIDs of
// another one would be taken for its. A file without the entry is of the inbox.
func keepFolder(j *journal.Journal, folder string) error {
	err := j.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(durablesBucket)
		was := string(b.Get(folderKey))
		if was == "" {
			was = inbox
		}
		names := 0
		if err := b.ForEachBucket(func([]byte) error { names++; return nil }); err != nil {
			return err
		}
		if was != folder && names > 0 {
			return fmt.Errorf("the durable names in it have their places in the folder %s, and url-imap says %s: another folder needs another file", was, folder)
		}
		if was == folder {
			return nil
		}
		return b.Put(folderKey, []byte(folder))
	})
	if err != nil {
		return fmt.Errorf("email: state file: %w", err)
	}
	return nil
}

// place is how far a durable name has come in the inbox.
type place struct {
	kind transport.Kind
	name string    // or pattern
	last int       // of the messages from before it that are still to be found
	from time.Time // when the name was first used
	// validity and read are the UIDVALIDITY of the inbox and the first UID that has not been read.
	validity uint32
	read     imap.UID
	// current is when all that there was had been read.
	current time.Time
	// open are the messages below read that have not been settled, in the order in which they
	// are to be delivered.
	open []opened
}

// opened is a message that has not been settled.
type opened struct {
	uid     imap.UID // zero if it is not known where it is now
	key     order.Key
	attempt int  // how often it has been delivered
	nacked  bool // it has given up its place in the order
	arrived time.Time
}

const placeVersion = 1

// maxOpen is the largest number of messages in a place that can be read: more than there can be.
const maxOpen = 1 << 16

func (p *place) encode() []byte {
	b := []byte{placeVersion, byte(p.kind)}
	b = appendText(b, p.name)
	b = binary.AppendUvarint(b, uint64(p.last))
	b = appendTime(b, p.from)
	b = binary.AppendUvarint(b, uint64(p.validity))
	b = binary.AppendUvarint(b, uint64(p.read))
	b = appendTime(b, p.current)
	b = binary.AppendUvarint(b, uint64(len(p.open)))
	for _, o := range p.open {
		b = binary.AppendUvarint(b, uint64(o.uid))
		b = append(b, o.key.Publisher[:]...)
		b = binary.AppendUvarint(b, o.key.Sequence)
		b = appendText(b, o.key.ID.String())
		b = binary.AppendUvarint(b, uint64(o.attempt))
		b = append(b, map[bool]byte{true: 1}[o.nacked])
		b = appendTime(b, o.arrived)
	}
	return b
}

var errPlace = errors.New("the place of a durable name is damaged, or of a later version")

func decodePlace(b []byte) (p place, err error) {
	r := fields{rest: b}
	if r.byte() != placeVersion {
		return place{}, errPlace
	}
	p.kind = transport.Kind(r.byte())
	p.name = r.text()
	p.last = int(r.number(transport.MaxLast))
	p.from = r.time()
	p.validity = uint32(r.number(1<<32 - 1))
	p.read = imap.UID(r.number(1<<32 - 1))
	p.current = r.time()
	for range r.number(maxOpen) {
		if r.failed {
			break
		}
		var o opened
		o.uid = imap.UID(r.number(1<<32 - 1))
		o.key.Publisher = transport.GID(r.take(16))
		o.key.Sequence = r.number(1<<64 - 1)
		if id := r.text(); id != "" {
			o.key.ID = transport.ParseID(id)
		}
		o.attempt = int(r.number(1<<31 - 1))
		o.nacked = r.byte() == 1
		o.arrived = r.time()
		p.open = append(p.open, o)
	}
	if r.failed || len(r.rest) > 0 {
		return place{}, errPlace
	}
	return p, nil
}

// fields takes fields off the front of bytes. After a failure all are zero.
type fields struct {
	rest   []byte
	failed bool
}

// take returns the next n bytes; after a failure as many zeros.
func (r *fields) take(n int) []byte {
	if r.failed = r.failed || n > len(r.rest); r.failed {
		return make([]byte, min(n, 16))
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *fields) byte() byte { return r.take(1)[0] }

func (r *fields) number(most uint64) uint64 {
	n, size := binary.Uvarint(r.rest)
	if r.failed = r.failed || size <= 0 || n > most; r.failed {
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *fields) text() string {
	n := r.number(uint64(len(r.rest)))
	if r.failed {
		return ""
	}
	return string(r.take(int(n)))
}

func (r *fields) time() time.Time {
	set := r.byte() == 1
	n, size := binary.Varint(r.rest)
	if r.failed = r.failed || set && size <= 0; r.failed || !set {
		return time.Time{}
	}
	r.rest = r.rest[size:]
	return time.Unix(0, n)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), t.UnixNano())
}
