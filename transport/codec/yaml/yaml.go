// Package yaml is the codec of YAML.
package yaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/postbus/postbus/transport/codec"
)

// New returns the codec of T in YAML, by the rules of go.yaml.in/yaml/v3 (field tags are
// `yaml:"name"`), with the media type application/yaml (RFC 9512). That library reads what is
// common to YAML 1.1 and 1.2, and refuses a document with a directive for 1.2.
//
// A body is exactly one document; another one after it is an error, and so is a body with
// none, such as the empty one. Mapping keys that T has no field for are ignored, so
// that a sender may add a key without breaking the readers it already has. The same key
// twice is an error.
//
// What a stranger may send is bounded, against documents that are small and take ages to
// decode (RFC 9512 section 4): a body has at most MaxBody bytes, nesting is at most 10,000 deep, and a document whose
// aliases or whose mappings with thousands of keys multiply the work is refused. A
// mapping of 10,000 keys passes, one of 20,000 does not.
func New[T any]() codec.Codec[T] { return yamlCodec[T]{} }

type yamlCodec[T any] struct{}

func (yamlCodec[T]) ContentType() string { return "application/yaml" }

func (yamlCodec[T]) Encode(v T) (body []byte, err error) {
	defer rescue(&err)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (yamlCodec[T]) Decode(body []byte) (value T, err error) {
	defer rescue(&err)
	if len(body) > MaxBody {
		return value, fmt.Errorf("the body has %d bytes, at most %d are decoded", len(body), MaxBody)
	}
	document, err := parse(body)
	if err != nil {
		return value, err
	}
	var v T
	if err := document.Decode(&v); err != nil {
		return value, err
	}
	return v, nil
}

// parse returns the only document of body, if it is safe to decode.
func parse(body []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(body))
	var document, second yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("no YAML document")
	case err != nil:
		return nil, err
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, errors.New("more than one YAML document")
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	m := meter{limit: len(body) + allowance, anchored: make(map[*yaml.Node]int)}
	if _, err := m.cost(&document); err != nil {
		return nil, err
	}
	return &document, nil
}

// MaxBody is the size of the largest body that is decoded, in bytes. Two bytes of YAML
// can make a value that takes a hundred, and most of a microsecond.
const MaxBody = 1 << 20

const (
	// allowance is how much decoding may cost beyond what is in proportion to the
	// body: in nodes, which take around a microsecond each.
	allowance = 200_000
	// keyPairsPerNode is how many pairs of keys of a mapping the library compares with
	// each other, in search of duplicates, in the time that a node takes.
	keyPairsPerNode = 256
)

// meter estimates what decoding a document costs, in time linear in its nodes. The library
// has a bound of its own for aliases, but it counts each mapping as one step however many
// keys it has.
type meter struct {
	limit    int
	anchored map[*yaml.Node]int // the cost of the nodes that aliases may stand for
}

func (m *meter) cost(n *yaml.Node) (int, error) {
	total := 1
	if n.Kind == yaml.MappingNode {
		keys := len(n.Content) / 2
		total += keys * (keys - 1) / 2 / keyPairsPerNode
	}
	if n.Kind == yaml.AliasNode {
		cost, ok := m.anchored[n.Alias]
		if !ok { // an anchor comes before its aliases, so we are inside of it
			return 0, fmt.Errorf("line %d: anchor %q contains itself", n.Line, n.Value)
		}
		total += cost
	}
	for _, child := range n.Content {
		cost, err := m.cost(child)
		if err != nil {
			return 0, err
		}
		// Checked at every step, so that it cannot overflow.
		if total += cost; total > m.limit {
			break
		}
	}
	if total > m.limit {
		return 0, errors.New("the document's aliases and large mappings would take too long to decode")
	}
	if n.Anchor != "" {
		m.anchored[n] = total
	}
	return total, nil
}

// rescue makes an error of a panic. The library panics on types that it cannot encode, and
// parsers have been found to panic on bodies that nobody had thought of.
func rescue(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("yaml: %v", r)
	}
}
