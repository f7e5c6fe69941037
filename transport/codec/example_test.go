package codec_test

import (
	"errors"
	"fmt"

	"github.com/postbus/postbus/transport/codec"
)

func ExampleText() {
	c := codec.Text()
	body, err := c.Encode("hello")
	fmt.Printf("%s: %s, %v\n", c.ContentType(), body, err)
	// Output: text/plain; charset=utf-8: hello, <nil>
}

func ExampleJSON() {
	type Sum struct {
		A, B int
	}
	c := codec.JSON[Sum]()
	body, err := c.Encode(Sum{A: 2, B: 3})
	fmt.Printf("%s: %s, %v\n", c.ContentType(), body, err)

	// A member that Sum does not have is ignored.
	sum, err := c.Decode([]byte(`{"A": 4, "B": 5, "unit": "m"}`))
	fmt.Println(sum.A+sum.B, err)
	// Output:
	// application/json: {"A":2,"B":3}, <nil>
	// 9 <nil>
}

func ExampleDecode() {
	_, err := codec.Decode(codec.JSON[int](), []byte(`12 apples`))
	fmt.Println(errors.Is(err, codec.ErrDecode))
	fmt.Println(err)
	// Output:
	// true
	// cannot decode body as application/json: invalid character 'a' after top-level value
}
