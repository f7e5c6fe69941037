package email

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parser reads a configuration file and collects what is wrong with it, each error
// with file, line and key.
type parser struct {
	file string
	errs []error
}

func (p *parser) fail(n *yaml.Node, key string, err error) {
	where := fmt.Sprintf("%s:%d", p.file, max(n.Line, 1))
	if key != "" {
		where += ": " + key
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %w", where, err))
}

// value reads what stands behind a key.
type value func(p *parser, key string, n *yaml.Node)

// setting is a key that a section may have.
type setting struct {
	key      string
	value    value
	required bool
}

// section reads a mapping that has no other keys than those of settings.
func section(settings ...setting) value {
	return func(p *parser, key string, n *yaml.Node) {
		n = resolve(n)
		if n.Kind != yaml.MappingNode {
			p.fail(n, key, errors.New("this must be a section with keys of its own"))
			return
		}
		seen := make(map[string]bool)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i]
			path := join(key, name.Value)
			if seen[name.Value] {
				p.fail(name, path, errors.New("this key is here twice"))
				continue
			}
			seen[name.Value] = true
			if s := find(settings, name.Value); s != nil {
				s.value(p, path, n.Content[i+1])
			} else {
				p.fail(name, path, fmt.Errorf("unknown key; known here are %s", names(settings)))
			}
		}
		for _, s := range settings {
			if s.required && !seen[s.key] {
				p.fail(n, join(key, s.key), errors.New("this key is required"))
			}
		}
	}
}

func find(settings []setting, key string) *setting {
	for i := range settings {
		if settings[i].key == key {
			return &settings[i]
		}
	}
	return nil
}

func names(settings []setting) string {
	keys := make([]string, len(settings))
	for i, s := range settings {
		keys[i] = s.key
	}
	return strings.Join(keys, ", ")
}

func join(section, key string) string {
	if section == "" {
		return key
	}
	return section + "." + key
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// text reads a scalar as it is spelled, so that a password of digits needs no
// quotes, and passes it to set.
func text(set func(string) error) value {
	return func(p *parser, key string, n *yaml.Node) {
		if n = resolve(n); n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.Value == "" {
			p.fail(n, key, errors.New("this must be a text"))
		} else if err := set(n.Value); err != nil {
			p.fail(n, key, err)
		}
	}
}

// texts reads one text or a list of texts, and passes each to set.
func texts(set func(string) error) value {
	one := text(set)
	return func(p *parser, key string, n *yaml.Node) {
		if resolve(n).Kind != yaml.SequenceNode {
			one(p, key, n)
			return
		}
		list(func() value { return one })(p, key, n)
	}
}

// list reads a list, each element with a new value.
func list(element func() value) value {
	return func(p *parser, key string, n *yaml.Node) {
		if n = resolve(n); n.Kind != yaml.SequenceNode {
			p.fail(n, key, errors.New("this must be a list"))
			return
		}
		for i, e := range n.Content {
			element()(p, fmt.Sprintf("%s[%d]", key, i), e)
		}
	}
}

// some refuses an empty list, and leaves the rest to v.
func some(v value) value {
	return func(p *parser, key string, n *yaml.Node) {
		if r := resolve(n); r.Kind == yaml.SequenceNode && len(r.Content) == 0 {
			p.fail(r, key, errors.New("this list is empty"))
			return
		}
		v(p, key, n)
	}
}

// boolean reads true or false.
func boolean(into *bool) value {
	return func(p *parser, key string, n *yaml.Node) {
		if n = resolve(n); n.ShortTag() != "!!bool" || n.Decode(into) != nil {
			p.fail(n, key, errors.New("this must be true or false"))
		}
	}
}

// count reads a whole number that is not negative.
func count[T ~int | ~int64](into *T) value {
	return func(p *parser, key string, n *yaml.Node) {
		var number int64
		if n = resolve(n); n.ShortTag() != "!!int" || n.Decode(&number) != nil || number < 0 || int64(T(number)) != number {
			p.fail(n, key, errors.New("this must be a whole number, 0 or greater"))
			return
		}
		*into = T(number)
	}
}
