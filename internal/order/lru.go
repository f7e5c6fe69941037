package order

import "container/list"

// lru is a map that knows which of its elements has not been used for longest. The zero value is empty, and
// small: there are four for each interest, most of which are never used.
type lru[K comparable, V any] struct {
	elements map[K]*list.Element
	order    *list.List // of *item[K, V], the one used last at the back; nil until there is one
}

type item[K comparable, V any] struct {
	key   K
	value V
}

// get returns the value of a key, or the zero value, and whether there is one.
func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.elements[key]
	if ok {
		value = e.Value.(*item[K, V]).value
	}
	return value, ok
}

// use makes the key the one used last.
func (l *lru[K, V]) use(key K) {
	if e, ok := l.elements[key]; ok {
		l.order.MoveToBack(e)
	}
}

// put adds a key that is not there, as the one used last.
func (l *lru[K, V]) put(key K, value V) {
	if l.elements == nil {
		l.elements, l.order = make(map[K]*list.Element), list.New()
	}
	l.elements[key] = l.order.PushBack(&item[K, V]{key, value})
}

// delete removes a key.
func (l *lru[K, V]) delete(key K) {
	if e, ok := l.elements[key]; ok {
		l.order.Remove(e)
		delete(l.elements, key)
	}
}

// oldest returns the one that has not been used for longest. There must be one.
func (l *lru[K, V]) oldest() (K, V) {
	i := l.order.Front().Value.(*item[K, V])
	return i.key, i.value
}

func (l *lru[K, V]) len() int { return len(l.elements) }

// all yields the elements, the one that has not been used for longest first.
func (l *lru[K, V]) all(yield func(K, V) bool) {
	if l.order == nil {
		return
	}
	for e := l.order.Front(); e != nil; {
		next := e.Next() // e may be removed
		if i := e.Value.(*item[K, V]); !yield(i.key, i.value) {
			return
		}
		e = next
	}
}
