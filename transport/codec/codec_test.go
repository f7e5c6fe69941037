package codec_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/postbus/postbus/transport/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type pose struct {
	Frame string            `json:"frame"`
	X     float64           `json:"x"`
	Tags  map[string]string `json:"tags,omitempty"`
	Raw   json.RawMessage   `json:"raw,omitempty"`
	Blob  []byte            `json:"blob,omitempty"`
}

func TestTextRoundTrip(t *testing.T) {
	c := codec.Text()
	for _, want := range []string{"", "hello", "two\r\nlines\n", " blanks ", "grüße 🚀", "nul \x00", "\ufeffbom"} {
		body, err := c.Encode(want)
		if err != nil {
			t.Fatalf("Encode(%q): %v", want, err)
		}
		if string(body) != want {
			t.Errorf("Encode(%q) = %q: not byte for byte", want, body)
		}
		if got, err := c.Decode(body); err != nil || got != want {
			t.Errorf("Decode(%q) = %q, %v", body, got, err)
		}
	}
}

func TestTextRefusesInvalidUTF8(t *testing.T) {
	const bad = "caf\xe9"
	if body, err := codec.Text().Encode(bad); err == nil {
		t.Errorf("Encode(%q) = %q, want an error", bad, body)
	}
	if v, err := codec.Text().Decode([]byte(bad)); err == nil {
		t.Errorf("Decode(%q) = %q, want an error", bad, v)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	c := codec.JSON[pose]()
	want := pose{Frame: "map <&> \u2028", X: math.Pi, Tags: map[string]string{"a": "1"}, Raw: json.RawMessage(`{"n":1}`), Blob: []byte{0, 255}}
	body, err := c.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("round trip (-want +got):\n%s", diff)
	}
}

func TestJSONForPeople(t *testing.T) {
	body, err := codec.JSON[pose]().Encode(pose{Frame: "a<b>&c", X: 1})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"frame":"a<b>&c","x":1}`; string(body) != want {
		t.Errorf("Encode = %q, want %q", body, want)
	}
}

func TestJSONPointersAndInterfaces(t *testing.T) {
	p, err := codec.JSON[*pose]().Decode([]byte(`{"x":2}`))
	if err != nil || p == nil || p.X != 2 {
		t.Errorf("Decode into a pointer = %v, %v", p, err)
	}
	v, err := codec.JSON[any]().Decode([]byte(`[1,"a"]`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{1.0, "a"}, v); diff != "" {
		t.Errorf("Decode into any (-want +got):\n%s", diff)
	}
}

func TestJSONDecodeTolerates(t *testing.T) {
	for _, body := range []string{
		`{"frame":"map","x":1}`,
		" \r\n{\"frame\":\"map\",\"x\":1}\r\n",
		`{"frame":"map","x":1,"new":{"member":[1,2]}}`,
	} {
		got, err := codec.JSON[pose]().Decode([]byte(body))
		if err != nil {
			t.Errorf("Decode(%q): %v", body, err)
			continue
		}
		if diff := cmp.Diff(pose{Frame: "map", X: 1}, got); diff != "" {
			t.Errorf("Decode(%q) (-want +got):\n%s", body, diff)
		}
	}
}

func TestJSONDecodeErrors(t *testing.T) {
	const deep = 100_000
	for name, body := range map[string]string{
		"empty":         "",
		"blank":         " \r\n",
		"cut off":       `{"x":1`,
		"trailing":      `{"x":1} {"x":2}`,
		"trailing text": `{"x":1} -- sent from my phone`,
		"wrong type":    `{"frame":7}`,
		"half right":    `{"frame":"map","x":"one"}`,
		"out of range":  `{"x":1e999}`,
		"not UTF-8":     "{\"frame\":\"caf\xe9\"}",
		"deep lists":    `{"unknown":` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + `}`,
		"deep objects":  strings.Repeat(`{"a":`, deep) + "1" + strings.Repeat("}", deep),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := codec.JSON[pose]().Decode([]byte(body))
			if err == nil {
				t.Fatalf("Decode = %+v, want an error", got)
			}
			if diff := cmp.Diff(pose{}, got); diff != "" {
				t.Errorf("value beside the error is not zero (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJSONEncodeError(t *testing.T) {
	if body, err := codec.JSON[pose]().Encode(pose{X: math.NaN()}); err == nil {
		t.Errorf("Encode(NaN) = %q, want an error", body)
	}
}

// A received body is shared by all its receivers.
func TestDecodeKeepsNothingOfBody(t *testing.T) {
	body := []byte(`{"frame":"map","raw":{"n":1},"blob":"AAAA"}`)
	got, err := codec.JSON[pose]().Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	want, err := codec.JSON[pose]().Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	want.Raw = json.RawMessage(`{"n":1}`)
	want.Frame = "map"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("value changed with the body (-want +got):\n%s", diff)
	}

	body = []byte("hello")
	s, err := codec.Text().Decode(body)
	clear(body)
	if err != nil || s != "hello" {
		t.Errorf("text = %q, %v after the body was cleared", s, err)
	}
}

// refuser is a codec of somebody else's, which knows nothing of ErrDecode.
type refuser struct{}

var errRefuser = errors.New("no")

func (refuser) Encode(int) ([]byte, error) { return nil, errRefuser }
func (refuser) Decode([]byte) (int, error) { return 7, errRefuser }
func (refuser) ContentType() string        { return "application/x-no" }

func TestDecodeWrapsErrors(t *testing.T) {
	v, err := codec.Decode(refuser{}, nil)
	if v != 0 || !errors.Is(err, codec.ErrDecode) || !errors.Is(err, errRefuser) {
		t.Errorf("Decode = %d, %v; want 0 and an error that wraps ErrDecode and the codec's", v, err)
	}
	if want := "cannot decode body as application/x-no: no"; err.Error() != want {
		t.Errorf("error = %q, want %q", err, want)
	}

	_, err = codec.Decode(codec.JSON[pose](), []byte(`{"x":"one"}`))
	var typeErr *json.UnmarshalTypeError
	if !errors.Is(err, codec.ErrDecode) || !errors.As(err, &typeErr) {
		t.Errorf("error %v does not lead to its cause", err)
	}

	if v, err := codec.Decode(codec.Text(), []byte("ok")); v != "ok" || err != nil {
		t.Errorf("Decode = %q, %v", v, err)
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("hello"))
	f.Add([]byte("caf\xe9"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c := codec.Text()
		v, err := c.Decode(body)
		if err != nil {
			return
		}
		if again, err := c.Encode(v); err != nil || string(again) != string(body) {
			t.Errorf("%q became %q, %v", body, again, err)
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"frame":"map","x":1,"tags":{"a":"b"},"raw":[1,{}],"blob":"AAAA"}`))
	f.Add([]byte(`{"x":1e999}`))
	f.Add([]byte(`[[[[[[`))
	f.Add([]byte("{\"frame\":\"caf\xe9\"} x"))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := string(body)
		c := codec.JSON[pose]()
		v, err := c.Decode(body)
		if string(body) != before {
			t.Fatal("Decode changed the body")
		}
		if err != nil {
			return
		}
		again, err := c.Encode(v)
		if err != nil {
			t.Fatalf("%q decoded to %+v, which does not encode: %v", body, v, err)
		}
		if _, err := c.Decode(again); err != nil {
			t.Errorf("%q was encoded as %q, which does not decode: %v", body, again, err)
		}
	})
}
