// Package protobuf is the codec of Protocol Buffers messages.
package protobuf

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postbus/postbus/transport/codec"
)

// New returns the codec of M, a generated message type as Go code handles it, that is a
// pointer: New[*pb.Pose](). It panics for anything else, such as proto.Message itself.
// Bodies are in the binary wire format, with the registered media type
// application/protobuf, which has replaced application/x-protobuf.
//
// The empty body is a message with no field set; a nil M is encoded as that. Fields that M
// does not know are kept, and encoded again. A missing required field (proto2), a string that
// is not valid UTF-8 (proto3), and messages nested more than 10,000 deep are errors. Equal
// messages are encoded alike by one build of a program, but not for ever: do not compare
// bodies.
func New[M proto.Message]() codec.Codec[M] {
	var zero M
	// A nil pointer knows its message type, and so how to make one.
	return protobufCodec[M]{zero.ProtoReflect().Type()}
}

type protobufCodec[M proto.Message] struct{ message protoreflect.MessageType }

func (protobufCodec[M]) ContentType() string { return "application/protobuf" }

func (protobufCodec[M]) Encode(m M) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

func (c protobufCodec[M]) Decode(body []byte) (M, error) {
	m := c.message.New().Interface().(M)
	if err := proto.Unmarshal(body, m); err != nil {
		var zero M
		return zero, err
	}
	return m, nil
}
