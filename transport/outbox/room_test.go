package outbox

import (
	"path/filepath"
	"testing"

	"github.com/postbus/postbus/transport"
)

// When a new message can't be written to the file the old ones that should have made room for it
// stay.
func TestNothingIsDroppedForWhatCannotBeKept(t *testing.T) {
	o, err := open(nil, Options{File: filepath.Join(t.TempDir(), "outbox.db"), MaxEntries: 3, WhenFull: DropOldest})
	if err != nil {
		t.Fatal(err)
	}
	defer o.end()
	publish := func(publisher byte) error {
		m := &transport.Message{Kind: transport.TopicMessage, Name: "/t", Info: transport.Info{PublisherGID: transport.GID{publisher}}}
		return o.Send(t.Context(), m)
	}
	for _, publisher := range []byte{1, 2, 1, 2} {
		if err := publish(publisher); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.store.close(); err != nil {
		t.Fatal(err)
	}
	if err := publish(3); err == nil {
		t.Error("a message was accepted without a file")
	}
	if s := o.Stats(); s.Waiting != 3 || s.Dropped != 1 {
		t.Errorf("stats: %+v", s)
	}
	for want := uint64(2); want <= 4; want++ {
		dropped, ok := o.index.makeRoom(o.index.count-1, o.options.MaxBytes)
		if !ok || len(dropped) != 1 || dropped[0].item.number != want {
			t.Errorf("%+v make room, want entry %d", dropped, want)
		}
	}
}
