package email

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

var somePlace = place{
	kind: transport.Request, name: "/a/>", last: 3, from: time.Unix(1, 2), validity: 4, read: 5, current: time.Unix(6, 0),
	open: []opened{
		{uid: 1, key: order.Key{Publisher: transport.GID{1}, Sequence: 9}, attempt: 2, nacked: true, arrived: time.Unix(3, 0)},
		{key: order.Key{ID: transport.ParseID("7.01000000000000000000000000000000@x")}},
		{uid: lastUID, key: order.Key{ID: transport.ParseID("foreign")}},
	},
}

var comparePlaces = cmp.AllowUnexported(place{}, opened{}, transport.ID{})

func TestPlace(t *testing.T) {
	for _, p := range []place{{}, somePlace} {
		got, err := decodePlace(p.encode())
		if diff := cmp.Diff(p, got, comparePlaces); err != nil || diff != "" {
			t.Errorf("%v (-want +got)\n%s", err, diff)
		}
	}
	whole := somePlace.encode()
	for n := range whole {
		if _, err := decodePlace(whole[:n]); err == nil {
			t.Errorf("the first %d bytes of a place are one", n)
		}
	}
}

// FuzzPlace: what can be read can be written and is the same then.
func FuzzPlace(f *testing.F) {
	f.Add(somePlace.encode())
	f.Add((&place{}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePlace(b)
		if err != nil {
			return
		}
		again, err := decodePlace(p.encode())
		if diff := cmp.Diff(p, again, comparePlaces); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}

func FuzzDeadLetter(f *testing.F) {
	m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte("x")}
	f.Add(encodeDeadLetter(DeadLetter{Message: m, Time: time.Unix(1, 0), Reason: "no", Attempts: 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		letter, err := decodeDeadLetter(b)
		if err != nil {
			return
		}
		first := encodeDeadLetter(letter)
		if letter, err = decodeDeadLetter(first); err != nil || !bytes.Equal(first, encodeDeadLetter(letter)) {
			t.Fatalf("%v: %+v", err, letter)
		}
	})
}
