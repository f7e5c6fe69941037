package service

import (
	"container/list"
	"time"
)

// The bounds of the results that a server with a Cache keeps in the process. What is beyond them is
// forgotten, the oldest first.
const (
	// CachedAnswers is how many results are kept.
	CachedAnswers = 1 << 12
	// CachedBytes is the most bytes of bodies of results that are kept. A larger one is not kept at all.
	CachedBytes = 64 << 20
)

// results keeps results by their keys. The zero value is ready to use.
type results struct {
	elements map[cacheKey]*list.Element
	order    list.List // of *keptResult, the one added first at the front
	bytes    int
}

type keptResult struct {
	key cacheKey
	result
}

func (r *results) len() int { return r.order.Len() }

// get returns the result of a key, if it was made after the time given.
func (r *results) get(key cacheKey, after time.Time) (result, bool) {
	e, ok := r.elements[key]
	if !ok {
		return result{}, false
	}
	kept := e.Value.(*keptResult)
	if !kept.made.After(after) {
		r.remove(e)
		return result{}, false
	}
	return kept.result, true
}

// add keeps a result for a key that has none.
func (r *results) add(key cacheKey, made result) {
	if len(made.body) > CachedBytes {
		return
	}
	if r.elements == nil {
		r.elements = make(map[cacheKey]*list.Element)
	}
	r.elements[key] = r.order.PushBack(&keptResult{key, made})
	r.bytes += len(made.body)
	for r.len() > CachedAnswers || r.bytes > CachedBytes {
		r.remove(r.order.Front())
	}
}

func (r *results) remove(e *list.Element) {
	kept := r.order.Remove(e).(*keptResult)
	delete(r.elements, kept.key)
	r.bytes -= len(kept.body)
}

// dropOld forgets the results that were not made after the time given.
func (r *results) dropOld(after time.Time) {
	for e := r.order.Front(); e != nil; {
		next := e.Next()
		if !e.Value.(*keptResult).made.After(after) {
			r.remove(e)
		}
		e = next
	}
}
