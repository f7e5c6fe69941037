package main

import (
	"encoding/binary"
	"fmt"

	"github.com/postbus/postbus/internal/bench"
)

// Peers have no numbers of their own, so a message begins with those of its publisher and itself.
const headerBytes = 12

// marked returns a copy of a body with the numbers in it.
func marked(publisher int, number uint64, body []byte) []byte {
	b := append([]byte(nil), body...)
	mark(b, publisher, number)
	return b
}

func mark(b []byte, publisher int, number uint64) {
	binary.LittleEndian.PutUint64(b, number)
	binary.LittleEndian.PutUint32(b[8:], uint32(publisher))
}

// arrival reads the numbers.
func arrival(b []byte) (bench.Arrival, error) {
	if len(b) < headerBytes {
		return bench.Arrival{}, fmt.Errorf("a message of %d bytes", len(b))
	}
	return bench.Arrival{Number: binary.LittleEndian.Uint64(b), Publisher: int(binary.LittleEndian.Uint32(b[8:])), Bytes: len(b)}, nil
}
