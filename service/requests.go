package service

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/postbus/postbus/transport"
)

// requestKey is what a request is recognised by.
type requestKey struct {
	client transport.GID
	number uint64
	id     transport.ID // without a client; its short form is not enough
}

func keyOf(m *transport.Message) requestKey {
	if c := m.Info.ClientGID; !c.IsZero() && c != c.Short() && m.Info.RequestSequence != 0 {
		return requestKey{client: c, number: m.Info.RequestSequence}
	}
	return requestKey{id: m.ID}
}

// requestTable finds requests by their keys. The zero value is ready to use.
//
// It is a hash table with chains. Entries go as fast as they come, and a map of that kind is built anew all
// the time: with one the table took 0.6 µs of each call, and so it takes 0.2.
type requestTable struct {
	seed   maphash.Seed
	chains []*keptRequest // a power of two
	count  int            // of the requests, never more than there are chains
}

// leastChains is how many chains there are at first.
const leastChains = 1 << 6

// hash returns the hash of a key: nobody who sends requests can know which have the same.
func (t *requestTable) hash(key *requestKey) uint64 {
	if t.chains == nil {
		t.seed, t.chains = maphash.MakeSeed(), make([]*keptRequest, leastChains)
	}
	if key.number == 0 {
		return maphash.Comparable(t.seed, key.id)
	}
	var bytes [24]byte
	copy(bytes[:], key.client[:])
	binary.NativeEndian.PutUint64(bytes[16:], key.number)
	return maphash.Bytes(t.seed, bytes[:])
}

func (t *requestTable) chain(hash uint64) **keptRequest {
	return &t.chains[hash&uint64(len(t.chains)-1)]
}

// find returns the request with that key, or nil, and the hash of the key.
func (t *requestTable) find(key *requestKey) (*keptRequest, uint64) {
	hash := t.hash(key)
	for r := *t.chain(hash); r != nil; r = r.next {
		if r.hash == hash && r.key == *key {
			return r, hash
		}
	}
	return nil, hash
}

// add adds a request, whose hash is set, and which is not there.
func (t *requestTable) add(r *keptRequest) {
	if t.count == len(t.chains) {
		t.grow()
	}
	t.count++
	t.link(r)
}

func (t *requestTable) link(r *keptRequest) {
	chain := t.chain(r.hash)
	*chain, r.next = r, *chain
}

func (t *requestTable) grow() {
	old := t.chains
	t.chains = make([]*keptRequest, 2*len(old))
	for _, r := range old {
		for r != nil {
			next := r.next
			t.link(r)
			r = next
		}
	}
}

// remove removes a request if it is there.
func (t *requestTable) remove(r *keptRequest) {
	for place := t.chain(r.hash); *place != nil; place = &(*place).next {
		if *place == r {
			*place, r.next = r.next, nil
			t.count--
			return
		}
	}
}
