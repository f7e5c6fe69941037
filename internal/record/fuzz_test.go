package record_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/postbus/postbus/internal/record"
	"github.com/postbus/postbus/transport"
)

// FuzzDecode: what can be read can be written and is the same then.
func FuzzDecode(f *testing.F) {
	r := random{rand.New(rand.NewPCG(5, 6))}
	for range 50 {
		f.Add(record.Append(nil, r.message()))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Most inputs are refused for their checksum: correct it, to get behind.
		for _, data := range [][]byte{data, sealed(data)} {
			m, err := record.Decode(data)
			if err != nil {
				if !errors.Is(err, record.ErrMalformed) || m != nil {
					t.Fatalf("Decode: %v, %v", m, err)
				}
				continue
			}
			again, err := record.Decode(record.Append(nil, m))
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(m, again); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// sealed returns data with a checksum that is right.
func sealed(data []byte) []byte {
	if len(data) < crc32.Size {
		return data
	}
	data = append([]byte(nil), data[:len(data)-crc32.Size]...)
	return binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

// zeroField returns the name of a field of m, or of m.Info, that is zero.
func zeroField(m *transport.Message) string {
	for _, v := range []reflect.Value{reflect.ValueOf(*m), reflect.ValueOf(m.Info)} {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				return v.Type().Field(i).Name
			}
		}
	}
	return ""
}
