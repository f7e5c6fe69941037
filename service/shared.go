package service

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

const (
	// sharedTimeout is how long a look into the shared cache may take, or a result's way into it: who
	// has a cache is in a hurry.
	sharedTimeout = 500 * time.Millisecond
	// sharedPause is how long the shared cache is left alone after it has failed, so that it does not make
	// every request wait.
	sharedPause = 5 * time.Second
)

// sharedResults are the results that servers in several processes share.
type sharedResults struct {
	store transport.Cache
	name  string // of the service
	ttl   time.Duration
	log   *slog.Logger

	mu      sync.Mutex
	failing bool
	again   time.Time // when it is tried again, while it is failing
}

// newSharedResults returns those of a node, or nil if its carrier has no place for them.
func newSharedResults(node *transport.Node, name string, ttl time.Duration) *sharedResults {
	store := sharedCache(node.Carrier())
	if store == nil {
		return nil
	}
	return &sharedResults{store: store, name: name, ttl: ttl, log: node.Logger()}
}

// sharedCache returns what a carrier, or one behind it, has for the purpose, or nil.
func sharedCache(carrier transport.Carrier) transport.Cache {
	for {
		if caching, ok := carrier.(transport.CachingCarrier); ok {
			return caching.Cache()
		}
		front, ok := carrier.(interface{ Unwrap() transport.Carrier })
		if !ok {
			return nil
		}
		carrier = front.Unwrap()
	}
}

// get returns the result of a key if there is one that is not too old.
func (s *sharedResults) get(ctx context.Context, key cacheKey) (result, bool) {
	if s == nil || s.resting() {
		return result{}, false
	}
	limited, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	value, err := s.store.Get(limited, key.String())
	if ctx.Err() == nil { // otherwise it is no fault of the store
		s.note(err)
	}
	if err != nil {
		return result{}, false
	}
	made, ok := decodeResult(value)
	now := time.Now()
	if made.made.After(now) {
		made.made = now // by another clock
	}
	if !ok || now.Sub(made.made) >= s.ttl {
		return result{}, false
	}
	return made, true
}

// put shares a result. The caller's time may be over.
func (s *sharedResults) put(ctx context.Context, key cacheKey, made result) {
	if s == nil || s.resting() {
		return
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedTimeout)
	defer cancel()
	err := s.store.Put(limited, key.String(), made.encode(), s.ttl)
	if !errors.Is(err, transport.ErrTooLarge) { // that one stays in this process
		s.note(err)
	}
}

// resting reports whether the store has failed a short time ago. If not, and it had, it is tried by one caller.
func (s *sharedResults) resting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failing {
		return false
	}
	now := time.Now()
	if now.Before(s.again) {
		return true
	}
	s.again = now.Add(sharedPause)
	return false
}

// note takes down how an access has gone, and logs it when that has changed.
func (s *sharedResults) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.failing
	s.failing = err != nil
	if err != nil {
		s.again = time.Now().Add(sharedPause)
	}
	switch {
	case err != nil && !was:
		s.log.Warn("results can't be shared with other servers of the service, they are kept in this process alone", "name", s.name, "error", err)
	case err == nil && was:
		s.log.Info("results are shared with other servers of the service again", "name", s.name)
	}
}

// resultVersion is the first byte of a shared result. Behind it are the time at which it was made, in
// nanoseconds since 1970, its content type with the length in front, and its body.
const resultVersion = 1

func (r result) encode() []byte {
	b := make([]byte, 0, 1+8+binary.MaxVarintLen64+len(r.contentType)+len(r.body))
	b = binary.BigEndian.AppendUint64(append(b, resultVersion), uint64(r.made.UnixNano()))
	b = binary.AppendUvarint(b, uint64(len(r.contentType)))
	return append(append(b, r.contentType...), r.body...)
}

// decodeResult reads a shared result. What is none, or one of another version, may be in its place.
func decodeResult(b []byte) (result, bool) {
	if len(b) < 1+8 || b[0] != resultVersion {
		return result{}, false
	}
	made := time.Unix(0, int64(binary.BigEndian.Uint64(b[1:])))
	b = b[1+8:]
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return result{}, false
	}
	contentType, body := b[n:n+int(length)], b[n+int(length):]
	return result{body, string(contentType), made}, true
}
