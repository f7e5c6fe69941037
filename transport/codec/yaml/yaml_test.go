package yaml_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	yamlv3 "go.yaml.in/yaml/v3"

	"github.com/postbus/postbus/transport/codec"
	"github.com/postbus/postbus/transport/codec/yaml"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type pose struct {
	Frame string         `yaml:"frame"`
	X     float64        `yaml:"x"`
	Tags  map[string]any `yaml:"tags,omitempty"`
	Notes []string       `yaml:"notes,omitempty"`
}

func TestRoundTrip(t *testing.T) {
	c := yaml.New[pose]()
	for _, want := range []pose{
		{},
		{Frame: "map: &a #<\u2028>", X: math.Inf(-1)},
		{Frame: "two\r\nlines\n", Tags: map[string]any{"a": 1, "b": []any{true, nil, "yes"}}, Notes: []string{"", " ", "- x", "---\n"}},
		{Frame: "caf\xe9"}, // as !!binary
	} {
		body, err := c.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Decode(body)
		if err != nil {
			t.Fatalf("Decode(%q): %v", body, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("round trip over %q (-want +got):\n%s", body, diff)
		}
	}
}

func TestDecodeTolerates(t *testing.T) {
	for _, body := range []string{
		"frame: map\nx: 1\n",
		"frame: map\r\nx: 1\r\n",
		"%YAML 1.1\n---\nframe: map\nx: 1\n...\n",
		"# a comment\n{frame: map, x: 1}",
		"frame: map\nx: 1\nnew: [1, {key: 2}]\n",
		"frame: &name map\nx: 1\nnew: [*name, *name]\n",
	} {
		got, err := yaml.New[pose]().Decode([]byte(body))
		if err != nil {
			t.Errorf("Decode(%q): %v", body, err)
			continue
		}
		if diff := cmp.Diff(pose{Frame: "map", X: 1}, got); diff != "" {
			t.Errorf("Decode(%q) (-want +got):\n%s", body, diff)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for name, body := range map[string]string{
		"empty":               "",
		"comment only":        "# nothing\n",
		"two documents":       "frame: map\n---\nframe: odom\n",
		"empty second":        "frame: map\n---\n",
		"junk after document": "frame: map\n... junk",
		"broken second":       "frame: map\n---\n]",
		"cut off":             "{frame: map",
		"tab":                 "frame:\n\t- map\n",
		"wrong type":          "frame: [map]\n",
		"half right":          "frame: map\nx: one\n",
		"same key twice":      "frame: map\nframe: odom\n",
		"unknown anchor":      "frame: *map\n",
		"not UTF-8":           "frame: caf\xe9\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := codec.Decode(yaml.New[pose](), []byte(body))
			if !errors.Is(err, codec.ErrDecode) {
				t.Fatalf("Decode = %+v, %v; want ErrDecode", got, err)
			}
			if diff := cmp.Diff(pose{}, got); diff != "" {
				t.Errorf("value beside the error is not zero (-want +got):\n%s", diff)
			}
		})
	}
}

// Documents that are small and would take seconds to minutes, or no end of memory.
func TestHostileDocuments(t *testing.T) {
	const deep = 100_000
	for name, body := range map[string]string{
		"alias bomb":      bomb(),
		"many items":      strings.Repeat("-\n", yaml.MaxBody/2+1),
		"anchor in loop":  "&a [*a]",
		"deep flow":       strings.Repeat("[", deep) + strings.Repeat("]", deep),
		"deep block":      strings.Repeat("- ", deep),
		"large mapping":   mapping("", 20_000),
		"aliased mapping": "a: &a\n" + mapping(" ", 1000) + "b: [" + strings.Repeat("*a,", 150) + "]\n",
		"merged mapping":  "a: &a\n" + mapping(" ", 1000) + "b: {<<: [" + strings.Repeat("*a,", 150) + "]}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := yaml.New[any]().Decode([]byte(body)); err == nil {
				t.Errorf("a body of %d bytes was decoded", len(body))
			}
		})
	}
}

func TestLargeDocuments(t *testing.T) {
	for name, body := range map[string]string{
		"mapping":           mapping("", 10_000),
		"list":              strings.Repeat("- {a: 1, b: 2}\n", 30_000),
		"nested":            strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"moderate aliasing": "- &a {x: 1, y: 2}\n" + strings.Repeat("- *a\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := yaml.New[accepted]().Decode([]byte(body)); err != nil {
				t.Error(err)
			}
		})
	}
}

// accepted is decoded from whatever is not refused before, at no cost.
type accepted struct{}

func (*accepted) UnmarshalYAML(*yamlv3.Node) error { return nil }

func TestEncodeErrors(t *testing.T) {
	if body, err := yaml.New[any]().Encode(make(chan int)); err == nil {
		t.Errorf("Encode of a channel = %q, want an error", body)
	}
	if body, err := yaml.New[any]().Encode(refuser{}); !errors.Is(err, errRefuser) {
		t.Errorf("Encode = %q, %v; want the error of MarshalYAML", body, err)
	}
}

type refuser struct{}

var errRefuser = errors.New("no")

func (refuser) MarshalYAML() (any, error) { return nil, errRefuser }

// A received body is shared by all its receivers.
func TestDecodeKeepsNothingOfBody(t *testing.T) {
	body := []byte("frame: map\nnotes: [one, \"two\"]\n")
	got, err := yaml.New[pose]().Decode(body)
	clear(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pose{Frame: "map", Notes: []string{"one", "two"}}, got); diff != "" {
		t.Errorf("value changed with the body (-want +got):\n%s", diff)
	}
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte("frame: map\nx: 1\ntags: {a: [1, ~, yes], <<: {b: !!binary AA==}}\nnotes: [a]\n"))
	f.Add([]byte("a: &a [1]\nb: [*a, *a]\n"))
	f.Add([]byte("--- |\n x\n...\n---\n"))
	f.Add([]byte("? [a]\n: {b: c}\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		if v, err := yaml.New[any]().Decode(body); err == nil {
			// What the library reads it cannot always write, but it says so.
			yaml.New[any]().Encode(v)
		}
		yaml.New[pose]().Decode(body)
		if !bytes.Equal(body, before) {
			t.Fatal("Decode changed the body")
		}
	})
}

// bomb doubles and redoubles a list by aliases: 9^40 items.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [1]\n")
	for i := 1; i <= 40; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9))
	}
	return b.String()
}

func mapping(indent string, keys int) string {
	var b strings.Builder
	for i := range keys {
		fmt.Fprintf(&b, "%sk%d: 1\n", indent, i)
	}
	return b.String()
}
