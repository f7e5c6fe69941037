package protobuf_test

import (
	"bytes"
	"errors"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postbus/postbus/transport/codec"
	"github.com/postbus/postbus/transport/codec/protobuf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRoundTrip(t *testing.T) {
	want, err := structpb.NewStruct(map[string]any{
		"frame": "map", "x": 1.5, "tags": []any{"a", true, nil}, "nested": map[string]any{"n": 1.0},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := protobuf.New[*structpb.Struct]()
	body, err := c.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 { // the order of a map's entries is random
		if again, err := c.Encode(want); err != nil || !bytes.Equal(again, body) {
			t.Fatalf("the same message is encoded differently: %q, %q, %v", body, again, err)
		}
	}
	got, err := c.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("round trip: %v, want %v", got, want)
	}
	if ct := c.ContentType(); ct != "application/protobuf" {
		t.Errorf("ContentType = %q", ct)
	}
}

func TestEmptyBody(t *testing.T) {
	c := protobuf.New[*wrapperspb.StringValue]()
	m, err := c.Decode(nil)
	if err != nil || m == nil || m.Value != "" {
		t.Errorf("Decode = %v, %v; want an empty message", m, err)
	}
	for _, m := range []*wrapperspb.StringValue{nil, {}} {
		if body, err := c.Encode(m); err != nil || len(body) != 0 {
			t.Errorf("Encode(%v) = %q, %v; want an empty body", m, body, err)
		}
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	body, err := protobuf.New[*wrapperspb.StringValue]().Encode(wrapperspb.String("hello"))
	if err != nil {
		t.Fatal(err)
	}
	c := protobuf.New[*emptypb.Empty]()
	m, err := c.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Encode(m); err != nil || !bytes.Equal(again, body) {
		t.Errorf("Encode = %q, %v; want %q", again, err, body)
	}
}

func TestDecodeErrors(t *testing.T) {
	for name, body := range map[string][]byte{
		"text":         []byte("hello"),
		"cut off":      {0x0a, 0x05, 'h'},
		"long varint":  bytes.Repeat([]byte{0xff}, 20),
		"end of group": {0x0c},
		"not UTF-8":    stringValue("f", "caf\xe9"),
		"deep":         nest(6_000), // two messages a level
	} {
		t.Run(name, func(t *testing.T) {
			m, err := codec.Decode(protobuf.New[*structpb.Struct](), body)
			if !errors.Is(err, codec.ErrDecode) || m != nil {
				t.Errorf("Decode = %v, %v; want nil and ErrDecode", m, err)
			}
		})
	}
}

func TestRequiredFields(t *testing.T) {
	c := protobuf.New[*descriptorpb.UninterpretedOption_NamePart]()
	if m, err := c.Decode(nil); err == nil {
		t.Errorf("Decode = %v, want an error", m)
	}
	if body, err := c.Encode(new(descriptorpb.UninterpretedOption_NamePart)); err == nil {
		t.Errorf("Encode = %q, want an error", body)
	}
}

func TestNewPanicsWithoutMessageType(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("New[proto.Message] did not panic")
		}
	}()
	protobuf.New[proto.Message]()
}

func TestEncodeRefusesInvalidUTF8(t *testing.T) {
	if body, err := protobuf.New[*wrapperspb.StringValue]().Encode(wrapperspb.String("caf\xe9")); err == nil {
		t.Errorf("Encode = %q, want an error", body)
	}
}

// A received body is shared by all its receivers.
func TestDecodeKeepsNothingOfBody(t *testing.T) {
	c := protobuf.New[*wrapperspb.BytesValue]()
	body, err := c.Encode(wrapperspb.Bytes([]byte("hello")))
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Decode(body)
	clear(body)
	if err != nil || string(m.Value) != "hello" {
		t.Errorf("value = %q, %v after the body was cleared", m.GetValue(), err)
	}
}

func FuzzProtobuf(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("hello"))
	f.Add(stringValue("frame", "map"))
	f.Add(nest(5))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		c := protobuf.New[*structpb.Struct]()
		m, err := c.Decode(body)
		if !bytes.Equal(body, before) {
			t.Fatal("Decode changed the body")
		}
		if err != nil {
			return
		}
		again, err := c.Encode(m)
		if err != nil {
			t.Fatalf("%q decoded to %v, which does not encode: %v", body, m, err)
		}
		if _, err := c.Decode(again); err != nil {
			t.Errorf("%q was encoded as %q, which does not decode: %v", body, again, err)
		}
	})
}

// stringValue is a structpb.Struct with one string, made by hand because Encode would
// refuse some of them.
func stringValue(name, value string) []byte {
	v := field(3, []byte(value))                                    // Value.string_value
	return field(1, append(field(1, []byte(name)), field(2, v)...)) // Struct.fields
}

// nest is a structpb.Struct with depth lists in each other.
func nest(depth int) []byte {
	// From the inside out each level is a prefix; written back to front to be linear.
	var reversed []byte
	size := 0
	for range depth {
		for _, number := range []protowire.Number{1, 6} { // ListValue.values, Value.list_value
			prefix := protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), uint64(size))
			size += len(prefix)
			for i := len(prefix) - 1; i >= 0; i-- {
				reversed = append(reversed, prefix[i])
			}
		}
	}
	value := make([]byte, 0, size)
	for i := len(reversed) - 1; i >= 0; i-- {
		value = append(value, reversed[i])
	}
	return field(1, field(2, value)) // Struct.fields with an empty name
}

func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}
