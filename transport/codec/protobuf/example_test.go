package protobuf_test

import (
	"fmt"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postbus/postbus/transport/codec/protobuf"
)

func ExampleNew() {
	c := protobuf.New[*wrapperspb.StringValue]()
	body, err := c.Encode(wrapperspb.String("hello"))
	fmt.Printf("%s: %q, %v\n", c.ContentType(), body, err)
	m, err := c.Decode(body)
	fmt.Println(m.GetValue(), err)
	// Output:
	// application/protobuf: "\n\x05hello", <nil>
	// hello <nil>
}
