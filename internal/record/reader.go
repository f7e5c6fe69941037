package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"

	"github.com/postbus/postbus/transport"
)

// reader takes fields off the front of data. After an error all fields are zero.
type reader struct {
	data []byte
	err  error
}

var errShort = errors.New("it ends too early")

func (r *reader) fail() {
	r.data = nil
	if r.err == nil {
		r.err = errShort
	}
}

// take returns the next n bytes, or nil.
func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.data)) {
		r.fail()
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

// count returns the number of elements that follow, which is no more than what is left has
// room for.
func (r *reader) count(smallest uint64) uint64 {
	n := r.uvarint()
	if n > uint64(len(r.data))/smallest {
		r.fail()
		return 0
	}
	return n
}

func (r *reader) text() string { return string(r.take(r.uvarint())) }

func (r *reader) body() []byte {
	if b := r.take(r.uvarint()); len(b) > 0 {
		return bytes.Clone(b)
	}
	return nil
}

func (r *reader) gid() (gid transport.GID) {
	copy(gid[:], r.take(uint64(len(gid))))
	return gid
}

func (r *reader) id(own bool) transport.ID {
	if own {
		gid, sequence := r.gid(), r.uvarint()
		return transport.NewID(gid, sequence, r.text())
	}
	// The brackets keep those that an odd ID has itself.
	return transport.ParseID("<" + r.text() + ">")
}

func (r *reader) time(is bool) time.Time {
	if !is {
		return time.Time{}
	}
	seconds, ns := r.varint(), r.uvarint()
	if ns >= 1e9 {
		r.fail()
		return time.Time{}
	}
	return time.Unix(seconds, int64(ns))
}
