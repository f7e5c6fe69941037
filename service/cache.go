package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

type cacheOption time.Duration

// Cache has results kept for ttl, and the same request answered with them, without the handler of
// Handle being run again. The same is what has the same service name, content type, file name and body, whatever its
// header fields: so it is for handlers to whom it makes no difference who asks, and whose results may be as old as ttl.
// Of requests that come while the handler is at work on the same one, each waits for its outcome; they count for Concurrency.
// Only results are kept: an error, or a panic, is the answer of those that have waited, and the next request
// runs the handler again. One that fails because the time of its own caller is over is run again for those
// that have more.
//
// Results are kept in the process, within CachedAnswers and CachedBytes, until the server is closed. Where the carrier
// has a place for them (transport.CachingCarrier), all servers of the name share them, also those of other processes,
// from shortly after they were made. Their clocks should agree: a result is used for longer than ttl by as much as its
// maker's is ahead, though never for longer than ttl after the place has forgotten it. What goes wrong with that place
// never fails a request: the handler is run, after half a second or a quarter of the caller's time, whichever is less.
//
// A ttl that is not greater than 0 is an error. Requests that are taken by Next know nothing of it.
func Cache(ttl time.Duration) ServerOption { return cacheOption(ttl) }

func (o cacheOption) server(s *serving) { s.cached, s.ttl = true, time.Duration(o) }

// cache runs a handler once for requests that are the same.
type cache struct {
	ttl    time.Duration
	shared *sharedResults // nil if the carrier has no place for them
	mishap func(m *transport.Message, p any) error

	mu      sync.Mutex
	flights map[cacheKey]*flight
	results results
	sweeper *time.Timer // nil while sweep need not be called
	closed  bool
}

// newCache returns the cache that the options ask for, or nil.
func newCache(s *Server, o *serving) (*cache, error) {
	if !o.cached {
		return nil, nil
	}
	if o.ttl <= 0 {
		return nil, fmt.Errorf("server %s: results can be kept for a time greater than 0, not for %v", s.name, o.ttl)
	}
	return &cache{
		ttl:     o.ttl,
		shared:  newSharedResults(s, o.ttl),
		mishap:  s.mishap,
		flights: make(map[cacheKey]*flight),
	}, nil
}

// cacheKey is what the same requests have in common.
type cacheKey [sha256.Size]byte

func cacheKeyOf(m *transport.Message) (key cacheKey) {
	hash := sha256.New()
	var length [8]byte
	for _, text := range [...]string{m.Name, m.ContentType, m.Filename} {
		binary.BigEndian.PutUint64(length[:], uint64(len(text)))
		hash.Write(length[:])
		hash.Write([]byte(text))
	}
	hash.Write(m.Body)
	hash.Sum(key[:0])
	return key
}

// String returns the key as those of transport.Cache are written.
func (k cacheKey) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// result is what a handler has returned.
type result struct {
	body        []byte
	contentType string
	made        time.Time
}

// flight is one run of the handler.
type flight struct {
	landed chan struct{} // closed when the rest is known
	result result
	err    error
	// unfinished: it failed because the time of its own request was over, or the server's.
	unfinished bool
}

// handler returns handler with the cache in front of it.
func (c *cache) handler(handler handlerFunc) handlerFunc {
	return func(ctx context.Context, m *transport.Message) ([]byte, string, error) {
		key := cacheKeyOf(m)
		for {
			kept, f, first := c.join(key)
			switch {
			case f == nil:
				return kept.body, kept.contentType, nil
			case first:
				return c.fly(ctx, m, key, f, handler)
			}
			select {
			case <-f.landed:
			case <-ctx.Done():
				return nil, "", fmt.Errorf("waiting for the result of the same request: %w", ctx.Err())
			}
			if !f.unfinished {
				return f.result.body, f.result.contentType, f.err
			}
		}
	}
}

// join returns the result that is kept for a key, or else the flight for it, and whether that is the caller's.
func (c *cache) join(key cacheKey) (kept result, f *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kept, ok := c.results.get(key, time.Now().Add(-c.ttl)); ok {
		return kept, nil, false
	}
	if f := c.flights[key]; f != nil {
		return result{}, f, false
	}
	f = &flight{landed: make(chan struct{})}
	c.flights[key] = f
	return result{}, f, true
}

// fly gets the result of a flight: the one that is shared, or the handler's. A handler that panics or ends its
// goroutine fails it, too.
func (c *cache) fly(ctx context.Context, m *transport.Message, key cacheKey, f *flight, handler handlerFunc) (body []byte, contentType string, err error) {
	returned, found := false, false
	defer func() {
		if !returned {
			err = c.mishap(m, recover())
			f.err = err
		}
		f.unfinished = f.err != nil && ctx.Err() != nil
		c.land(key, f)
		if f.err == nil && !found {
			c.shared.put(key, f.result)
		}
	}()
	if f.result, found = c.shared.get(ctx, key); !found {
		body, contentType, f.err = handler(ctx, m)
		if f.err == nil {
			f.result = result{bytes.Clone(body), contentType, time.Now()} // the body is only lent
		}
	}
	returned = true
	return f.result.body, f.result.contentType, f.err
}

// land ends a flight, and keeps its result.
func (c *cache) land(key cacheKey, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, key)
	if f.err == nil && !c.closed {
		c.results.add(key, f.result)
		if c.sweeper == nil {
			c.sweeper = time.AfterFunc(c.ttl, c.sweep)
		}
	}
	close(f.landed)
}

// sweep drops the results that are too old. It is called at intervals of the ttl while there are any.
func (c *cache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweeper = nil
	c.results.dropOld(time.Now().Add(-c.ttl))
	if c.results.len() > 0 {
		c.sweeper = time.AfterFunc(c.ttl, c.sweep)
	}
}

// close drops all results. Requests that are answered later share runs of the handler, which nobody comes after.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.results = results{}
	if c.sweeper != nil {
		c.sweeper.Stop() // if it runs already, it finds none
	}
}
