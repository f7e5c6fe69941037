package service

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

func numbered(client transport.GID, number uint64) *transport.Message {
	return &transport.Message{Kind: transport.Request, Info: transport.Info{ClientGID: client, RequestSequence: number}}
}

func (k *kept) check(t *testing.T, m *transport.Message, want arrival, kept bool) {
	t.Helper()
	got, answer := k.arrive(transport.Delivery{Message: m})
	if got != want || (answer != nil) != kept {
		t.Errorf("request %d: %d with the answer %+v, want %d, with an answer %v", m.Info.RequestSequence, got, answer, want, kept)
	}
}

func TestKeptAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		client := transport.NewGID()
		add := func(number uint64, size int) {
			m := numbered(client, number)
			k.check(t, m, isNew, false)
			k.check(t, m, isOpen, false)
			k.keep(m, &answer{sequence: number, time: time.Now(), body: make([]byte, size)})
		}
		for n := range uint64(KeptAnswers + 1) {
			add(n+1, 1)
		}
		k.check(t, numbered(client, 2), isAnswered, true)
		k.check(t, numbered(client, 1), isNew, false) // forgotten

		add(10_001, KeptBytes-KeptAnswers/2)
		k.check(t, numbered(client, 10), isAnswered, false) // that it was answered is known
		k.check(t, numbered(client, KeptAnswers), isAnswered, true)
		k.check(t, numbered(client, 10_001), isAnswered, true)
		add(10_002, KeptBytes+1)
		k.check(t, numbered(client, 10_002), isAnswered, false)
		if k.bytes != 0 {
			t.Errorf("%d bytes are counted of no answers", k.bytes)
		}

		add(10_003, 1)
		time.Sleep(KeptAge - 1)
		k.check(t, numbered(client, 10_003), isAnswered, true)
		time.Sleep(time.Nanosecond)
		k.check(t, numbered(client, 10_003), isNew, false)
		if len(k.answered) != 0 || k.requests.count != 2 {
			t.Errorf("%d answers and %d requests are left, want none and two open ones", len(k.answered), k.requests.count)
		}
	})
}

func TestOpenRequestsAreBounded(t *testing.T) {
	var k kept
	client := transport.NewGID()
	for n := range uint64(maxOpen + KeptAnswers + 10) {
		k.check(t, numbered(client, n+1), isNew, false)
	}
	if n := k.requests.count; n != maxOpen+KeptAnswers {
		t.Errorf("%d requests are remembered", n)
	}
	k.forget(numbered(client, 1))
	k.check(t, numbered(client, 1), isNew, false)
	k.check(t, numbered(client, 1), isOpen, false)
}

func TestRequestsAreToldApart(t *testing.T) {
	client := transport.NewGID()
	byID := &transport.Message{ID: transport.ParseID("<a@b>")}
	short := numbered(client.Short(), 1) // as rmw_email has them
	short.ID = transport.ParseID("<c@d>")
	var k kept
	for _, m := range []*transport.Message{numbered(client, 1), numbered(client, 2), numbered(transport.NewGID(), 1), byID, short} {
		k.check(t, m, isNew, false)
		k.check(t, m, isOpen, false)
	}
	again := *short
	again.ID = transport.ParseID("<e@f>")
	k.check(t, &again, isNew, false)
	for range 2 {
		k.check(t, &transport.Message{}, isNew, false) // nothing tells that it is the same
	}
}

// The room of what has been forgotten is used again, but not while somebody has the answer.
func TestKeptAnswersAreNotOverwritten(t *testing.T) {
	var k kept
	client := transport.NewGID()
	body := make([]byte, 8)
	keep := func(number uint64) {
		binary.BigEndian.PutUint64(body, number)
		k.check(t, numbered(client, number), isNew, false)
		k.keep(numbered(client, number), &answer{sequence: number, time: time.Now(), body: body})
		clear(body) // it was borrowed
	}
	again := make(map[uint64]*answer)
	for number := range uint64(3 * KeptAnswers) {
		keep(number + 1)
		for _, n := range []uint64{number + 1, number/2 + 1} {
			if _, a := k.arrive(transport.Delivery{Message: numbered(client, n)}); n > KeptAnswers/2 && a != nil {
				again[n] = a
			}
		}
	}
	if len(again) < KeptAnswers {
		t.Fatalf("only %d answers were there", len(again))
	}
	for n, a := range again {
		if a.sequence != n || binary.BigEndian.Uint64(a.body) != n {
			t.Errorf("the answer to request %d is number %d with %x", n, a.sequence, a.body)
		}
	}
}

func TestRequestTable(t *testing.T) {
	var table requestTable
	random := rand.New(rand.NewPCG(1, 2))
	model := make(map[requestKey]*keptRequest)
	for range 20_000 {
		key := requestKey{client: transport.GID{1}, number: 1 + random.Uint64N(1000)}
		if random.IntN(4) == 0 {
			key = requestKey{id: transport.NewID(transport.GID{2}, random.Uint64N(300), "host")}
		}
		r, hash := table.find(&key)
		if r != model[key] {
			t.Fatalf("%+v: found %p, want %p", key, r, model[key])
		}
		switch {
		case r == nil:
			r = &keptRequest{key: key, hash: hash}
			table.add(r)
			model[key] = r
		case random.IntN(2) == 0:
			table.remove(r)
			table.remove(r) // once more does nothing
			delete(model, key)
		}
		if table.count != len(model) || table.count > len(table.chains) {
			t.Fatalf("%d requests in %d chains, want %d", table.count, len(table.chains), len(model))
		}
	}
}
