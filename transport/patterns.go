package transport

// patternRoot selects one of the tries: patterns of names that begin with "/" and
// of others can't match the same names.
type patternRoot struct {
	kind      Kind
	separator byte
}

// patternNode is a token of the patterns that share it and all tokens before it. Most have one child: a map for it
// would be four times as large as the rest.
type patternNode struct {
	star     *patternNode // the child whose token is "*"
	token    string       // of child
	child    *patternNode // the first other child, while it is there
	children map[string]*patternNode
	// here are the interests whose pattern ends with this token, rest those that
	// go on with a ">".
	here, rest *registrations
}

func (d *Dispatcher) changePattern(reg *registration, f func(*registrations) *registrations) {
	if d.patterns == nil {
		d.patterns = make(map[patternRoot]*patternNode)
	}
	root := patternRoot{reg.kind, separator(reg.name)}
	if reg.name == ">" {
		root.separator = 0 // stands for names of both forms
	}
	d.patterns[root] = d.patterns[root].change(reg.name, root.separator, true, f)
}

// change applies f at the end of pattern below n, and returns the node to keep in
// n's place: nil when nothing is filed under it any more.
func (n *patternNode) change(pattern string, sep byte, more bool, f func(*registrations) *registrations) *patternNode {
	if n == nil {
		n = &patternNode{}
	}
	switch {
	case !more:
		n.here = f(n.here)
	case pattern == ">":
		n.rest = f(n.rest)
	default:
		token, rest, more := cutToken(pattern, sep)
		if token == "*" {
			n.star = n.star.change(rest, sep, more, f)
		} else {
			n.setChild(token, n.childAt(token).change(rest, sep, more, f))
		}
	}
	if n.star == nil && n.child == nil && len(n.children) == 0 && n.here == nil && n.rest == nil {
		return nil
	}
	return n
}

// childAt returns the child with a token that is not "*", or nil.
func (n *patternNode) childAt(token string) *patternNode {
	if n.child != nil && n.token == token {
		return n.child
	}
	return n.children[token]
}

// setChild puts child where childAt finds it; nil removes it.
func (n *patternNode) setChild(token string, child *patternNode) {
	inMap := n.children[token] != nil
	switch {
	case !inMap && (n.child == nil || n.token == token):
		n.token, n.child = token, child
	case child == nil:
		delete(n.children, token)
	default:
		if n.children == nil {
			n.children = make(map[string]*patternNode)
		}
		n.children[token] = child
	}
}

// match calls visit with the registrations whose patterns stand for name.
func (n *patternNode) match(name string, sep byte, more bool, visit func([]*registration)) {
	if n == nil {
		return
	}
	if !more {
		visit(n.here.all())
		return
	}
	visit(n.rest.all())
	token, rest, more := cutToken(name, sep)
	n.childAt(token).match(rest, sep, more, visit)
	n.star.match(rest, sep, more, visit)
}
